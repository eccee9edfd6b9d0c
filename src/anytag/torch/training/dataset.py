"""Rows to learn from, and those that are held out."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from anytag.data.formats import read
from anytag.data.io import is_url, join
from anytag.data.rows import Row
from anytag.errors import AnytagError
from anytag.torch.training.report import Reporter, counted

HELD_OUT = ("dev", "val", "test")
LONGEST = 2000
"""Letters of a caption that are read; a caption of training has 30 words."""


def read_data(path: Path | str, *, tag_list: Sequence[str] = ()) -> list[Row]:
    """Rows of a file or URL, of any format that `anytag.data.formats` recognises: a .csv of image,tags.

    A row that does not name its split has "". Photos are named relative to the file.

    Args:
        tag_list: what the ids of published annotations number.

    Raises:
        AnytagError: the file cannot be read, or a row is wrong; names it.
    """
    return list(stream_data(path, tag_list=tag_list))


def stream_data(path: Path | str, *, tag_list: Sequence[str] = ()) -> Iterator[Row]:
    """`read_data`, a row at a time."""
    if not is_url(str(path)) and not Path(path).is_file():
        raise AnytagError(f"{path} does not exist: give a .csv of image,tags or a rows.jsonl")
    rows = read(str(path), source="own", split="", tag_list=tag_list)
    first = next(rows, None)
    if first is None:
        raise AnytagError(f"{path} holds no rows; expected lines such as: photos/1.jpg,dog;beach")
    yield first
    yield from rows


def copies(rows: Sequence[Row], root: str) -> npt.NDArray[np.int64]:
    """For each row the number of the first with the same photo: of one path, or the same bytes: N.

    Only files of one size are read and compared; a photo that is not there, or behind a URL, is its path.
    """
    first: dict[object, int] = {}
    sizes = [_size(join(root, row.image)) for row in rows]
    often = Counter(size for size in sizes if size is not None)
    found = np.arange(len(rows))
    for number, (row, size) in enumerate(zip(rows, sizes, strict=True)):
        path = join(root, row.image)
        place = first.setdefault(path if is_url(path) else os.path.realpath(path), number)
        if place == number and size is not None and often[size] > 1:
            place = first.setdefault((size, _digest(path)), number)
        found[number] = found[place]
    return found


def conflicts(rows: Sequence[Row], same: npt.NDArray[np.int64]) -> list[tuple[str, str]]:
    """Pairs of names of one photo that say other tags of it; `same` as `copies` gives it."""
    return [
        (rows[first].image, row.image)
        for row, first in zip(rows, same.tolist(), strict=True)
        if set(row.tags) != set(rows[first].tags)
    ]


def _size(path: str) -> int | None:
    try:
        return None if is_url(path) else Path(path).stat().st_size
    except (OSError, ValueError):
        return None


def _digest(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return path


def with_usable_captions(row: Row) -> tuple[Row, int, int]:
    """A row without captions that say nothing, and with the beginning of those that are far too long.

    Returns:
        the row, how many captions are left out, and how many are cut.
    """
    keep = [number for number, caption in enumerate(row.captions) if any(map(str.isalnum, caption))]
    blank = len(row.captions) - len(keep)
    long = sum(len(row.captions[number]) > LONGEST for number in keep)
    if blank or long:
        captions = tuple(row.captions[number][:LONGEST] for number in keep)
        row = replace(row, captions=captions, parsed=tuple(row.parsed[n] for n in keep if row.parsed))
    return row, blank, long


def say_unusable(blank: int, long: int, report: Reporter) -> None:
    """Says how many captions `with_usable_captions` left out and cut."""
    if blank:
        report.say(f"{counted(blank, 'caption')} without a letter or digit: left out.")
    if long:
        report.say(
            f"{counted(long, 'caption')} of more than {LONGEST} letters: only their beginning is read."
        )


def split_rows(
    rows: Sequence[Row], part: float, *, seed: int = 0, same: npt.NDArray[np.int64] | None = None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Numbers of the rows to learn from, and of those held out.

    Rows that name their split are obeyed (dev, val and test are held out), but that copies of a photo that
    is held out are not learned from. Otherwise `part` of the photos of each set of tags is held out, at
    random, but never its last one; copies come into one part.

    Args:
        same: for each row the number of the first with the same photo, as `copies` gives it; each has its
            own when None.
    """
    same = np.arange(len(rows)) if same is None else same
    if any(row.split in HELD_OUT for row in rows):
        held = np.array([row.split in HELD_OUT for row in rows])
        return np.flatnonzero(~np.isin(same, same[held])), np.flatnonzero(held)
    groups: dict[tuple[str, ...], list[int]] = {}
    for number in np.unique(same).tolist():
        groups.setdefault(rows[number].tags, []).append(number)
    draw = np.random.default_rng(seed)
    held_out: list[int] = []
    debt = 0.0  # so that many small groups give their share too
    for numbers in groups.values():
        debt += part * len(numbers)
        count = min(int(debt), len(numbers) - 1)
        debt -= count
        held_out += draw.permutation(numbers)[:count].tolist()
    held = np.isin(same, held_out)
    return np.flatnonzero(~held), np.flatnonzero(held)


def check_batch(photos: int, batch_size: int, *, parts: int = 1) -> None:
    """Whether photos to train on make a batch that can be taken in so many equal parts.

    Raises:
        AnytagError: they do not; says what to give.
    """
    if photos == 0:
        raise AnytagError(f"no photo to train on: rows with a split of {', '.join(HELD_OUT)} are held out")
    fits = min(batch_size, photos) // parts * parts
    if batch_size % parts:
        more = f"give batch_size={fits or parts}, or fewer parts"
        raise AnytagError(
            f"batch_size={batch_size} cannot be taken in {parts} equal parts (processes × accumulate): {more}"
        )
    if photos < batch_size:
        give = f"give batch_size={fits}" if fits else f"{parts} or more are needed"
        raise AnytagError(f"{photos} photos to train on make no batch of {batch_size}: {give}")
