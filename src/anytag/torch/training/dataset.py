"""Read rows and split them into training and held-out rows."""

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
MAX_CAPTION_LENGTH = 2000
"""Captions are truncated to this number of characters; a typical training caption has 30 words."""


def read_data(path: Path | str, *, tag_list: Sequence[str] = ()) -> list[Row]:
    """Read the rows of a file or URL in any format of `anytag.data.formats`, such as a .csv of image,tags.

    The split of a row without one is "". Paths of photos are relative to the file.

    Args:
        tag_list: the tags to which the ids of published annotations refer.

    Raises:
        AnytagError: the file cannot be read, or a row is invalid; the message names it.
    """
    return list(stream_data(path, tag_list=tag_list))


def stream_data(path: Path | str, *, tag_list: Sequence[str] = ()) -> Iterator[Row]:
    """Like `read_data`, one row at a time."""
    if not is_url(str(path)) and not Path(path).is_file():
        raise AnytagError(f"{path} does not exist: give a .csv of image,tags or a rows.jsonl")
    rows = read(str(path), source="own", split="", tag_list=tag_list)
    first = next(rows, None)
    if first is None:
        raise AnytagError(f"{path} holds no rows; expected lines such as: photos/1.jpg,dog;beach")
    yield first
    yield from rows


def find_copies(rows: Sequence[Row], root: str) -> npt.NDArray[np.int64]:
    """For each row the index of the first row with the same photo, by path or by content: N.

    Only files of equal size are read and compared. Missing photos and URLs are compared by path.
    """
    first: dict[object, int] = {}
    sizes = [_size(join(root, row.image)) for row in rows]
    frequency = Counter(size for size in sizes if size is not None)
    copies = np.arange(len(rows))
    for number, (row, size) in enumerate(zip(rows, sizes, strict=True)):
        path = join(root, row.image)
        original = first.setdefault(path if is_url(path) else os.path.realpath(path), number)
        if original == number and size is not None and frequency[size] > 1:
            original = first.setdefault((size, _digest(path)), number)
        copies[number] = copies[original]
    return copies


def conflicts(rows: Sequence[Row], same: npt.NDArray[np.int64]) -> list[tuple[str, str]]:
    """Pairs of paths of the same photo with different tags; `same` as `find_copies` returns it."""
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
    """The row without captions that have no letter or digit, and with very long ones truncated.

    Returns:
        the row, the number of removed captions, and the number of truncated ones.
    """
    keep = [number for number, caption in enumerate(row.captions) if any(map(str.isalnum, caption))]
    blank = len(row.captions) - len(keep)
    long = sum(len(row.captions[number]) > MAX_CAPTION_LENGTH for number in keep)
    if blank or long:
        captions = tuple(row.captions[number][:MAX_CAPTION_LENGTH] for number in keep)
        row = replace(row, captions=captions, parsed=tuple(row.parsed[n] for n in keep if row.parsed))
    return row, blank, long


def report_unusable(blank: int, long: int, report: Reporter) -> None:
    """Report how many captions `with_usable_captions` removed and truncated."""
    if blank:
        report.say(f"{counted(blank, 'caption')} without a letter or digit left out.")
    if long:
        report.say(f"{counted(long, 'caption')} truncated to {MAX_CAPTION_LENGTH} characters.")


def split_rows(
    rows: Sequence[Row], part: float, *, seed: int = 0, same: npt.NDArray[np.int64] | None = None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Indices of the training rows, and of the held-out rows.

    If rows have splits, these are used (dev, val and test are held out), except that copies of held-out
    photos are not trained on. Otherwise a random `part` of the photos of each set of tags is held out, but
    never all of them; copies of a photo are in the same part.

    Args:
        same: for each row the index of the first row with the same photo, as `find_copies` returns it; None:
            there are no copies.
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
    debt = 0.0  # carries fractions over, so that small groups contribute too
    for numbers in groups.values():
        debt += part * len(numbers)
        count = min(int(debt), len(numbers) - 1)
        debt -= count
        held_out += draw.permutation(numbers)[:count].tolist()
    held = np.isin(same, held_out)
    return np.flatnonzero(~held), np.flatnonzero(held)


def check_batch(photos: int, batch_size: int, *, parts: int = 1) -> None:
    """Check that there are enough training photos for a batch, and that it can be split into equal parts.

    Raises:
        AnytagError: there are not, or it cannot; the message says what to give.
    """
    if photos == 0:
        raise AnytagError(f"no training photos: rows with a split of {', '.join(HELD_OUT)} are held out")
    fits = min(batch_size, photos) // parts * parts
    if batch_size % parts:
        more = f"give batch_size={fits or parts}, or fewer parts"
        raise AnytagError(
            f"batch_size={batch_size} cannot be split into {parts} equal parts (processes × accumulate): "
            f"{more}"
        )
    if photos < batch_size:
        give = f"give batch_size={fits}" if fits else f"{parts} or more are needed"
        raise AnytagError(f"{photos} training photos are fewer than batch_size={batch_size}: {give}")
