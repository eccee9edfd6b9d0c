"""Detect the dialect of a table: encoding, delimiter, and columns."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import IO, TextIO

from anytag.errors import AnytagError
from anytag.suffixes import IMAGE_SUFFIXES

COLUMNS = ("image", "tags", "captions", "absent", "split", "source")
_NAMES = {
    "image": "image photo picture path file filename filepath imagepath imagefile imagename photopath",
    "tags": "tags tag labels label keywords keyword classes class categories category",
    "captions": "captions caption sentences sentence text description",
    "absent": "absent",
    "split": "split subset partition",
    "source": "source dataset collection",
}
ROLES = {name: role for role, names in _NAMES.items() for name in names.split()}
"""Column names in the header -> what the column contains."""

_READ = partial(csv.reader, strict=True, skipinitialspace=True)
SEPARATORS = (";", "|", ",")
"""Separators of names within a cell; only the first is read, tables with others are refused."""
_HEAD = 1 << 16  # bytes that are examined
_SAMPLE = 50  # rows that are examined


@dataclass(frozen=True)
class Dialect:
    """The dialect of a table.

    Attributes:
        encoding: of the text.
        delimiter: between columns.
        skip: lines before the first row, such as Excel's "sep=;".
        columns: role of each column; "" for a column without a name, which must be empty.
        has_header: whether the first row contains column names.
    """

    encoding: str
    delimiter: str
    skip: int
    columns: tuple[str, ...]
    has_header: bool

    def rows(self, lines: TextIO) -> Iterator[tuple[int, list[str]]]:
        """Yield the rows of a file opened with newline="", each with the number of its last line.

        The header and empty rows are skipped.

        Raises:
            UnicodeDecodeError, csv.Error: not such a table, or a quote is not closed.
        """
        for _ in range(self.skip):
            lines.readline()
        reader = _READ(lines, delimiter=self.delimiter)
        filled = ((self.skip + reader.line_num, cells) for cells in reader if any(map(str.strip, cells)))
        yield from islice(filled, 1 if self.has_header else 0, None)


def delimiters_of(path: str) -> tuple[str, ...]:
    """The delimiters that a table with this suffix may have; the first is used for writing."""
    return ("\t",) if path.lower().endswith(".tsv") else (",", "\t", ";")


def dialect_of(file: IO[bytes], path: str) -> Dialect:
    """Detect the dialect from the first lines of a table; the file is rewound.

    Columns are identified by the header (`ROLES`). Without a header they are image and tags, and the first
    cells must look like photos, so that an unknown header is never taken for a row.

    Raises:
        AnytagError: the encoding, the columns or their names are not recognised; says what was found.
    """
    head = file.read(_HEAD)
    file.seek(0)
    encoding = _encoding(head, path)
    text = head.decode(encoding, errors="ignore")
    if len(head) == _HEAD:
        text = text[: max(text.rfind("\n"), text.rfind("\r")) + 1] or text
    skip, delimiters = _hint(text)
    text = "".join(text.splitlines(keepends=True)[skip:])
    if not skip:
        delimiters = delimiters_of(path)
    parsed = {delimiter: _parse(text, delimiter) for delimiter in delimiters}
    best = max(delimiters, key=lambda delimiter: _plausibility(parsed[delimiter]))
    rows = parsed[best]
    has_header = bool(rows) and "image" in _roles(rows[0])
    columns = _named(rows[0], path) if has_header else COLUMNS[:2]
    found = Dialect(encoding, best, skip, columns, has_header)
    _check(found, rows, path)
    return found


def _encoding(head: bytes, path: str) -> str:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    if b"\0" in head:
        raise AnytagError(
            f"{path} contains zero bytes: not UTF-8, nor UTF-16 with a byte order mark; save it as UTF-8"
        )
    return "utf-8-sig"


def _hint(text: str) -> tuple[int, tuple[str, ...]]:
    """Excel's first line "sep=;": the number of lines to skip, and the delimiter."""
    first = text.partition("\n")[0].strip().strip('"')
    if first.lower().startswith("sep=") and len(first) == 5:
        return 1, (first[4],)
    return 0, ()


def _parse(text: str, delimiter: str) -> list[list[str]]:
    """The first non-empty rows, as far as they can be parsed."""
    rows: list[list[str]] = []
    try:
        for cells in _READ(io.StringIO(text, newline=""), delimiter=delimiter):
            if any(map(str.strip, cells)):
                rows.append([cell.strip() for cell in cells])
            if len(rows) == _SAMPLE:
                break
    except csv.Error:
        pass
    return rows


def _plausibility(rows: Sequence[Sequence[str]]) -> tuple[bool, float]:
    """How much rows look like a table of photos: whether the header is known, and the share of photos."""
    if not rows:
        return False, 0.0
    return "image" in _roles(rows[0]), sum(is_photo(row[0]) for row in rows) / len(rows)


def _roles(header: Sequence[str]) -> list[str]:
    """The role of each column in a header; "" for unknown names."""
    if any(map(is_photo, header)):
        return []
    return [ROLES.get("".join(filter(str.isalnum, name.lower())), "") for name in header]


def is_photo(cell: str) -> bool:
    """Whether a cell is a photo: a path or URL with the suffix of an image, or a member of a shard."""
    end = cell.partition("?")[0].lower()
    return "::" in cell or any(end.endswith(suffix) for suffix in IMAGE_SUFFIXES)


def _named(header: Sequence[str], path: str) -> tuple[str, ...]:
    """The roles of a header's columns.

    Raises:
        AnytagError: a column is unknown, or two have the same role.
    """
    roles = _roles(header)
    if unknown := [name for name, role in zip(header, roles, strict=True) if name and not role]:
        raise AnytagError(
            f"{path}: unknown column {unknown[0]!r}; expected {', '.join(COLUMNS)}, or one of their other "
            f"names: {', '.join(ROLES)}"
        )
    if twice := [role for role in roles if role and roles.count(role) > 1]:
        names = [name for name, role in zip(header, roles, strict=True) if role == twice[0]]
        raise AnytagError(
            f"{path}: the columns {' and '.join(map(repr, names))} both contain {twice[0]}; remove one"
        )
    return tuple(roles)


def _check(found: Dialect, rows: Sequence[Sequence[str]], path: str) -> None:
    """Reject tables that would be misread."""
    if not found.has_header and rows and not is_photo(rows[0][0]):
        raise AnytagError(
            f"{path}: the first line, {found.delimiter.join(rows[0])[:80]!r}, has neither known columns nor "
            f"a photo; start the table with a line such as image,tags (columns: {', '.join(COLUMNS)})"
        )
    body = rows[1:] if found.has_header else rows
    for role in ("tags", "absent"):
        if role in found.columns:
            at = found.columns.index(role)
            _check_parts([row[at] for row in body if len(row) > at], role, path)


def _check_parts(cells: Sequence[str], role: str, path: str) -> None:
    """Reject lists of names with another separator than ';'."""
    right, *others = SEPARATORS
    if any(right in cell for cell in cells):
        return
    for mark in others:
        if found := next((cell for cell in cells if mark in cell), None):
            raise AnytagError(
                f"{path}: {found[:80]!r} contains {mark!r}, but {role} are separated by ';' (dog;beach); "
                "use ';', or a .jsonl file for names that contain it"
            )
