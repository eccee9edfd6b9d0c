"""Format results as text."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial

import click

from anytag.cli.journal import CSV_COLUMNS, one_line
from anytag.results import TagResult, TagScore

Format = Callable[[TagResult], str]
"""Formats the result of a photo as complete lines, or ""."""

BOX_COLUMNS = ("left", "top", "right", "bottom")


def text(tags: TagResult) -> str:
    """Format as `path<TAB>dog 0.97, grass 0.83`; a failed photo has no line, its error goes to stderr."""
    if tags.error:
        return ""
    return f"{one_line(tags.path or '')}\t{', '.join(map(_scored, tags.shown))}\n"


def jsonl(tags: TagResult) -> str:
    """Format `TagResult.to_dict()` as one line of JSON."""
    return json.dumps(tags.to_dict(), ensure_ascii=False) + "\n"


def csv_rows(tags: TagResult, *, boxes: bool = False) -> str:
    """One row per tag, with `boxes` its box; one row for a photo without tags or one that failed."""
    photo = (tags.path, tags.width, tags.height, tags.model)
    failure = (tags.error.type, tags.error.message) if tags.error else ("", "")
    none = ("",) * len(BOX_COLUMNS) if boxes else ()
    rows = [
        (*photo, tag.id, tag.name, tag.score, tag.source, *failure, *((boxes and tag.box) or none))
        for tag in tags.tags
    ]
    return _csv(rows or [(*photo, "", "", "", "", *failure, *none)])


def terminal(tags: TagResult) -> str:
    """For terminals: the path, and below it the tags, coloured by score and wrapped to the width."""
    if tags.error:
        return ""
    width = shutil.get_terminal_size().columns
    lines, room = [""], 0
    for tag in tags.shown:
        cells = len(_scored(tag)) + 3
        if cells > room:
            lines.append("  ")
            room = width - 2
        lines[-1] += _coloured(tag)
        room -= cells
    lines[0] = style(visible(tags.path or ""), bold=True)
    return "\n".join([*lines, *([] if tags.tags else ["  " + style("no tags", dim=True)])]) + "\n"


FORMATS: dict[str, Format] = {
    "text": text,
    "jsonl": jsonl,
    "csv": csv_rows,
    "csv with boxes": partial(csv_rows, boxes=True),
}
NAMES = ("text", "jsonl", "csv")


def header(name: str, *, where: bool = False) -> str:
    """The header of a format."""
    return _csv([CSV_COLUMNS + BOX_COLUMNS if where else CSV_COLUMNS]) if name == "csv" else ""


def visible(path: str) -> str:
    """Escape non-printable characters, which could control a terminal."""
    if path.isprintable():
        return path
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in path)


def _scored(tag: TagScore) -> str:
    box = f" [{' '.join(map(str, tag.box))}]" if tag.box else ""
    return f"{tag.name} {tag.score:.2f}{box}"


def _coloured(tag: TagScore) -> str:
    colour = "green" if tag.score >= 0.8 else "yellow" if tag.score >= 0.5 else None
    return f"{style(tag.name, fg=colour)} {style(_scored(tag)[len(tag.name) + 1 :], dim=True)}   "


def style(what: str, *, fg: str | None = None, bold: bool | None = None, dim: bool | None = None) -> str:
    """Style text, unless NO_COLOR is set (https://no-color.org)."""
    return what if os.environ.get("NO_COLOR") else click.style(what, fg=fg, bold=bold, dim=dim)


def echo_error(message: str) -> None:
    """Print an error to stderr, red on a terminal."""
    click.echo(style(visible(message), fg="red"), err=True)


def _csv(rows: Sequence[Sequence[object]]) -> str:
    lines = io.StringIO()
    plain = csv.writer(lines, lineterminator="\n")
    quoted = csv.writer(lines, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in rows:
        # before Python 3.13, csv does not quote a carriage return if the line terminator is another
        odd = any("\r" in cell for cell in row if isinstance(cell, str))
        writer = quoted if odd else plain
        writer.writerow(row)
    return lines.getvalue()
