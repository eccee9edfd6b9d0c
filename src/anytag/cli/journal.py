"""Read the rows of an earlier run, to resume it or to recognise its output."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from anytag._io import Recognizer, begins_with, is_lines_of

_TAGS = re.compile(r"[^\t]+\t(|.+ \d\.\d\d( \[\d+ \d+ \d+ \d+\])?)")
_SENTENCE = re.compile(r"[^\t]+\.\w+\t[^\tA-Z]*[^\tA-Z.!?]?")  # captions are lower case, without a full stop
_MATCH = re.compile(r"[^\t]+\t-?\d\.\d\d\t.*")
_HIT = re.compile(r"[^\t]+\t-?\d\.\d\d(\t\d+ near cop(y|ies))?")
SAME_KEYWORDS = "same keywords, more fields"
"""Of a change, where no keyword is added or removed."""
_CHANGE = re.compile(rf"[^\t]+\t({SAME_KEYWORDS}|caption: [^\t]+|[+-][^\t]+)\t[^\t]+")
_TEXT = {"tag": _TAGS, "caption": _SENTENCE, "match": _MATCH, "search": _HIT, "changes": _CHANGE}
# Not more either: rows of `caption` and of `library export` have all keys of `tag` and others.
_KEYS = {
    "tag": {"path", "width", "height", "model", "tags", "error"},
    "caption": {"path", "width", "height", "model", "text", "tags", "error"},
    "match": {"path", "text", "score"},
    "search": {"path", "score", "copies", "tags"},
    "changes": {"path", "files", "added", "removed", "caption", "note", "error"},
}
_OPTIONAL = {"below"}  # of `tag`
CSV_COLUMNS = (
    "path", "width", "height", "model", "id", "name", "score", "source", "error_type", "error_message",
)  # fmt: skip
_ID, _NAME, _ERROR = map(CSV_COLUMNS.index, ("id", "name", "error_type"))
_LINE_BREAKS = str.maketrans({"\t": "\\t", "\n": "\\n", "\r": "\\r"})
_LINES_CHECKED = 1000  # of a text file that may be the user's


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one photo in a file.

    Attributes:
        start, end: range of bytes, `end` exclusive.
        is_good: whether the photo was read without error.
    """

    start: int
    end: int
    is_good: bool = True


def is_result(command: str, format_: str) -> Recognizer:
    """A predicate for files that `command` wrote in a format, by their content."""
    if format_ == "jsonl":
        return is_lines_of(*_KEYS[command], optional=_OPTIONAL)
    if format_ == "csv":
        return begins_with(",".join(CSV_COLUMNS).encode())

    def matches(path: Path) -> bool:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            lines = (line.rstrip("\n") for line in islice(file, _LINES_CHECKED))
            return all(map(_TEXT[command].fullmatch, lines))

    return matches


def read(path: Path, format_: str) -> tuple[dict[str, Rows], int]:
    """The photos of an unfinished file by `key`, and the number of bytes of complete rows.

    A truncated row at the end, after a killed process, does not count; nor does the last photo of a CSV,
    since some of its rows may be missing.
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
    """A path with tabs and line breaks escaped."""
    return path.translate(_LINE_BREAKS)


def key(path: str, format_: str) -> str:
    """The key of a photo in rows of a format."""
    return one_line(path) if format_ == "text" else path


LineParser = Callable[[str], tuple[str | None, bool]]
"""Parses a line to the photo's key, None if it has none, and whether the photo was read without error."""


def _lines(lines: Iterable[bytes], parse: LineParser) -> Iterator[tuple[str | None, Rows]]:
    start = 0
    for line in lines:
        if not line.endswith(b"\n"):
            return
        name, is_good = parse(line.decode("utf-8", "surrogateescape"))
        yield name, Rows(start, start + len(line), is_good)
        start += len(line)


def _plain(line: str) -> tuple[str | None, bool]:
    return line.partition("\t")[0], True


def _json(line: str) -> tuple[str | None, bool]:
    try:
        row: Any = json.loads(line)
        return str(row["path"]), row["error"] is None
    except (ValueError, TypeError, KeyError):  # a damaged row is computed again
        return None, False


def _csv(lines: Iterable[bytes]) -> Iterator[tuple[str | None, Rows]]:
    """The header with the name None, then each photo when the next one begins."""
    name: str | None = None
    tags: set[tuple[str, str]] = set()  # id and name: two requested names may be one tag
    rows = Rows(0, 0)
    for start, record in _records(lines):
        row = next(csv.reader([record.decode("utf-8", "surrogateescape")]), [])
        end = start + len(record)
        if start == 0 or len(row) < len(CSV_COLUMNS):
            yield None, Rows(start, end)
            continue
        tag = row[_ID], row[_NAME]
        if row[0] == name and tag not in tags:
            tags.add(tag)
            rows = Rows(rows.start, end, rows.is_good)
            continue
        if name is not None:
            yield name, rows
        name, tags, rows = row[0], {tag}, Rows(start, end, not row[_ERROR])


def _records(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Complete records, whose quoted cells may contain line breaks, with their offsets."""
    start, record = 0, b""
    for line in lines:
        record += line
        if record.count(b'"') % 2 == 0 and record.endswith(b"\n"):
            yield start, record
            start, record = start + len(record), b""
