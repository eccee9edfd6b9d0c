"""Rows -> batches of augmented photos, read by worker processes, always in the same order."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from anytag.data.files import photo_source
from anytag.data.rows import Row
from anytag.errors import AnytagError, ImageError
from anytag.images import load, prepare
from anytag.text_encoders.captions import clean_caption
from anytag.vocabulary import Vocabulary

from .annotation_store import Annotations
from .mapped import Columns, Selected
from .report import Reporter
from .shuffle import shuffled
from .targets import Labeler
from .transforms import augment

Indexes = npt.NDArray[np.int64]

RETRIES = 20
"""Photos tried in place of one that cannot be read."""
LOST = 3
"""Times in a row that workers may die without a batch between."""


@dataclass
class PixelBatch:
    """N photos and what is said of them.

    Attributes:
        pixels: uint8 N×3×S×S, one crop for student and teacher.
        tags: float32 N×K, 1 where a tag is in the photo.
        captions: a caption each, cleaned; "" where there is none.
        named: the tags that the caption names, for each photo.
        unread: photos that could not be read and were replaced, with the reason.
        numbers: of the photos in the corpus.
    """

    pixels: Tensor
    tags: Tensor
    captions: list[str]
    named: list[tuple[str, ...]]
    unread: list[str] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class _Item:
    pixels: npt.NDArray[np.uint8]
    targets: npt.NDArray[np.float32]
    caption: str
    named: tuple[int, ...]
    unread: tuple[str, ...]
    number: int


class Photos:
    """The rows of a corpus, read with a vocabulary.

    Args:
        held: held-out photos that are taken, at most.
        captioned: without the photos to train on that no caption tells of.

    Attributes:
        sha256: of the rows.
        root: the folder or URL that photos are named relative to.
        train, held: the rows' two parts; dev, val and test are held out.
        union: columns of the tags of each training row, from labels and all captions.
        parsed: columns of each caption of each training row.
    """

    def __init__(
        self,
        rows: Iterable[Row] | Annotations,
        root: Path | str,
        vocabulary: Vocabulary,
        *,
        held: int = 500,
        captioned: bool = False,
        report: Reporter | None = None,
    ) -> None:
        known = rows if isinstance(rows, Annotations) else Annotations.of(rows)
        self.root, self.vocabulary, self.sha256 = str(root), vocabulary, known.sha256
        wanted = ~known.held & (known.captions > 0) if captioned else ~known.held
        taught = np.flatnonzero(wanted).astype(np.int32)  # of 14 million rows 56 MB
        self.train: Sequence[Row] = known.rows(taught)
        self.held = [known[number] for number in np.flatnonzero(known.held)[:held].tolist()]
        labels = known.labels(vocabulary, report=report)
        self.parsed: Sequence[tuple[Columns, ...]] = Selected(labels.of_captions, taught)
        self.union: Sequence[Columns] = Selected(labels.of_photo, taught)
        labeler = Labeler(vocabulary)
        self.truth = np.zeros((len(self.held), len(vocabulary)), dtype=bool)
        for row, there in zip(self.held, self.truth, strict=True):
            there[sorted(labeler.present(row))] = True

    def __len__(self) -> int:
        return len(self.train)

    def targets(self, number: int) -> npt.NDArray[np.float32]:
        """K in [0, 1]: 1 for what labels or any caption say of a training photo."""
        there = np.zeros(len(self.vocabulary), np.float32)
        there[list(self.union[number])] = 1
        return there


class _Views(Dataset[_Item]):
    """Item (epoch, number): a view of a training photo that depends on seed, epoch and number alone."""

    def __init__(self, photos: Photos, *, size: int, seed: int) -> None:
        self.photos, self.size, self.seed = photos, size, seed

    def __getitem__(self, key: tuple[int, int]) -> _Item:
        epoch, wanted = key
        draw = random.Random(zlib.crc32(f"{self.seed} {epoch} {wanted}".encode()))
        unread: list[str] = []
        for _ in range(RETRIES):
            number = (wanted + len(unread)) % len(self.photos)
            row = self.photos.train[number]
            try:
                photo = load(photo_source(self.photos.root, row.image), near=2 * self.size)
            except AnytagError as error:
                unread.append(str(error))
                continue
            pixels = augment(photo, size=self.size, draw=draw)
            which = draw.randrange(len(row.captions)) if row.captions else None
            return _Item(
                pixels,
                self.photos.targets(number),
                clean_caption(row.captions[which]) if which is not None else "",
                self.photos.parsed[number][which] if which is not None else (),
                tuple(unread),
                number,
            )
        raise ImageError(f"{RETRIES} photos one after the other cannot be read, the last: {unread[-1]}")


@dataclass(frozen=True)
class _Keys:
    """What is read for each of some steps, found when it is its turn."""

    keys: Callable[[int], list[tuple[int, int]]]
    steps: range

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return map(self.keys, self.steps)

    def __len__(self) -> int:
        return len(self.steps)


class PixelCorpus:
    """Batches of one process.

    Args:
        photos: the rows.
        size: side of the square.
        batch_size: photos of a step, of all processes together.
        parsed_only: the tags of a photo are those of its drawn caption (Tag2Text), not of all that is known.
    """

    def __init__(
        self,
        photos: Photos,
        *,
        size: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        parsed_only: bool = False,
        report: Reporter | None = None,
    ) -> None:
        if batch_size % world:
            raise AnytagError(f"batch_size={batch_size} is not a multiple of the {world} processes")
        self.photos, self.batch_size, self.seed = photos, batch_size, seed
        self.rank, self.world, self.workers = rank, world, workers
        self.parsed_only, self.report = parsed_only, report or Reporter()
        self.views = _Views(photos, size=size, seed=seed)
        self.size = size
        self._told: set[str] = set()

    def steps_per_epoch(self) -> int:
        """Raises AnytagError where there are fewer photos than a batch takes."""
        steps = len(self.photos) // self.batch_size
        if steps == 0:
            count = len(self.photos)
            raise AnytagError(f"{count} photos make no batch of {self.batch_size}; give batch_size={count}")
        return steps

    def keys(self, step: int) -> list[tuple[int, int]]:
        """What this process reads for a step of the whole run."""
        epoch, at = divmod(step, self.steps_per_epoch())
        places = np.arange(at * self.batch_size + self.rank, (at + 1) * self.batch_size, self.world)
        some = shuffled(places, len(self.photos), seed=(self.seed, epoch))
        return [(epoch, number) for number in some.tolist()]

    def stream(self, first: int, last: int) -> Iterator[PixelBatch]:
        """Batches of the steps from `first` to `last`, exclusive; a lost worker is replaced.

        Raises:
            AnytagError: workers die again and again, or too many photos cannot be read.
        """
        lost = 0
        while first < last:
            try:
                for batch in self._loader(first, last):
                    self._tell(batch.unread)
                    first, lost = first + 1, 0
                    yield batch
            except (RuntimeError, EOFError, ConnectionError) as error:
                lost += 1
                # One that dies while it hands over a batch is known by a connection that ends.
                died = not isinstance(error, RuntimeError) or "worker" in str(error)
                if not died or lost >= LOST:
                    raise AnytagError(f"step {first}: photos cannot be read ({error})") from error
                self.report.say(f"Step {first}: a worker was lost ({error}); new ones go on from there.")

    def held_out(self, *, batch_size: int) -> Iterator[Tensor]:
        """Held-out photos of this process, resized: uint8 N×3×S×S; one that cannot be read is grey.

        Every process has as many, so the last ones may be the first again.
        """
        held = self.photos.held
        turns = -(-len(held) // self.world)
        mine = list(islice(cycle(held), self.rank, turns * self.world, self.world))
        for start in range(0, len(mine), batch_size):
            yield torch.from_numpy(np.stack([self._plain(row) for row in mine[start : start + batch_size]]))

    def _plain(self, row: Row) -> npt.NDArray[np.uint8]:
        try:
            return prepare(load(photo_source(self.photos.root, row.image), near=self.size), size=self.size)
        except AnytagError as error:
            self._tell([str(error)])
            return np.full((3, self.size, self.size), 128, np.uint8)

    def _tell(self, unread: Sequence[str]) -> None:
        for why in unread:
            if why not in self._told:
                self._told.add(why)
                self.report.say(f"Another photo takes its place: {why}")

    def _loader(self, first: int, last: int) -> DataLoader[Any]:
        return DataLoader(
            self.views,
            batch_sampler=_Keys(self.keys, range(first, last)),
            num_workers=self.workers,
            collate_fn=self._collate,
            prefetch_factor=4 if self.workers else None,
            pin_memory=torch.cuda.is_available(),
        )

    def _collate(self, items: Sequence[_Item]) -> PixelBatch:
        tags = torch.from_numpy(np.stack([item.targets for item in items]))
        if self.parsed_only:
            tags = torch.zeros_like(tags)
            for row, item in zip(tags, items, strict=True):
                row[list(item.named)] = 1
        return PixelBatch(
            torch.from_numpy(np.stack([item.pixels for item in items])),
            tags,
            [item.caption for item in items],
            [tuple(self.photos.vocabulary[n].name for n in item.named) for item in items],
            [why for item in items for why in item.unread],
            [item.number for item in items],
        )
