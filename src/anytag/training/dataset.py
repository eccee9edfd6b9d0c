"""Rows to learn from, and those that are held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from anytag.data.files import is_url
from anytag.data.formats import read
from anytag.data.rows import Row
from anytag.errors import AnytagError

from .report import Reporter, counted

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
    if not is_url(str(path)) and not Path(path).is_file():
        raise AnytagError(f"{path} does not exist: give a .csv of image,tags or a rows.jsonl")
    rows = list(read(str(path), source="own", split="", tag_list=tag_list))
    if not rows:
        raise AnytagError(f"{path} holds no rows; expected lines such as: photos/1.jpg,dog;beach")
    return rows


def usable_captions(rows: Sequence[Row], report: Reporter) -> list[Row]:
    """The rows without captions that say nothing, and with the beginning of those that are far too long."""
    blank, long = 0, 0
    made = []
    for row in rows:
        keep = [number for number, caption in enumerate(row.captions) if any(map(str.isalnum, caption))]
        blank += len(row.captions) - len(keep)
        long += sum(len(row.captions[number]) > LONGEST for number in keep)
        if len(keep) < len(row.captions) or any(len(caption) > LONGEST for caption in row.captions):
            captions = tuple(row.captions[number][:LONGEST] for number in keep)
            row = replace(row, captions=captions, parsed=tuple(row.parsed[n] for n in keep if row.parsed))
        made.append(row)
    if blank:
        report.say(f"{counted(blank, 'caption')} without a letter or digit: left out.")
    if long:
        report.say(
            f"{counted(long, 'caption')} of more than {LONGEST} letters: only their beginning is read."
        )
    return made


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
