"""Embeddings of photos for `anytag search`, in one file per model."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from anytag._io import writing
from anytag._typing import Floats
from anytag.library.database import Database
from anytag.records import RecordFile

_LETTERS = 16  # characters of the hash in a file's name


def vector_file(database: Path, weights: str, width: int) -> RecordFile:
    """The vector file of a model, beside the database: one float32 record per slot."""
    return RecordFile(_folder(database) / f"{weights[:_LETTERS]}-{width}.f32", (width,), np.dtype("<f4"))


def keep(database: Path, weights: str, slots: Sequence[int | None], vectors: Sequence[Floats]) -> list[int]:
    """Write vectors to their slots; must be done before the rows that refer to them are committed.

    Slots of deleted photos are not used again: a backup of the database may refer to them.

    Args:
        slots: None appends.

    Returns:
        the slots.

    Raises:
        OutputError: the disk is full, or the folder cannot be written.
    """
    if not slots:
        return []
    file = vector_file(database, weights, len(vectors[0]))
    appended = itertools.count(len(file))
    numbers = [next(appended) if slot is None else slot for slot in slots]
    order = np.argsort(numbers)
    with writing(file.path):
        file.path.parent.mkdir(exist_ok=True)
        file.write(np.array(numbers)[order], np.stack(vectors)[order])
    return numbers


def forget_lost(database: Database) -> None:
    """Take slots from rows whose vectors are not on the disk, as after a backup of the database alone."""
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
    """Delete the vector files of models that no photo uses any more."""
    used = {one[:_LETTERS] for one in weights}
    for file in _folder(database).glob("*.f32"):
        if file.name[:_LETTERS] not in used:
            with suppress(OSError):  # open in another process, on Windows
                file.unlink()


def _folder(database: Path) -> Path:
    return database.with_name(f"{database.name}.vectors")
