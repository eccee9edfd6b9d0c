"""`anytag tag`: photos in, tags out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from anytag.cli import options, paths, stream, writers
from anytag.cli.draw import drawn
from anytag.errors import VocabularyError

if TYPE_CHECKING:
    from anytag.results import Tags
    from anytag.vocabulary import Asked

_FILE = click.Path(dir_okay=False, path_type=Path)
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
    help="Also draw where each tag is, a picture a photo.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(writers.NAMES),
    help="How to write results.  [default: by the suffix of --output, else text]",
)
@click.option(
    "--output",
    metavar="FILE",
    type=_FILE,
    help="Write to FILE; until all is done, or if you interrupt, rows are in FILE.part.",
)
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
@options.max_pixels
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
    model: str | None,
    device: Literal["auto", "cpu", "cuda"],
    batch_size: int,
    workers: int | None,
    max_pixels: int,
    recursive: bool,
) -> None:
    """Tag photos: files, folders, globs, or - for paths from stdin, one a line.

    A tag that the vocabulary knows by its name or a synonym is asked with its trained query; any other is
    made from your words. Results come in the order of the input.

    Exit code: 0 all good, 1 some photos failed (each is reported, the rest is done), 2 wrong use,
    130 interrupted.
    """
    named = paths.gather(photos, recursive=recursive)
    asked = _asked(tags, tags_from)
    if asked is not None and also is not None:
        raise click.UsageError(
            "--tags asks exactly these tags, --also the vocabulary and these: give one of them."
        )
    format_ = format_ or _by_suffix(output)

    from anytag.tagger import Tagger  # after all that can be wrong at once

    tagger = Tagger.load(model, device=device, max_pixels=max_pixels)
    total = len(named) if isinstance(named, list) else None
    results = tagger.tag_many(
        named,
        asked,
        also=also.split(",") if also is not None else None,
        top_k=top_k,
        threshold=threshold,
        where=where or draw is not None,
        batch_size=batch_size,
        workers=workers,
    )
    with closing(results):
        shown = stream.with_progress(
            results if draw is None else drawn(results, draw, max_pixels=max_pixels), total
        )
        failed = _write(shown, format_, output, where=where)
    stream.end(failed, total)


def _write(results: Iterable[Tags], format_: str, output: Path | None, *, where: bool) -> int:
    """Writes all results; returns how many photos failed."""
    with writers.Stdout(format_) if output is None else writers.File(output, format_) as sink:
        row = writers.FORMATS["csv with boxes" if where and format_ == "csv" else format_]
        if sink.is_terminal and format_ == "text":
            row = writers.terminal
        if head := writers.header(format_, where=where):
            sink.write(head)
        return stream.write_rows(results, sink, row)


def _by_suffix(output: Path | None) -> str:
    suffix = output.suffix.lower().lstrip(".") if output else ""
    return suffix if suffix in writers.NAMES else "text"


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
