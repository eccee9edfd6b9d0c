"""Rows as people write them: CSV of (image, tags), or rows.jsonl."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from anytag.data.rows import Row, read_rows
from anytag.errors import AnytagError

COLUMNS = ("image", "tags", "captions", "absent", "split", "source")
HELD_OUT = ("dev", "val", "test")


def read_data(path: Path) -> list[Row]:
    """Rows of a .jsonl file (one row an object) or of a table (.csv, or .tsv): image, tags parted by ';'.

    A table may begin with the names of its columns: image, tags, captions (parted by '|'), absent, split,
    source; without them it has image and tags. Photos are named relative to the file.

    Raises:
        AnytagError: the file cannot be read, or a line is not a row; names the line.
    """
    if not path.is_file():
        raise AnytagError(f"{path} does not exist: give a .csv of image,tags or a rows.jsonl")
    if path.suffix.lower() in (".jsonl", ".json"):
        return read_rows(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(
                _table(path, csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ","))
            )
    except (UnicodeDecodeError, csv.Error) as error:
        raise AnytagError(f"{path}: cannot be read as a table in UTF-8 ({error})") from error
    if not rows:
        raise AnytagError(f"{path} holds no rows; expected lines such as: photos/1.jpg,dog;beach")
    return rows


def _table(path: Path, lines: Iterable[Sequence[str]]) -> Iterator[Row]:
    names: tuple[str, ...] = COLUMNS[:2]
    for number, cells in enumerate(lines, 1):
        header = tuple(cell.strip().lower() for cell in cells)
        if number == 1 and "image" in header:
            if unknown := [name for name in header if name not in COLUMNS]:
                raise AnytagError(f"{path}: unknown column {unknown[0]!r}; known are {', '.join(COLUMNS)}")
            names = header
        elif any(cells):
            yield _row(path, number, dict(zip(names, cells, strict=False)), cells=len(cells), of=len(names))


def _row(path: Path, number: int, cell: dict[str, str], *, cells: int, of: int) -> Row:
    image = cell.get("image", "").strip()
    if not image or cells > of:
        raise AnytagError(
            f"{path}, line {number}: {cells} cells, expected {of}, the photo's path among them; "
            "tags are parted by ';'"
        )
    return Row(
        image=image,
        source=cell.get("source", "").strip() or "own",
        split=cell.get("split", "").strip(),
        captions=_parts(cell.get("captions", ""), "|"),
        tags=_parts(cell.get("tags", ""), ";"),
        absent=_parts(cell.get("absent", ""), ";"),
    )


def _parts(text: str, mark: str) -> tuple[str, ...]:
    parts = (" ".join(part.split()) for part in text.split(mark))
    return tuple(dict.fromkeys(part for part in parts if part))


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
