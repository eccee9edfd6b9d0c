"""Rows -> batches of augmented photos, read by worker processes, always in the same order."""

from __future__ import annotations

import hashlib
import random
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from anytag.data.io import join, photo_source
from anytag.data.labels import Labeler, certain, label_matrix
from anytag.data.rows import Row
from anytag.errors import AnytagError, ImageError
from anytag.images import Photo, load, prepare
from anytag.text_encoders.captions import clean_caption
from anytag.torch.training.annotation_store import Annotations
from anytag.torch.training.augment import augment
from anytag.torch.training.batch import Batch
from anytag.torch.training.caption_reader import CaptionReader
from anytag.torch.training.dataset import check_batch
from anytag.torch.training.mapped import Columns, Selected
from anytag.torch.training.report import Reporter, Tally, counted
from anytag.torch.training.run import Run
from anytag.torch.training.shuffle import shuffled
from anytag.vocabulary import Vocabulary

RETRIES = 20
"""Photos tried in place of one that cannot be read."""
LOST = 3
"""Times in a row that workers may die without a batch between."""


@dataclass(frozen=True)
class _Item:
    pixels: npt.NDArray[np.uint8]
    targets: npt.NDArray[np.float32]
    caption: str
    named: tuple[int, ...]
    unread: tuple[tuple[str, str], ...]
    number: int
    parsed: bool  # whether the caption can have said tags


class Photos:
    """The rows of a corpus, read with a vocabulary.

    Args:
        held: held-out photos that are taken, at most.
        captioned: without the photos to train on that no caption tells of.
        soft: float16 N×K of all rows, a teacher's soft targets, which stand instead of what rows say.

    Attributes:
        sha256: of the rows.
        root: the folder or URL that photos are named relative to.
        train, held: the rows' two parts; dev, val and test are held out.
        union: columns of the tags of each training row, from labels and all captions; of published
            annotations their own union, as it is.
        parsed: columns of each caption of each training row: what the data says, or else the parser.
    """

    def __init__(
        self,
        rows: Iterable[Row] | Annotations,
        root: Path | str,
        vocabulary: Vocabulary,
        *,
        held: int = 500,
        captioned: bool = False,
        soft: npt.NDArray[np.float16] | None = None,
        report: Reporter | None = None,
    ) -> None:
        known = rows if isinstance(rows, Annotations) else Annotations.of(rows)
        self.root, self.vocabulary, self.sha256 = str(root), vocabulary, known.sha256
        selected = ~known.held & (known.captions > 0) if captioned else ~known.held
        taught = np.flatnonzero(selected).astype(np.int32)  # of 14 million rows 56 MB
        self.train: Sequence[Row] = known.rows(taught)
        self.held = [known[number] for number in np.flatnonzero(known.held)[:held].tolist()]
        labels = known.labels(vocabulary, report=report)
        self.parsed: Sequence[tuple[Columns, ...]] = Selected(labels.of_captions, taught)
        self.union: Sequence[Columns] = Selected(labels.of_photo, taught)
        self.labeler = labeler = Labeler(vocabulary)
        self.soft = None if soft is None else soft[taught]
        if soft is not None:
            self.truth = soft[known.held][: len(self.held)] > [tag.threshold for tag in vocabulary]
        else:
            self.truth = label_matrix(self.held, labeler, silence=certain).present

    def __len__(self) -> int:
        return len(self.train)

    def targets(self, number: int) -> npt.NDArray[np.float32]:
        """K in [0, 1]: 1 for what labels or any caption say of a training photo; or a teacher's."""
        if self.soft is not None:
            return np.asarray(self.soft[number], np.float32)
        there = np.zeros(len(self.vocabulary), np.float32)
        there[list(self.union[number])] = 1
        return there

    def known(self, number: int) -> npt.NDArray[np.bool_]:
        """Bool K: what labels say is in a training photo or absent from it."""
        row = self.train[number]
        known = self.targets(number) > 0
        known[sorted(self.labeler.absent(row))] = True
        return known


class _Views(Dataset[_Item]):
    """Item (epoch, number): a view of a training photo that depends on seed, epoch and number alone."""

    def __init__(self, photos: Photos, *, size: int, seed: int) -> None:
        self.photos, self.size, self.seed = photos, size, seed

    def __getitem__(self, key: tuple[int, int]) -> _Item:
        epoch, number = key
        draw = random.Random(zlib.crc32(f"{self.seed} {epoch} {number}".encode()))
        unread: list[tuple[str, str]] = []
        for _ in range(RETRIES):
            row = self.photos.train[number]
            try:
                photo = load(photo_source(self.photos.root, row.image), min_side=2 * self.size)
            except AnytagError as error:
                unread.append((row.image, _reason(error, row.image, self.photos.root)))
                number = draw.randrange(len(self.photos))  # its neighbours may be in the same lost folder
                continue
            return self._item(number, photo, draw, tuple(unread))
        last = ": ".join(unread[-1])
        raise ImageError(
            f"{RETRIES} photos, drawn at random, cannot be read, the last {last}; check that they lie where "
            f"the rows name them, relative to {self.photos.root or '.'}"
        )

    def _item(
        self, number: int, photo: Photo, draw: random.Random, unread: tuple[tuple[str, str], ...]
    ) -> _Item:
        row = self.photos.train[number]
        pixels = augment(photo, size=self.size, draw=draw)
        which = draw.randrange(len(row.captions)) if row.captions else None
        return _Item(
            pixels,
            self.photos.targets(number),
            clean_caption(row.captions[which]) if which is not None else "",
            self.photos.parsed[number][which] if which is not None else (),
            unread,
            number,
            parsed=which is not None and (bool(row.parsed) or says_tags(row.captions[which])),
        )


def says_tags(caption: str) -> bool:
    """Whether the parser can read a caption: it has a Latin letter."""
    return any(letter.isascii() and letter.isalpha() for letter in caption)


def _reason(error: AnytagError, image: str, root: str) -> str:
    """Why a photo cannot be read, without its name: the same for all that fail alike."""
    return str(error).removeprefix(f"{join(root, image)}: ")


@dataclass(frozen=True)
class _Keys:
    """What is read for each of some steps, found when it is its turn."""

    keys: Callable[[int], list[tuple[int, int]]]
    steps: range

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return map(self.keys, self.steps)

    def __len__(self) -> int:
        return len(self.steps)


class PhotoDataset:
    """Batches of one process: augmented crops, their tags, and the text that the objective reads.

    Args:
        photos: the rows.
        size: side of the square.
        batch_size: photos of a step, of all processes together.
        parsed_only: the tags of a photo are those of its drawn caption (Tag2Text), not of all that is known.
        reader: of captions; they stay as they are when None.
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
        reader: CaptionReader | None = None,
        report: Reporter | None = None,
    ) -> None:
        self.photos, self.batch_size, self.seed = photos, batch_size, seed
        self.rank, self.world, self.workers = rank, world, workers
        self.parsed_only, self.report = parsed_only, report or Reporter()
        self.views = _Views(photos, size=size, seed=seed)
        self.size, self.reader = size, reader
        self.unread = Tally()

    @property
    def key(self) -> str:
        """Of rows and tags."""
        tags = "\n".join(self.photos.vocabulary.ids)
        return hashlib.sha256(f"{self.photos.sha256}\n{tags}".encode()).hexdigest()

    @property
    def tallies(self) -> tuple[Tally, ...]:
        """What was passed over."""
        return (self.unread, *(() if self.reader is None else (self.reader.unknown,)))

    @property
    def truth(self) -> npt.NDArray[np.bool_]:
        """N×K of the held-out photos."""
        return self.photos.truth

    def steps_per_epoch(self) -> int:
        """Raises AnytagError where there are fewer photos than a batch takes."""
        check_batch(len(self.photos), self.batch_size, parts=self.world)
        return len(self.photos) // self.batch_size

    def keys(self, step: int) -> list[tuple[int, int]]:
        """What this process reads for a step of the whole run."""
        epoch, at = divmod(step, self.steps_per_epoch())
        places = np.arange(at * self.batch_size + self.rank, (at + 1) * self.batch_size, self.world)
        some = shuffled(places, len(self.photos), seed=(self.seed, epoch))
        return [(epoch, number) for number in some.tolist()]

    def stream(self, first: int, last: int) -> Iterator[Batch]:
        """Batches of the steps from `first` to `last`, exclusive; a lost worker is replaced.

        Raises:
            AnytagError: workers die again and again, or too many photos cannot be read.
        """
        lost = 0
        while first < last:
            try:
                for batch in self._loader(first, last):
                    self._tell(batch.unread)
                    yield batch if self.reader is None else self._read(batch, first, self.reader)
                    first, lost = first + 1, 0
            except (RuntimeError, EOFError, ConnectionError) as error:
                lost += 1
                # One that dies while it hands over a batch is known by a connection that ends.
                died = not isinstance(error, RuntimeError) or "worker" in str(error)
                if not died or lost >= LOST:
                    raise AnytagError(f"step {first}: photos cannot be read ({error})") from error
                self.report.say(f"Step {first}: a worker was lost ({error}); new ones go on from there.")

    def _read(self, batch: Batch, step: int, reader: CaptionReader) -> Batch:
        """With its captions read: of a momentum encoder more and more is heard in the first epoch (ALBEF)."""
        draw = np.random.default_rng([self.seed, step, self.rank])
        return reader.read(batch, draw=draw, trusted=min(1.0, step / self.steps_per_epoch()))

    def held_out(self, *, batch_size: int) -> Iterator[Tensor]:
        """Held-out photos of this process, resized: uint8 N×3×S×S; one that cannot be read is grey.

        Every process has as many, so the last ones may be the first again.
        """
        held = self.photos.held
        turns = -(-len(held) // self.world)
        numbers = list(islice(cycle(held), self.rank, turns * self.world, self.world))
        for start in range(0, len(numbers), batch_size):
            yield torch.from_numpy(
                np.stack([self._plain(row) for row in numbers[start : start + batch_size]])
            )

    def _plain(self, row: Row) -> npt.NDArray[np.uint8]:
        try:
            return prepare(
                load(photo_source(self.photos.root, row.image), min_side=self.size), size=self.size
            )
        except AnytagError as error:
            self._tell([(row.image, _reason(error, row.image, self.photos.root))], "It is measured as grey")
            return np.full((3, self.size, self.size), 128, np.uint8)

    def _tell(self, unread: Sequence[tuple[str, str]], then: str = "Another photo takes its place") -> None:
        """Says the first of each reason; the others are counted for the end of the run."""
        for image, why in unread:
            if self.unread.add(f"photos cannot be read ({why})", image):
                self.report.say(f"{then}: {image}: {why}")

    def _loader(self, first: int, last: int) -> DataLoader[Any]:
        return DataLoader(
            self.views,
            batch_sampler=_Keys(self.keys, range(first, last)),
            num_workers=self.workers,
            collate_fn=self._collate,
            prefetch_factor=4 if self.workers else None,
            pin_memory=torch.cuda.is_available(),
        )

    def _collate(self, items: Sequence[_Item]) -> Batch:
        tags, known = torch.from_numpy(np.stack([item.targets for item in items])), None
        if self.parsed_only:
            known = torch.ones_like(tags, dtype=torch.bool)
            for row, mask, item in zip(tags, known, items, strict=True):
                if item.parsed:
                    row[:] = 0
                    row[list(item.named)] = 1
                else:  # only what labels say is known: the others are no negatives
                    mask[:] = torch.from_numpy(self.photos.known(item.number))
        return Batch(
            pixels=torch.from_numpy(np.stack([item.pixels for item in items])),
            tags=tags,
            weight=known,
            captions=[item.caption for item in items],
            named=[tuple(self.photos.vocabulary[n].name for n in item.named) for item in items],
            numbers=[item.number for item in items],
            unread=[why for item in items for why in item.unread],
        )


def check_rows(rows: Annotations, run: Run, *, parts: int, report: Reporter) -> None:
    """Holds the rows against what the recipe needs, before any work is done.

    Raises:
        AnytagError: there are too few photos to train on, or none says what the recipe learns.
    """
    objective = run.recipe.objective
    captioned = ~rows.held & (rows.captions > 0)
    photos, captioned_photos = int((~rows.held).sum()), int(captioned.sum())
    if objective.matching is not None:
        check_captions(rows, run.data, report)
        photos = captioned_photos
    check_batch(photos, run.recipe.batch_size, parts=parts)
    if objective.captions and not captioned_photos:
        raise AnytagError(
            f"{run.data}: no photo to train on has a caption, which this recipe learns to write: give "
            "rows with captions, or objective.captions=false to learn tags alone"
        )
    if objective.aligns and not captioned_photos:
        report.say("No photo has a caption: the alignment term is left out.")
    elif objective.reads and captioned_photos < photos:
        report.say(
            f"{counted(photos - captioned_photos, 'photo')} without captions: only their labels are learned."
        )


def check_captions(rows: Annotations, data: Path | str, report: Reporter) -> None:
    """Says how many photos to train on no caption tells of, which have nothing to be matched with.

    Raises:
        AnytagError: none are left.
    """
    taught = ~rows.held
    without = int((taught & (rows.captions == 0)).sum())
    if without == taught.sum():
        raise AnytagError(f"{data}: no photo to train on has a caption, which this recipe needs")
    if without:
        report.say(f"{without} photos without captions are left out.")
