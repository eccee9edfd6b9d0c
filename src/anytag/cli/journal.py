"""Rows of an earlier run: which photos they are of, and whether a file holds such rows at all."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

_TAGS = re.compile(r"[^\t]+\t(|.+ \d\.\d\d( \[\d+ \d+ \d+ \d+\])?)")
_SENTENCE = re.compile(r"[^\t]+\.\w+\t[^\tA-Z]*[^\tA-Z.!?]?")  # as the wordpieces write, without a full stop
_MATCH = re.compile(r"[^\t]+\t-?\d\.\d\d\t.*")
_TEXT = {"tag": _TAGS, "caption": _SENTENCE, "match": _MATCH}
_KEYS = {
    "tag": {"path", "width", "height", "model", "tags", "error"},
    "caption": {"path", "width", "height", "model", "text", "error"},
    "match": {"path", "text", "score"},
}
CSV_COLUMNS = (
    "path", "width", "height", "model", "id", "name", "score", "source", "error_type", "error_message",
)  # fmt: skip
_ID, _ERROR = CSV_COLUMNS.index("id"), CSV_COLUMNS.index("error_type")
_LINE_BREAKS = str.maketrans({"\t": "\\t", "\n": "\\n", "\r": "\\r"})
_LOOKED_AT = 1000  # lines of a text that may be somebody's own


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one photo in a file.

    Attributes:
        start: of the first byte.
        end: behind the last.
        is_good: the photo was read.
    """

    start: int
    end: int
    is_good: bool = True


def is_result(command: str, format_: str) -> Callable[[Path], bool]:
    """Tells a file that `command` wrote in a format, by its content."""

    def look(path: Path) -> bool:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            if format_ == "text":
                lines = (line.rstrip("\n") for line in islice(file, _LOOKED_AT))
                return all(map(_TEXT[command].fullmatch, lines))
            first = file.readline()
        if format_ == "csv":
            return first.rstrip("\r\n").split(",")[: len(CSV_COLUMNS)] == list(CSV_COLUMNS)
        row = json.loads(first)
        return isinstance(row, dict) and _KEYS[command] <= row.keys()

    return look


def read(path: Path, format_: str) -> tuple[dict[str, Rows], int]:
    """The photos of an unfinished file, as `key` names them, and how many bytes are whole rows.

    A half row at the end, as a killed process leaves it, is not whole. Neither is the last photo of a CSV, of
    whose rows some may be missing.
    """
    photos: dict[str, Rows] = {}
    whole = 0
    with path.open("rb") as file:
        found = _csv(file) if format_ == "csv" else _lines(file, _json if format_ == "jsonl" else _plain)
        for name, rows in found:
            whole = rows.end
            if name is not None:
                photos[name] = rows
    return photos, whole


def one_line(path: str) -> str:
    """A path that neither ends a line nor a column."""
    return path.translate(_LINE_BREAKS)


def key(path: str, format_: str) -> str:
    """The name of a photo in rows of a format."""
    return one_line(path) if format_ == "text" else path


Reading = Callable[[str], tuple[str | None, bool]]
"""A line -> the photo's name, None where it has none, and whether it was read."""


def _lines(lines: Iterable[bytes], reading: Reading) -> Iterator[tuple[str | None, Rows]]:
    start = 0
    for line in lines:
        if not line.endswith(b"\n"):
            return
        name, is_good = reading(line.decode("utf-8", "surrogateescape"))
        yield name, Rows(start, start + len(line), is_good)
        start += len(line)


def _plain(line: str) -> tuple[str | None, bool]:
    return line.partition("\t")[0], True


def _json(line: str) -> tuple[str | None, bool]:
    try:
        row: Any = json.loads(line)
        return str(row["path"]), row["error"] is None
    except (ValueError, TypeError, KeyError):  # a row that something else damaged is made again
        return None, False


def _csv(lines: Iterable[bytes]) -> Iterator[tuple[str | None, Rows]]:
    """The header as rows without a name, then each photo once the next one has begun."""
    name: str | None = None
    ids: set[str] = set()
    rows = Rows(0, 0)
    for start, record in _records(lines):
        row = next(csv.reader([record.decode("utf-8", "surrogateescape")]), [])
        end = start + len(record)
        if start == 0 or len(row) < len(CSV_COLUMNS):
            yield None, Rows(start, end)
            continue
        if row[0] == name and row[_ID] not in ids:
            ids.add(row[_ID])
            rows = Rows(rows.start, end, rows.is_good)
            continue
        if name is not None:
            yield name, rows
        name, ids, rows = row[0], {row[_ID]}, Rows(start, end, not row[_ERROR])


def _records(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Whole records, whose quoted cells may hold line breaks, each with its place."""
    start, record = 0, b""
    for line in lines:
        record += line
        if record.count(b'"') % 2 == 0 and record.endswith(b"\n"):
            yield start, record
            start, record = start + len(record), b""
