"""`anytag tag`: photos in, tags out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from anytag.cli import outputs, paths, sinks, stream, writers
from anytag.cli.draw import Drawings
from anytag.errors import VocabularyError

if TYPE_CHECKING:
    from anytag.vocabulary import Asked

_READABLE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("tag", short_help="Tag photos.")
@click.argument("photos", metavar="PATH...", nargs=-1, required=True)
@click.option("--tags", metavar='"A,B,C"', help="Ask exactly these tags, and give each with its score.")
@click.option(
    "--tags-from",
    metavar="FILE",
    type=_READABLE,
    help='The same from a file, one tag a line: "name" or "name: description; description".',
)
@click.option("--also", metavar='"X,Y"', help="Ask the built-in vocabulary and these tags.")
@click.option("--top-k", metavar="N", type=click.IntRange(min=1), help="At most N tags a photo.")
@click.option(
    "--threshold",
    metavar="X",
    type=click.FloatRange(0, 1),
    help="Leave out tags that score less; 0 gives every tag.  [default: each tag's own]",
)
@click.option(
    "--where", is_flag=True, help="Give the box around each tag: left, top, right, bottom in pixels."
)
@click.option(
    "--draw",
    metavar="FOLDER",
    type=click.Path(file_okay=False, path_type=Path),
    help="Also draw where each tag is, as PHOTO.tags.jpg for each PHOTO, below FOLDER in folders as theirs.",
)
@outputs.options(*writers.NAMES, resume=True)
@click.option(
    "--model", metavar="NAME|FOLDER", help="Another model than the embedded one: see anytag models."
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to run; cuda is an error where it is not active.",
)
@click.option(
    "--batch-size",
    metavar="N",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Photos that go through the network together.",
)
@click.option(
    "--workers", metavar="N", type=click.IntRange(min=1), help="Threads.  [default: one for each usable core]"
)
@click.option("--recursive", is_flag=True, help="Look into the folders of folders.")
def command(
    photos: tuple[str, ...],
    tags: str | None,
    tags_from: Path | None,
    also: str | None,
    top_k: int | None,
    threshold: float | None,
    where: bool,
    draw: Path | None,
    format_: str | None,
    output: Path | None,
    overwrite: bool,
    resume: bool,
    model: str | None,
    device: Literal["auto", "cpu", "cuda"],
    batch_size: int,
    workers: int | None,
    recursive: bool,
) -> None:
    """Tag photos: files, folders, globs, or - for paths from stdin, one a line.

    A tag that the vocabulary knows by its name or a synonym is asked with its trained query; any other is
    made from your words. Results come in the order of the input.

    Exit code: 0 all good, 1 some photos failed (each is reported, the rest is done), 2 wrong use, 3 the
    result cannot be written, 130 interrupted.
    """
    named = paths.gather(photos, recursive=recursive)
    asked = _asked(tags, tags_from)
    if asked is not None and also is not None:
        raise click.UsageError(
            "--tags asks exactly these tags, --also the vocabulary and these: give one of them."
        )
    format_ = outputs.settle("tag", output, format_, writers.NAMES, photos=named, overwrite=overwrite)
    outputs.check_typed(photos, output)
    drawings = None if draw is None else Drawings(draw, named)

    from anytag.tagger import Tagger  # after all that can be wrong at once

    with sinks.open_output(output, format_, resume=resume) as sink:
        tagger = Tagger.load(model, device=device)
        sink.begin(writers.header(format_, where=where), outputs.work("tag", tagger.card))
        todo = stream.Todo(named, sink, output)
        results = tagger.tag_many(
            todo.paths,
            asked,
            also=also.split(",") if also is not None else None,
            top_k=top_k,
            threshold=threshold,
            where=where or draw is not None,
            batch_size=batch_size,
            workers=workers,
        )
        with closing(results):
            seen = results if drawings is None else drawings.of(results)
            shown = stream.with_progress(seen, todo.total, is_shared=sink.is_shared)
            summary = stream.write_rows(shown, sink, _row(format_, where=where, is_terminal=sink.is_terminal))
    summary.end(done=todo.done, not_drawn=drawings.failed if drawings else 0)


def _row(format_: str, *, where: bool, is_terminal: bool) -> writers.Format:
    if is_terminal and format_ == "text":
        return writers.terminal
    return writers.FORMATS["csv with boxes" if where and format_ == "csv" else format_]


def _asked(tags: str | None, file: Path | None) -> list[str | Asked] | None:
    """Tags asked by --tags and --tags-from together, or None where neither is given."""
    if tags is None and file is None:
        return None
    return [*(tags.split(",") if tags is not None else ()), *(_read(file) if file else ())]


def _read(file: Path) -> Iterator[Asked]:
    from anytag.vocabulary import parse_asked

    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"--tags-from {file}: cannot be read as UTF-8 text ({error}).") from error
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise click.UsageError(f"--tags-from {file}: holds no tags; expected one a line.")
    for number, line in numbered:
        try:
            yield parse_asked(line)
        except VocabularyError as error:
            raise click.UsageError(f"--tags-from {file}, line {number}: {error}") from error
