"""Rows in JSON lines, CSV and Parquet, read and written as streams."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from itertools import islice
from typing import Any

from anytag.data.dialect import COLUMNS, SEPARATORS, Dialect, delimiters_of, dialect_of
from anytag.data.io import open_read, open_write, public
from anytag.data.rows import OnError, Row, line_of, parse_lines, report_error, row_of
from anytag.errors import AnytagError, MissingExtraError

MARKS = {"tags": ";", "captions": "|", "absent": ";"}
"""Separators of names, or captions, within a cell."""
_BLOCK = 1000  # rows of Parquet in memory
_BUFFER = 1 << 20  # bytes of a column read at once; otherwise pyarrow reads whole columns


def read_jsonl(path: str, *, source: str, split: str, on_error: OnError | None = None) -> Iterator[Row]:
    """Read rows from JSON lines; arguments and errors as for `anytag.data.formats.read`."""
    with open_read(path) as file:
        yield from parse_lines(file, path, source=source, split=split, on_error=on_error)


def write_jsonl(path: str, rows: Iterable[Row]) -> None:
    """Write JSON lines."""
    with open_write(path) as file:
        file.writelines(map(line_of, rows))


def read_csv(path: str, *, source: str, split: str, on_error: OnError | None = None) -> Iterator[Row]:
    """Read rows from a table: image, then tags separated by ';'.

    The first line may be a header, see `dialect.ROLES`: image, tags, captions (separated by '|'), absent,
    split, source. The delimiter is a comma, tab or semicolon, and the text is UTF-8 or UTF-16.

    Raises:
        AnytagError: the table is not recognised or cannot be read.
    """
    with open_read(path) as file:
        dialect = dialect_of(file, path)
        lines = io.TextIOWrapper(file, encoding=dialect.encoding, newline="")
        try:
            for line, cells in dialect.rows(lines):
                yield from _csv_row(cells, dialect, f"{path}, line {line}", source, split, on_error)
        except UnicodeDecodeError as error:
            odd = error.object[error.start : error.start + 1]
            raise AnytagError(
                f"{path} is not in UTF-8: it contains the byte {odd!r}, as in Windows-1252 and other old "
                "encodings; save it as UTF-8 (in Excel: CSV UTF-8)"
            ) from error
        except csv.Error as error:
            raise AnytagError(f"{path}: cannot be read as a table ({error}): is a quote unclosed?") from error


def _csv_row(
    cells: list[str], dialect: Dialect, where: str, source: str, split: str, on_error: OnError | None
) -> Iterator[Row]:
    names = dialect.columns
    cell = dict(zip(names, map(str.strip, cells), strict=False))
    extra = [text for text in cells[len(names) :] if text.strip()]
    if extra or cell.pop("", "") or not cell.get("image"):
        expected = f"{where}: {len(cells)} cells, expected {len(names)}, including the photo's path"
        mark = repr(dialect.delimiter)
        report_error(f"{expected}; tags are separated by ';', and a cell with {mark} needs quotes", on_error)
        return
    parts = {key: _parts(cell.get(key, ""), mark) for key, mark in MARKS.items()}
    texts = {key: cell[key] for key in ("image", "source", "split") if cell.get(key)}
    try:
        yield row_of({**texts, **parts}, source=source, split=split)
    except ValueError as error:
        report_error(f"{where}: not a row ({error})", on_error, error)


def _parts(text: str, mark: str) -> tuple[str, ...]:
    parts = (" ".join(part.split()) for part in text.split(mark))
    return tuple(dict.fromkeys(part for part in parts if part))


def write_csv(path: str, rows: Iterable[Row]) -> None:
    """Write a table, without origins of tags.

    Raises:
        AnytagError: a tag contains ';', ',' or '|', or a caption '|'.
    """
    with open_write(path) as file:
        lines = io.TextIOWrapper(file, encoding="utf-8", newline="")
        table = csv.writer(lines, delimiter=delimiters_of(path)[0], lineterminator="\r\n")
        table.writerow(COLUMNS)
        table.writerows([_cell(row, name) for name in COLUMNS] for row in map(_check_unicode, rows))
        lines.detach()  # flushes, but does not close the file


def _check_unicode(row: Row) -> Row:
    """Return the row unchanged.

    Raises:
        AnytagError: its path is not valid Unicode, which only JSON can escape.
    """
    try:
        row.image.encode()
    except UnicodeEncodeError as error:
        raise AnytagError(f"{row.image!r} is not Unicode: write .jsonl") from error
    return row


def _cell(row: Row, name: str) -> str:
    value = getattr(row, name)
    if name not in MARKS:
        if value != value.strip():
            raise AnytagError(
                f"{value!r} begins or ends with a space, which CSV does not preserve: write .jsonl"
            )
        return str(value)
    marks = MARKS[name] if name == "captions" else SEPARATORS
    if odd := [(part, mark) for part in value for mark in marks if mark in part]:
        part, mark = odd[0]
        raise AnytagError(
            f"{row.image}: {part!r} contains {mark!r}, which may separate {name} in CSV: "
            "write .jsonl or .parquet"
        )
    return MARKS[name].join(value)


def read_parquet(
    path: str,
    *,
    source: str,
    split: str,
    groups: list[int] | None = None,
    on_error: OnError | None = None,
) -> Iterator[Row]:
    """Read rows from Parquet with some or all of the columns of `Row`; others are ignored.

    Args:
        groups: indices of the row groups to read; None is all.
    """
    with parquet_file(path) as table:
        names = [name for name in table.schema_arrow.names if name in (*Row.__slots__, "caption")]
        batches = table.iter_batches(batch_size=_BLOCK, row_groups=groups, columns=names)
        plain = (row for batch in batches for row in batch.to_pylist())
        for number, values in enumerate(plain, 1):
            try:
                yield row_of(values, source=source, split=split)
            except ValueError as error:
                report_error(f"{path}, row {number}: not a row ({error})", on_error, error)


@contextmanager
def parquet_file(path: str) -> Iterator[Any]:
    """Open a `pyarrow.parquet.ParquetFile` that holds only one page and one buffer per column in memory.

    Raises:
        AnytagError: the file is not Parquet, or cannot be read.
    """
    parquet = _parquet()
    with open_read(path) as file:
        try:
            yield parquet.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False)
        except _arrow_errors() as error:
            raise AnytagError(public(f"{path}: cannot be read as Parquet ({error})")) from error


def write_parquet(path: str, rows: Iterable[Row]) -> None:
    """Write Parquet, in blocks of 1,000 rows."""
    pyarrow, parquet = _pyarrow(), _parquet()
    schema = schema_of_rows()
    iterator = iter(rows)
    with open_write(path) as file, parquet.ParquetWriter(file, schema) as writer:
        while block := list(islice(iterator, _BLOCK)):
            columns = [columns_of(_check_unicode(row)) for row in block]
            writer.write_table(pyarrow.Table.from_pylist(columns, schema=schema))


def columns_of(row: Row) -> dict[str, Any]:
    """Convert a row to the cells of a Parquet table."""
    cleaned = [{"tag": name, "origin": origin} for name, origin in row.cleaned]
    parsed = [list(names) for names in row.parsed]
    return {**row.to_dict(), "origins": list(row.origins), "cleaned": cleaned, "parsed": parsed}


def schema_of_rows() -> Any:
    """The pyarrow schema of rows."""
    pyarrow = _pyarrow()
    text = pyarrow.string()
    pair = pyarrow.struct([("tag", text), ("origin", text)])
    lists = pyarrow.list_(pyarrow.list_(text))
    kinds: Mapping[str, Any] = {
        "image": text, "source": text, "split": text, "cleaned": pyarrow.list_(pair), "parsed": lists
    }  # fmt: skip
    return pyarrow.schema([(name, kinds.get(name, pyarrow.list_(text))) for name in Row.__slots__])


def _pyarrow() -> Any:
    try:
        return import_module("pyarrow")
    except ImportError as error:
        raise MissingExtraError("reading and writing Parquet", "data") from error


def _parquet() -> Any:
    _pyarrow()
    return import_module("pyarrow.parquet")


def _arrow_errors() -> tuple[type[Exception], ...]:
    return (_pyarrow().ArrowException, OSError)
