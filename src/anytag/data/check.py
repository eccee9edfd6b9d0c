"""Check the photos of rows, and split rows so that duplicates stay in one part."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Literal

import numpy as np

from anytag._io import is_lines_of
from anytag._typing import Bytes, Ints
from anytag.data.duplicates import NEAR_BITS, groups
from anytag.data.io import exists, is_url, join, open_write, photo_source, refuse_output
from anytag.data.rows import SPLITS, Row
from anytag.errors import AnytagError
from anytag.images import load
from anytag.images.likeness import HASH_BYTES, difference_hash

Problem = Literal["missing", "unreadable", "duplicate"]
KEEP_ORDER = ("test", "val", "dev")
"""Of duplicates in several splits the one in the first of these is kept, so no test photo is trained on."""
_SIDE = 64  # pixels from which the hash is computed
_BLOCK = 256


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem of one photo.

    Attributes:
        image: as in its row.
        problem: its kind.
        says: details; for a duplicate, the photo that it duplicates.
    """

    image: str
    problem: Problem
    says: str


@dataclass(frozen=True)
class CheckedPhoto:
    """The result of reading a photo.

    Attributes:
        row: its row.
        hash: see `images.likeness.difference_hash`; zeros if it could not be read.
        finding: None if there is no problem.
    """

    row: Row
    hash: Bytes
    finding: Finding | None = None


def check_photo(row: Row, root: str) -> CheckedPhoto:
    """Read one photo; never raises."""
    try:
        picture = load(photo_source(root, row.image), min_side=_SIDE).picture
        return CheckedPhoto(row, difference_hash(picture))
    except AnytagError as error:
        path = join(root, row.image)
        missing = not is_url(path) and not exists(path)
        problem: Problem = "missing" if missing else "unreadable"
        return CheckedPhoto(row, np.zeros(HASH_BYTES, np.uint8), Finding(row.image, problem, str(error)))


def check_photos(rows: Iterable[Row], root: str, *, workers: int = 2) -> Iterator[CheckedPhoto]:
    """Apply `check_photo` in threads, in order; keeps a few hundred rows in memory."""
    iterator = iter(rows)
    with ThreadPoolExecutor(workers, thread_name_prefix="anytag-data") as pool:
        while block := list(islice(iterator, _BLOCK)):
            yield from pool.map(lambda row: check_photo(row, root), block)


@dataclass(frozen=True)
class Report:
    """The results of a check.

    Attributes:
        rows: number of rows.
        findings: photos that are missing, unreadable or duplicates of a photo that is kept, in order.
        good: for each row, whether there is no finding.
    """

    rows: int
    findings: tuple[Finding, ...]
    good: tuple[bool, ...]

    def count(self, problem: Problem) -> int:
        """Number of photos with this problem."""
        return sum(finding.problem == problem for finding in self.findings)

    def write(self, path: str) -> None:
        """Write the findings as JSON lines; see `check_report`."""
        with open_write(path) as file:
            for finding in self.findings:
                text = json.dumps(asdict(finding), ensure_ascii=False)
                file.write(text.encode(errors="backslashreplace") + b"\n")


def check_report(path: str, inputs: Iterable[str]) -> None:
    """Check, before long work, that a report may be written to `path`.

    Raises:
        OutputError: `path` is an input, a photo, or an existing file that is not a report.
    """
    refuse_output(path, inputs, is_lines_of(*Finding.__slots__), "a report of anytag data check")


def check(rows: Iterable[Row], root: str, *, bits: int = NEAR_BITS, workers: int = 2) -> Report:
    """Check all photos.

    Args:
        rows: iterated once; names and hashes are kept in memory.
        root: folder that the photos' paths are relative to.
        bits: maximum number of differing hash bits of duplicates; -1 disables duplicate detection.
        workers: number of threads.
    """
    per_photo: list[Finding | None] = []
    names: list[str] = []
    splits: list[str] = []
    hashes: list[Bytes] = []
    for photo in check_photos(rows, root, workers=workers):
        names.append(photo.row.image)
        splits.append(photo.row.split)
        hashes.append(photo.hash)
        per_photo.append(photo.finding)
    readable = np.array([number for number, finding in enumerate(per_photo) if finding is None], np.int64)
    if bits >= 0 and len(readable):
        first = groups(np.stack(hashes)[readable], bits=bits)
        for copy, original in _copies(readable, first, list(zip(names, splits, strict=True))):
            per_photo[copy] = Finding(names[copy], "duplicate", names[original])
    findings = tuple(finding for finding in per_photo if finding is not None)
    return Report(len(per_photo), findings, tuple(finding is None for finding in per_photo))


def _copies(readable: Ints, first: Ints, photos: Sequence[tuple[str, str]]) -> Iterator[tuple[int, int]]:
    """Yield each duplicate with the photo that is kept.

    Args:
        readable: indices of the readable rows.
        first: for each of them the first row with such a photo.
        photos: name and split of each row; further rows of the same photo in the same split, such as one per
            caption, are no duplicates.
    """
    members: dict[int, list[int]] = {}
    for number, leader in zip(readable.tolist(), first.tolist(), strict=True):
        members.setdefault(leader, []).append(number)
    for group in members.values():
        original = min(group, key=lambda number: (_rank(photos[number][1]), number))
        yield from ((number, original) for number in group if photos[number] != photos[original])


def _rank(split: str) -> int:
    return KEEP_ORDER.index(split) if split in KEEP_ORDER else len(KEEP_ORDER)


def parse_parts(text: str) -> dict[str, float]:
    """Parse "train=0.8,val=0.1,test=0.1" into shares.

    Raises:
        AnytagError: another format, or the shares do not sum to 1.
    """
    try:
        pairs = [pair.split("=") for pair in text.split(",")]
        parts = {name.strip(): float(share) for name, share in pairs}
    except ValueError as error:
        raise AnytagError(f"{text!r}: expected names and shares, as in train=0.8,val=0.1,test=0.1") from error
    whole = abs(sum(parts.values()) - 1) <= 1e-6 and min(parts.values()) >= 0  # which excludes NaN
    if not whole or "" in parts or len(parts) < len(pairs):
        raise AnytagError(f"{text!r}: the shares must sum to 1, and their names must be unique")
    for name in parts:
        if name not in SPLITS.values():
            raise AnytagError(f"{text!r}: the part {name!r} is unknown; expected train, val, dev or test")
    return parts


def split(
    rows: Iterable[Row], root: str, parts: Mapping[str, float], *, bits: int = NEAR_BITS, workers: int = 2
) -> Iterator[Row]:
    """Assign splits that depend only on the photo: not on order, name or machine.

    Duplicates go to one part. A photo that cannot be read is assigned by its name.

    Args:
        rows: kept in memory.
        root: folder that the photos' paths are relative to.
        parts: name of each part and its share.
        bits: as for `check`.
        workers: number of threads.
    """
    photos = list(check_photos(rows, root, workers=workers))
    keys = [one.hash.tobytes() if one.finding is None else one.row.image.encode() for one in photos]
    readable = np.array([number for number, one in enumerate(photos) if one.finding is None], np.int64)
    if len(readable):
        first = groups(np.stack([photos[number].hash for number in readable]), bits=bits)
        lowest: dict[int, bytes] = {}
        for number, leader in zip(readable, first, strict=True):
            lowest[leader] = min(keys[number], lowest.get(leader, keys[number]))
        for number, leader in zip(readable, first, strict=True):
            keys[number] = lowest[leader]
    return (replace(one.row, split=_part(key, parts)) for one, key in zip(photos, keys, strict=True))


def _part(key: bytes, parts: Mapping[str, float]) -> str:
    """The part of a key; keys are distributed uniformly over [0, 1)."""
    left = int.from_bytes(hashlib.sha256(key).digest()[:8]) / 2**64
    for name, share in parts.items():
        left -= share
        if left < 0:
            return name
    return name
