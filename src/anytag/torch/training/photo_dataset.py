"""Dataset of augmented photos, read by worker processes in a reproducible order."""

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
from anytag.torch.training.mapped import Columns, Subset
from anytag.torch.training.report import Reporter, Tally, counted
from anytag.torch.training.run import Run
from anytag.torch.training.shuffle import shuffled
from anytag.vocabulary import Vocabulary

RETRIES = 20
"""Number of photos that are tried before giving up."""
MAX_HELD_OUT = 500
"""Number of held-out photos that are used, by default."""
MAX_WORKER_FAILURES = 3
"""Number of consecutive worker failures, without a batch in between, that end a run."""


@dataclass(frozen=True)
class _Item:
    pixels: npt.NDArray[np.uint8]
    targets: npt.NDArray[np.float32]
    caption: str
    caption_columns: tuple[int, ...]
    unreadable: tuple[tuple[str, str], ...]
    number: int
    parsed: bool  # whether tags could be parsed from the caption


class Photos:
    """Training rows and held-out rows with their tags.

    Args:
        held: maximum number of held-out photos; of more rows, random ones.
        captioned: leave out training photos without captions.
        soft: float16 N×K for all rows, a teacher's soft targets, used instead of the rows' tags.

    Attributes:
        sha256: hash of the rows.
        root: the folder or URL to which paths of photos are relative.
        train, held: training rows and held-out rows (dev, val and test).
        union: tag columns of each training row, from labels and all captions; for published annotations
            their own union.
        parsed: tag columns of each caption of each training row, from the data or else from the parser.
        truth: bool N×K, the tags of the held-out rows.
    """

    def __init__(
        self,
        rows: Iterable[Row] | Annotations,
        root: Path | str,
        vocabulary: Vocabulary,
        *,
        held: int = MAX_HELD_OUT,
        captioned: bool = False,
        soft: npt.NDArray[np.float16] | None = None,
        report: Reporter | None = None,
    ) -> None:
        annotations = rows if isinstance(rows, Annotations) else Annotations.from_rows(rows)
        self.root, self.vocabulary, self.sha256 = str(root), vocabulary, annotations.sha256
        held_out = annotations.held
        selected = ~held_out & (annotations.captions > 0) if captioned else ~held_out
        train = np.flatnonzero(selected).astype(np.int32)  # 56 MB for 14 million rows
        self.train: Sequence[Row] = annotations.rows(train)
        numbers = _sample(np.flatnonzero(held_out), held)
        if len(numbers) < held_out.sum() and report is not None:
            report.say(f"{len(numbers)} of {held_out.sum()} held-out rows are used, drawn at random.")
        self.held = [annotations[number] for number in numbers.tolist()]
        labels = annotations.labels(vocabulary, report=report)
        self.parsed: Sequence[tuple[Columns, ...]] = Subset(labels.of_captions, train)
        self.union: Sequence[Columns] = Subset(labels.of_photo, train)
        self.labeler = labeler = Labeler(vocabulary)
        self.soft = None if soft is None else soft[train]
        if soft is not None:
            self.truth = soft[numbers] > [tag.threshold for tag in vocabulary]
        else:
            self.truth = label_matrix(self.held, labeler, silence=certain).present

    def __len__(self) -> int:
        return len(self.train)

    def targets(self, number: int) -> npt.NDArray[np.float32]:
        """Targets K in [0, 1] of a training photo: 1 for tags of labels or captions; or a teacher's."""
        if self.soft is not None:
            return np.asarray(self.soft[number], np.float32)
        targets = np.zeros(len(self.vocabulary), np.float32)
        targets[list(self.union[number])] = 1
        return targets

    def labelled(self, number: int) -> npt.NDArray[np.bool_]:
        """Bool K: tags whose presence or absence in a training photo is known."""
        row = self.train[number]
        known = self.targets(number) > 0
        known[sorted(self.labeler.absent(row))] = True
        return known


def _sample(numbers: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """At most `count` of the numbers, the same ones in every run; rows may be sorted by class."""
    return np.sort(np.random.default_rng(0).permutation(numbers)[:count])


class _Views(Dataset[_Item]):
    """Item (epoch, number): a view of a training photo, a function of seed, epoch and number only."""

    def __init__(self, photos: Photos, *, size: int, seed: int) -> None:
        self.photos, self.size, self.seed = photos, size, seed

    def __getitem__(self, key: tuple[int, int]) -> _Item:
        epoch, number = key
        draw = random.Random(zlib.crc32(f"{self.seed} {epoch} {number}".encode()))
        unreadable: list[tuple[str, str]] = []
        for _ in range(RETRIES):
            row = self.photos.train[number]
            try:
                photo = load(photo_source(self.photos.root, row.image), min_side=2 * self.size)
            except AnytagError as error:
                unreadable.append((row.image, _reason(error, row.image, self.photos.root)))
                number = draw.randrange(len(self.photos))  # neighbours may be in the same missing folder
                continue
            return self._item(number, photo, draw, tuple(unreadable))
        last = ": ".join(unreadable[-1])
        raise ImageError(
            f"{RETRIES} random photos cannot be read, the last one is {last}; check the paths in the rows, "
            f"which are relative to {self.photos.root or '.'}"
        )

    def _item(
        self, number: int, photo: Photo, draw: random.Random, unreadable: tuple[tuple[str, str], ...]
    ) -> _Item:
        row = self.photos.train[number]
        pixels = augment(photo, size=self.size, draw=draw)
        which = draw.randrange(len(row.captions)) if row.captions else None
        return _Item(
            pixels,
            self.photos.targets(number),
            clean_caption(row.captions[which]) if which is not None else "",
            self.photos.parsed[number][which] if which is not None else (),
            unreadable,
            number,
            parsed=which is not None and (bool(row.parsed) or is_parsable(row.captions[which])),
        )


def is_parsable(caption: str) -> bool:
    """Whether the parser can parse a caption, that is, whether it has a Latin letter."""
    return any(letter.isascii() and letter.isalpha() for letter in caption)


def _reason(error: AnytagError, image: str, root: str) -> str:
    """The reason of an error without the photo's name, for grouping."""
    return str(error).removeprefix(f"{join(root, image)}: ")


@dataclass(frozen=True)
class _StepKeys:
    """Keys of the items of each step, computed lazily."""

    keys: Callable[[int], list[tuple[int, int]]]
    steps: range

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return map(self.keys, self.steps)

    def __len__(self) -> int:
        return len(self.steps)


class PhotoDataset:
    """The batches of one process: augmented crops, targets, and inputs made from captions.

    Args:
        photos: the rows.
        size: side of the square in pixels.
        batch_size: photos per step over all processes.
        parsed_only: targets are the tags of the drawn caption only (Tag2Text), instead of all known tags.
        reader: adds inputs made from captions; None: they are not used.
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
        self.unreadable = Tally()

    @property
    def key(self) -> str:
        """Hash of rows and tags."""
        tags = "\n".join(self.photos.vocabulary.ids)
        return hashlib.sha256(f"{self.photos.sha256}\n{tags}".encode()).hexdigest()

    @property
    def tallies(self) -> tuple[Tally, ...]:
        """Counts of unreadable photos and of unknown captions."""
        return (self.unreadable, *(() if self.reader is None else (self.reader.unknown,)))

    @property
    def truth(self) -> npt.NDArray[np.bool_]:
        """Bool N×K, the tags of the held-out photos."""
        return self.photos.truth

    def steps_per_epoch(self) -> int:
        """Number of full batches; raises an AnytagError if there is none."""
        check_batch(len(self.photos), self.batch_size, parts=self.world)
        return len(self.photos) // self.batch_size

    def keys(self, step: int) -> list[tuple[int, int]]:
        """Keys (epoch, number) of this process's items for a step of the run."""
        epoch, at = divmod(step, self.steps_per_epoch())
        positions = np.arange(at * self.batch_size + self.rank, (at + 1) * self.batch_size, self.world)
        numbers = shuffled(positions, len(self.photos), seed=(self.seed, epoch))
        return [(epoch, number) for number in numbers.tolist()]

    def stream(self, first: int, last: int) -> Iterator[Batch]:
        """Batches of the steps from `first` to `last`, exclusive; failed workers are restarted.

        Raises:
            AnytagError: workers fail repeatedly, or too many photos cannot be read.
        """
        lost = 0
        while first < last:
            try:
                for batch in self._loader(first, last):
                    self._report(batch.unreadable)
                    yield batch if self.reader is None else self._read(batch, first, self.reader)
                    first, lost = first + 1, 0
            except (RuntimeError, EOFError, ConnectionError) as error:
                lost += 1
                # A worker that dies while sending a batch is noticed by a closed connection.
                died = not isinstance(error, RuntimeError) or "worker" in str(error)
                if not died or lost >= MAX_WORKER_FAILURES:
                    raise AnytagError(f"step {first}: photos cannot be read ({error})") from error
                self.report.say(f"Step {first}: a worker failed ({error}); workers are restarted.")

    def _read(self, batch: Batch, step: int, reader: CaptionReader) -> Batch:
        """Add inputs made from captions; the momentum encoder's weight grows in the first epoch (ALBEF)."""
        draw = np.random.default_rng([self.seed, step, self.rank])
        return reader.read(batch, draw=draw, trusted=min(1.0, step / self.steps_per_epoch()))

    def held_out(self, *, batch_size: int) -> Iterator[Tensor]:
        """Resized held-out photos of this process, uint8 N×3×S×S; an unreadable one is grey.

        All processes have equally many, so the last ones may repeat the first.
        """
        held = self.photos.held
        count = -(-len(held) // self.world)
        rows = list(islice(cycle(held), self.rank, count * self.world, self.world))
        for start in range(0, len(rows), batch_size):
            yield torch.from_numpy(np.stack([self._plain(row) for row in rows[start : start + batch_size]]))

    def _plain(self, row: Row) -> npt.NDArray[np.uint8]:
        try:
            return prepare(
                load(photo_source(self.photos.root, row.image), min_side=self.size), size=self.size
            )
        except AnytagError as error:
            self._report([(row.image, _reason(error, row.image, self.photos.root))], "It is measured as grey")
            return np.full((3, self.size, self.size), 128, np.uint8)

    def _report(
        self, unreadable: Sequence[tuple[str, str]], then: str = "Another photo takes its place"
    ) -> None:
        """Report the first photo of each reason; the others are counted for the end of the run."""
        for image, why in unreadable:
            if self.unreadable.add(f"photos cannot be read ({why})", image):
                self.report.say(f"{then}: {image}: {why}")

    def _loader(self, first: int, last: int) -> DataLoader[Any]:
        return DataLoader(
            self.views,
            batch_sampler=_StepKeys(self.keys, range(first, last)),
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
                    row[list(item.caption_columns)] = 1
                else:  # unlabelled tags are unknown, not negatives
                    mask[:] = torch.from_numpy(self.photos.labelled(item.number))
        return Batch(
            pixels=torch.from_numpy(np.stack([item.pixels for item in items])),
            tags=tags,
            weight=known,
            captions=[item.caption for item in items],
            caption_tags=[
                tuple(self.photos.vocabulary[n].name for n in item.caption_columns) for item in items
            ],
            numbers=[item.number for item in items],
            unreadable=[photo for item in items for photo in item.unreadable],
        )


def check_rows(rows: Annotations, run: Run, *, parts: int, report: Reporter) -> None:
    """Check that the rows have what the recipe needs.

    Raises:
        AnytagError: there are too few training photos, or none has what the recipe learns.
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
            f"{run.data}: no training photo has a caption, but this recipe trains a caption head: give rows "
            "with captions, or objective.captions=false to learn only tags"
        )
    if objective.aligns and not captioned_photos:
        report.say("No photo has a caption: the alignment term is left out.")
    elif objective.reads and captioned_photos < photos:
        report.say(
            f"{counted(photos - captioned_photos, 'photo')} without captions: only their labels are used."
        )


def check_captions(rows: Annotations, data: Path | str, report: Reporter) -> None:
    """Report how many training photos are left out because they have no captions.

    Raises:
        AnytagError: none has a caption.
    """
    train = ~rows.held
    without = int((train & (rows.captions == 0)).sum())
    if without == train.sum():
        raise AnytagError(f"{data}: no training photo has a caption, which this recipe needs")
    if without:
        report.say(f"{without} photos without captions are left out.")
