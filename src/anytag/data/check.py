"""What is wrong with the photos of rows, and a split that no copy of a photo crosses."""

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
KEPT_FIRST = ("test", "val", "dev")
"""Of copies in several splits, the one in the first of these stays: training must not see what is tested."""
_SIDE = 64  # pixels that a thumbnail is made of
_BLOCK = 256


@dataclass(frozen=True)
class Finding:
    """What is wrong with one photo.

    Attributes:
        image: as its row names it.
        problem: what.
        says: more of it; of a duplicate, the photo that it is a copy of.
    """

    image: str
    problem: Problem
    says: str


@dataclass(frozen=True)
class Look:
    """A photo that was read, or why it was not.

    Attributes:
        row: where it is named.
        hash: see `images.likeness.difference_hash`; zeros when it was not read.
        finding: None when all is well.
    """

    row: Row
    hash: Bytes
    finding: Finding | None = None


def look(row: Row, root: str) -> Look:
    """Reads one photo; never fails."""
    try:
        picture = load(photo_source(root, row.image), min_side=_SIDE).picture
        return Look(row, difference_hash(picture))
    except AnytagError as error:
        path = join(root, row.image)
        missing = not is_url(path) and not exists(path)
        problem: Problem = "missing" if missing else "unreadable"
        return Look(row, np.zeros(HASH_BYTES, np.uint8), Finding(row.image, problem, str(error)))


def look_at_all(rows: Iterable[Row], root: str, *, workers: int = 2) -> Iterator[Look]:
    """`look`, in threads and in order; holds a few hundred rows at a time."""
    iterator = iter(rows)
    with ThreadPoolExecutor(workers, thread_name_prefix="anytag-data") as pool:
        while block := list(islice(iterator, _BLOCK)):
            yield from pool.map(lambda row: look(row, root), block)


@dataclass(frozen=True)
class Report:
    """What a check found.

    Attributes:
        rows: how many were looked at.
        findings: one a photo that is missing, unreadable or a copy of one that stays, in the rows' order.
        good: for each row whether nothing was found.
    """

    rows: int
    findings: tuple[Finding, ...]
    good: tuple[bool, ...]

    def count(self, problem: Problem) -> int:
        """How many photos have this problem."""
        return sum(finding.problem == problem for finding in self.findings)

    def write(self, path: str) -> None:
        """Writes the findings as JSON lines: see `check_report`."""
        with open_write(path) as file:
            for finding in self.findings:
                text = json.dumps(asdict(finding), ensure_ascii=False)
                file.write(text.encode(errors="backslashreplace") + b"\n")


def check_report(path: str, inputs: Iterable[str]) -> None:
    """Whether a report may be written there: to be asked before long work.

    Raises:
        OutputError: `path` is an input, a photo, or something else than a report.
    """
    refuse_output(path, inputs, is_lines_of("problem"), "a report of anytag data check")


def check(rows: Iterable[Row], root: str, *, bits: int = NEAR_BITS, workers: int = 2) -> Report:
    """Looks at every photo.

    Args:
        rows: read once, as a stream; names and hashes are kept.
        root: the folder that photos are relative to.
        bits: hashes that differ in so many bits are copies; -1 looks for none.
        workers: threads.
    """
    per_photo: list[Finding | None] = []
    names: list[str] = []
    splits: list[str] = []
    hashes: list[Bytes] = []
    for look in look_at_all(rows, root, workers=workers):
        names.append(look.row.image)
        splits.append(look.row.split)
        hashes.append(look.hash)
        per_photo.append(look.finding)
    readable = np.array([number for number, finding in enumerate(per_photo) if finding is None], np.int64)
    if bits >= 0 and len(readable):
        first = groups(np.stack(hashes)[readable], bits=bits)
        for copy, original in _copies(readable, first, splits):
            per_photo[copy] = Finding(names[copy], "duplicate", names[original])
    findings = tuple(finding for finding in per_photo if finding is not None)
    return Report(len(per_photo), findings, tuple(finding is None for finding in per_photo))


def _copies(readable: Ints, first: Ints, splits: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Each copy with the photo that stays for it."""
    members: dict[int, list[int]] = {}
    for number, leader in zip(readable.tolist(), first.tolist(), strict=True):
        members.setdefault(leader, []).append(number)
    for group in members.values():
        original = min(group, key=lambda number: (_rank(splits[number]), number))
        yield from ((number, original) for number in group if number != original)


def _rank(split: str) -> int:
    return KEPT_FIRST.index(split) if split in KEPT_FIRST else len(KEPT_FIRST)


def parse_parts(text: str) -> dict[str, float]:
    """ "train=0.8,val=0.1,test=0.1" -> shares.

    Raises:
        AnytagError: not such a text, or the shares are not 1 together.
    """
    try:
        pairs = [pair.split("=") for pair in text.split(",")]
        parts = {name.strip(): float(share) for name, share in pairs}
    except ValueError as error:
        raise AnytagError(f"{text!r}: expected names and shares, as in train=0.8,val=0.1,test=0.1") from error
    whole = abs(sum(parts.values()) - 1) <= 1e-6 and min(parts.values()) >= 0  # and so no nan
    if not whole or "" in parts or len(parts) < len(pairs):
        raise AnytagError(f"{text!r}: the shares must be 1 together, and each have a name of its own")
    for name in parts:
        if name not in SPLITS.values():
            raise AnytagError(f"{text!r}: the part {name!r} is unknown; expected train, val, dev or test")
    return parts


def split(
    rows: Iterable[Row], root: str, parts: Mapping[str, float], *, bits: int = NEAR_BITS, workers: int = 2
) -> Iterator[Row]:
    """The rows with a split that depends on the photo alone: the same for any order, name and machine.

    Copies of a photo come into one part. A photo that cannot be read is placed by its name.

    Args:
        rows: kept in memory.
        root: the folder that photos are relative to.
        parts: name of each part and its share.
        bits: as for `check`.
        workers: threads.
    """
    looks = list(look_at_all(rows, root, workers=workers))
    keys = [one.hash.tobytes() if one.finding is None else one.row.image.encode() for one in looks]
    readable = np.array([number for number, one in enumerate(looks) if one.finding is None], np.int64)
    if len(readable):
        first = groups(np.stack([looks[number].hash for number in readable]), bits=bits)
        lowest: dict[int, bytes] = {}
        for number, leader in zip(readable, first, strict=True):
            lowest[leader] = min(keys[number], lowest.get(leader, keys[number]))
        for number, leader in zip(readable, first, strict=True):
            keys[number] = lowest[leader]
    return (replace(one.row, split=_part(key, parts)) for one, key in zip(looks, keys, strict=True))


def _part(key: bytes, parts: Mapping[str, float]) -> str:
    """Where a key falls, all keys being spread evenly over [0, 1)."""
    left = int.from_bytes(hashlib.sha256(key).digest()[:8]) / 2**64
    for name, share in parts.items():
        left -= share
        if left < 0:
            return name
    return name
