"""`anytag caption`: photos in, sentences out."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from anytag.cli import options, paths, stream, writers

if TYPE_CHECKING:
    from anytag.results import Caption

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command("caption", short_help="Write a sentence about photos.")
@click.argument("photos", metavar="PATH...", nargs=-1, required=True)
@click.option(
    "--tags",
    metavar='"A,B,C"',
    help='What the sentences shall speak of; "" leaves them free of any guidance.',
)
@click.option("--exclude-tags", metavar='"X,Y"', help="What they must not speak of, in any form.")
@click.option(
    "--beams",
    metavar="N",
    type=click.IntRange(min=1),
    help="Sentences that are followed at once.  [default: the model's]",
)
@click.option("--sample", is_flag=True, help="Draw words at random instead, from the likely ones.")
@click.option("--seed", metavar="N", type=int, default=0, show_default=True, help="Of --sample.")
@click.option(
    "--max-length",
    metavar="N",
    type=click.IntRange(min=2),
    help="Wordpieces of a sentence at most, the model's prompt included.  [default: the model's]",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["text", "jsonl"]),
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
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--batch-size", metavar="N", type=click.IntRange(min=1), default=8, show_default=True)
@click.option(
    "--workers", metavar="N", type=click.IntRange(min=1), help="Threads.  [default: one for each usable core]"
)
@options.max_pixels
@click.option("--recursive", is_flag=True, help="Look into the folders of folders.")
def command(
    photos: tuple[str, ...],
    tags: str | None,
    exclude_tags: str | None,
    beams: int | None,
    sample: bool,
    seed: int,
    max_length: int | None,
    format_: str | None,
    output: Path | None,
    model: str | None,
    device: Literal["auto", "cpu", "cuda"],
    batch_size: int,
    workers: int | None,
    max_pixels: int,
    recursive: bool,
) -> None:
    """Write a sentence about each photo: files, folders, globs, or - for paths from stdin, one a line.

    Exit code: 0 all good, 1 some photos failed (each is reported, the rest is done), 2 wrong use,
    130 interrupted.
    """
    named = paths.gather(photos, recursive=recursive)
    total = len(named) if isinstance(named, list) else None
    is_jsonl = format_ == "jsonl" or (format_ is None and output is not None and output.suffix == ".jsonl")

    from anytag.captioner import Captioner  # after all that can be wrong at once

    results = Captioner.load(model, device=device, max_pixels=max_pixels).caption_many(
        named,
        _listed(tags),
        exclude_tags=_listed(exclude_tags) or (),
        beams=beams,
        sample=sample,
        seed=seed,
        max_length=max_length,
        batch_size=batch_size,
        workers=workers,
    )
    name = "jsonl" if is_jsonl else "text"
    with closing(results), writers.Stdout(name) if output is None else writers.File(output, name) as sink:
        row = _jsonl if is_jsonl else _text
        failed = stream.write_rows(stream.with_progress(results, total), sink, row)
    stream.end(failed, total)


def _listed(words: str | None) -> list[str] | None:
    """The words between commas; none for an empty text."""
    return None if words is None else [word.strip() for word in words.split(",")] if words.strip() else []


def _text(caption: Caption) -> str:
    """`path<TAB>a dog runs`; a photo that failed has no line, its error is on stderr."""
    return "" if caption.error else f"{writers.one_line(caption.path or '')}\t{caption.text}\n"


def _jsonl(caption: Caption) -> str:
    return json.dumps(caption.to_dict(), ensure_ascii=False) + "\n"
