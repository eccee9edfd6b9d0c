"""Rows to learn from, and those that are held out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from anytag.data.files import is_url
from anytag.data.formats import read
from anytag.data.rows import Row
from anytag.errors import AnytagError

HELD_OUT = ("dev", "val", "test")


def read_data(path: Path | str) -> list[Row]:
    """Rows of a file or URL, of any format that `anytag.data.formats` recognises: a .csv of image,tags.

    A row that does not name its split has "". Photos are named relative to the file.

    Raises:
        AnytagError: the file cannot be read, or a row is wrong; names it.
    """
    return list(stream_data(path))


def stream_data(path: Path | str) -> Iterator[Row]:
    """`read_data`, a row at a time."""
    if not is_url(str(path)) and not Path(path).is_file():
        raise AnytagError(f"{path} does not exist: give a .csv of image,tags or a rows.jsonl")
    rows = read(str(path), source="own", split="")
    first = next(rows, None)
    if first is None:
        raise AnytagError(f"{path} holds no rows; expected lines such as: photos/1.jpg,dog;beach")
    yield first
    yield from rows


def split_rows(
    rows: Sequence[Row], part: float, *, seed: int = 0
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Numbers of the rows to learn from, and of those held out.

    Rows that name their split are obeyed (dev, val and test are held out). Otherwise `part` of the photos of
    each set of tags is held out, at random, but never its last one.
    """
    if any(row.split in HELD_OUT for row in rows):
        held = np.array([row.split in HELD_OUT for row in rows])
        return np.flatnonzero(~held), np.flatnonzero(held)
    groups: dict[tuple[str, ...], list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(row.tags, []).append(number)
    draw = np.random.default_rng(seed)
    held_out: list[int] = []
    debt = 0.0  # so that many small groups give their share too
    for numbers in groups.values():
        debt += part * len(numbers)
        count = min(int(debt), len(numbers) - 1)
        debt -= count
        held_out += draw.permutation(numbers)[:count].tolist()
    held = np.isin(np.arange(len(rows)), held_out)
    return np.flatnonzero(~held), np.flatnonzero(held)
