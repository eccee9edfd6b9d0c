"""Results become text, and text goes to the terminal, a pipe or a file."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TextIO

import click

from anytag.results import Tags, TagScore

Format = Callable[[Tags], str]
"""One photo's result -> whole lines, or nothing."""

CSV_COLUMNS = (
    "path",
    "width",
    "height",
    "model",
    "id",
    "name",
    "score",
    "source",
    "error_type",
    "error_message",
)
BOX_COLUMNS = ("left", "top", "right", "bottom")

_LINE_BREAKS = str.maketrans({"\t": "\\t", "\n": "\\n", "\r": "\\r"})


def one_line(path: str) -> str:
    """A path that neither ends a line nor a column."""
    return path.translate(_LINE_BREAKS)


def text(tags: Tags) -> str:
    """`path<TAB>dog 0.97, grass 0.83`; a photo that failed has no line, its error is on stderr."""
    if tags.error:
        return ""
    return f"{one_line(tags.path or '')}\t{', '.join(map(_scored, tags.tags))}\n"


def jsonl(tags: Tags) -> str:
    """`Tags.to_dict()` as one line of JSON."""
    return json.dumps(tags.to_dict(), ensure_ascii=False) + "\n"


def csv_rows(tags: Tags, *, boxes: bool = False) -> str:
    """A row a tag, on request with its box; a photo without tags, and one that failed, has one row."""
    photo = (tags.path, tags.width, tags.height, tags.model)
    failure = (tags.error.type, tags.error.message) if tags.error else ("", "")
    none = ("",) * len(BOX_COLUMNS) if boxes else ()
    rows = [
        (*photo, tag.id, tag.name, tag.score, tag.source, *failure, *((boxes and tag.box) or none))
        for tag in tags.tags
    ]
    return _csv(rows or [(*photo, "", "", "", "", *failure, *none)])


def terminal(tags: Tags) -> str:
    """For eyes: the path, and below it the tags, coloured by score and wrapped at the terminal's width."""
    if tags.error:
        return ""
    width = shutil.get_terminal_size().columns
    lines, room = [""], 0
    for tag in tags.tags:
        cells = len(_scored(tag)) + 3
        if cells > room:
            lines.append("  ")
            room = width - 2
        lines[-1] += _painted(tag)
        room -= cells
    lines[0] = _style(visible(tags.path or ""), bold=True)
    return "\n".join([*lines, *([] if tags.tags else ["  " + _style("no tags", dim=True)])]) + "\n"


FORMATS: dict[str, Format] = {
    "text": text,
    "jsonl": jsonl,
    "csv": csv_rows,
    "csv with boxes": partial(csv_rows, boxes=True),
}
NAMES = ("text", "jsonl", "csv")


def header(name: str, *, where: bool = False) -> str:
    """What stands before the first row of a format."""
    return _csv([CSV_COLUMNS + BOX_COLUMNS if where else CSV_COLUMNS]) if name == "csv" else ""


def visible(path: str) -> str:
    """A path that cannot make a terminal do anything but show it."""
    if path.isprintable():
        return path
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in path)


def _scored(tag: TagScore) -> str:
    box = f" [{' '.join(map(str, tag.box))}]" if tag.box else ""
    return f"{tag.name} {tag.score:.2f}{box}"


def _painted(tag: TagScore) -> str:
    colour = "green" if tag.score >= 0.8 else "yellow" if tag.score >= 0.5 else "white"
    return f"{_style(tag.name, fg=colour)} {_style(_scored(tag)[len(tag.name) + 1 :], dim=True)}   "


def _style(what: str, *, fg: str | None = None, bold: bool | None = None, dim: bool | None = None) -> str:
    return what if "NO_COLOR" in os.environ else click.style(what, fg=fg, bold=bold, dim=dim)


def _csv(rows: Sequence[Sequence[object]]) -> str:
    lines = io.StringIO()
    plain = csv.writer(lines, lineterminator="\n")
    quoted = csv.writer(lines, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in rows:
        # before Python 3.13 a carriage return is not quoted where lines end otherwise
        odd = any("\r" in cell for cell in row if isinstance(cell, str))
        writer = quoted if odd else plain
        writer.writerow(row)
    return lines.getvalue()


def _on_unfit(name: str) -> str:
    # file names need not be Unicode: text and csv give their bytes back, JSON has an escape for them
    return "backslashreplace" if name == "jsonl" else "surrogateescape"


class Stdout:
    """Writes to stdout, each row at once."""

    def __init__(self, name: str) -> None:
        self.is_terminal = sys.stdout.isatty()
        if isinstance(sys.stdout, io.TextIOWrapper):
            if self.is_terminal:
                sys.stdout.reconfigure(errors="backslashreplace")
            else:
                sys.stdout.reconfigure(encoding="utf-8", errors=_on_unfit(name))

    def __enter__(self) -> Stdout:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def write(self, lines: str) -> None:
        click.echo(lines, nl=False, color=True if self.is_terminal else None)


class File:
    """Writes a file as rows come, each whole and at once, to `NAME.part` beside it, renamed when all is done.

    So `NAME` is never half a result. When the work is interrupted, `NAME.part` keeps the rows that were done,
    and an earlier `NAME` stays. A pipe or device is written directly.
    """

    is_terminal = False

    def __init__(self, path: Path, name: str) -> None:
        self.path = path.resolve()  # a link stays a link
        is_special = self.path.exists() and not self.path.is_file()
        self.part = self.path if is_special else self.path.with_name(self.path.name + ".part")
        self._format = name
        self._file: TextIO

    def __enter__(self) -> File:
        try:
            self._file = self.part.open(
                "w", encoding="utf-8", errors=_on_unfit(self._format), newline="\n", buffering=1
            )
        except OSError as error:
            raise click.UsageError(f"Cannot write {self.part}: {error.strerror}.") from error
        return self

    def write(self, lines: str) -> None:
        self._file.write(lines)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if self.part == self.path:
            return
        if error is None:
            self.part.replace(self.path)
        elif self.part.stat().st_size:
            click.echo(f"What was done is in {self.part}", err=True)
        else:
            self.part.unlink()
