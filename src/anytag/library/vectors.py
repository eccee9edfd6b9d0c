"""A vector of each photo, in a file for each model's weights: what `anytag search` compares."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from anytag._io import writing
from anytag._typing import Floats
from anytag.library.database import Database
from anytag.records import RecordFile

_LETTERS = 16  # of a hash, in the name of a file


def vector_file(database: Path, weights: str, width: int) -> RecordFile:
    """Where the vectors of a model lie: beside the database, float32, a record a slot."""
    return RecordFile(_folder(database) / f"{weights[:_LETTERS]}-{width}.f32", (width,), np.dtype("<f4"))


class Slots:
    """Places in a vector file, the free ones first.

    Args:
        taken: places that photos hold.
    """

    def __init__(self, taken: Iterable[int]) -> None:
        numbers = np.fromiter(taken, np.int64)
        self._end = int(numbers.max()) + 1 if len(numbers) else 0
        free = np.setdiff1d(np.arange(self._end), numbers)
        self._free: list[int] = free[::-1].tolist()

    def take(self) -> int:
        """A place that no photo holds."""
        if self._free:
            return self._free.pop()
        self._end += 1
        return self._end - 1


def keep(database: Path, weights: str, slots: Sequence[int], vectors: Sequence[Floats]) -> None:
    """Writes vectors at their slots; the rows that name these are committed after.

    Raises:
        OutputError: the disk is full, or the folder cannot be written.
    """
    if not slots:
        return
    file = vector_file(database, weights, len(vectors[0]))
    order = np.argsort(slots)
    with writing(file.path):
        file.path.parent.mkdir(exist_ok=True)
        file.write(np.array(slots, np.int64)[order], np.stack(vectors)[order])


def forget_lost(database: Database) -> None:
    """Takes slots from rows whose vectors are not on the disk, as after a backup of the database alone."""
    with database.transaction() as connection:
        for weights in [one for (one,) in connection.execute("SELECT DISTINCT weights FROM models")]:
            connection.execute(
                "UPDATE photos SET slot = NULL WHERE slot >= ? "
                "AND model IN (SELECT id FROM models WHERE weights = ?)",
                (_count(database.path, weights), weights),
            )


def _count(database: Path, weights: str) -> int:
    """Vectors of a model that are on the disk."""
    files = _folder(database).glob(f"{weights[:_LETTERS]}-*.f32")
    widths = {int(file.stem.rpartition("-")[2]) for file in files}
    return max((len(vector_file(database, weights, width)) for width in widths), default=0)


def tidy(database: Path, weights: Iterable[str]) -> None:
    """Removes the vectors of models that no photo was tagged by any more."""
    used = {one[:_LETTERS] for one in weights}
    for file in _folder(database).glob("*.f32"):
        if file.name[:_LETTERS] not in used:
            with suppress(OSError):  # somebody reads it, on Windows
                file.unlink()


def _folder(database: Path) -> Path:
    return database.with_name(f"{database.name}.vectors")
