"""Results become text."""

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
"""One photo's result -> whole lines, or nothing."""

BOX_COLUMNS = ("left", "top", "right", "bottom")


def text(tags: TagResult) -> str:
    """`path<TAB>dog 0.97, grass 0.83`; a photo that failed has no line, its error is on stderr."""
    if tags.error:
        return ""
    return f"{one_line(tags.path or '')}\t{', '.join(map(_scored, tags.shown))}\n"


def jsonl(tags: TagResult) -> str:
    """`Tags.to_dict()` as one line of JSON."""
    return json.dumps(tags.to_dict(), ensure_ascii=False) + "\n"


def csv_rows(tags: TagResult, *, boxes: bool = False) -> str:
    """A row a tag, on request with its box; a photo without tags, and one that failed, has one row."""
    photo = (tags.path, tags.width, tags.height, tags.model)
    failure = (tags.error.type, tags.error.message) if tags.error else ("", "")
    none = ("",) * len(BOX_COLUMNS) if boxes else ()
    rows = [
        (*photo, tag.id, tag.name, tag.score, tag.source, *failure, *((boxes and tag.box) or none))
        for tag in tags.tags
    ]
    return _csv(rows or [(*photo, "", "", "", "", *failure, *none)])


def terminal(tags: TagResult) -> str:
    """For eyes: the path, and below it the tags, coloured by score and wrapped at the terminal's width."""
    if tags.error:
        return ""
    width = shutil.get_terminal_size().columns
    lines, room = [""], 0
    for tag in tags.shown:
        cells = len(_scored(tag)) + 3
        if cells > room:
            lines.append("  ")
            room = width - 2
        lines[-1] += _painted(tag)
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
    colour = "green" if tag.score >= 0.8 else "yellow" if tag.score >= 0.5 else None
    return f"{style(tag.name, fg=colour)} {style(_scored(tag)[len(tag.name) + 1 :], dim=True)}   "


def style(what: str, *, fg: str | None = None, bold: bool | None = None, dim: bool | None = None) -> str:
    """Coloured, unless the user wants no colours (https://no-color.org)."""
    return what if os.environ.get("NO_COLOR") else click.style(what, fg=fg, bold=bold, dim=dim)


def complain(message: str) -> None:
    """A line on stderr about something that went wrong, red on a terminal."""
    click.echo(style(visible(message), fg="red"), err=True)


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
