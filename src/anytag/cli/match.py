"""`anytag match`: which photos a sentence fits."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from anytag.cli import options, paths, writers

if TYPE_CHECKING:
    from anytag.results import Match
    from anytag.retriever import Gallery

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command("match", short_help="Find photos by a sentence.")
@click.argument("photos", metavar="[PATH...]", nargs=-1)
@click.option("--text", "texts", metavar="TEXT", multiple=True, required=True, help="May be given often.")
@click.option(
    "--top-k", metavar="N", type=click.IntRange(min=1), default=10, show_default=True, help="Photos a text."
)
@click.option(
    "--shortlist",
    metavar="N",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="Photos a text that are looked at, the likeliest by a quick comparison.",
)
@click.option(
    "--gallery",
    metavar="FILE",
    type=_FILE,
    help="With PATHs: also keep in FILE what the model saw. Without: rank the photos that are in FILE.",
)
@click.option("--format", "format_", type=click.Choice(["text", "jsonl"]), default="text", show_default=True)
@click.option("--output", metavar="FILE", type=_FILE, help="Write to FILE.")
@click.option(
    "--model", metavar="NAME|FOLDER", help="Another model than the embedded one: see anytag models."
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@options.max_pixels
@click.option("--recursive", is_flag=True, help="Look into the folders of folders.")
def command(
    photos: tuple[str, ...],
    texts: tuple[str, ...],
    top_k: int,
    shortlist: int,
    gallery: Path | None,
    format_: str,
    output: Path | None,
    model: str | None,
    device: Literal["auto", "cpu", "cuda"],
    max_pixels: int,
    recursive: bool,
) -> None:
    """Rank photos by how well each TEXT fits: files, folders, globs, or - for paths from stdin.

    Exit code: 0 all good, 1 some photos failed (each is reported, the rest is ranked), 2 wrong use.
    """
    if not photos and gallery is None:
        raise click.UsageError("Give photos, or a --gallery that an earlier run kept.")
    named = paths.gather(photos, recursive=recursive) if photos else None

    from anytag.retriever import Gallery, Retriever

    retriever = Retriever.load(model, device=device, max_pixels=max_pixels)
    if named is None and gallery is not None:
        seen = Gallery.read(gallery)
    else:
        seen = retriever.embed(named or ())
        if gallery is not None:
            seen.write(gallery)
    with writers.Stdout(format_) if output is None else writers.File(output, format_) as sink:
        for text in texts:
            found = retriever.rank(seen, text, top_k=top_k, shortlist=shortlist)
            sink.write(_rows(found, text, format_))
    _report(seen)


def _rows(matches: tuple[Match, ...], text: str, format_: str) -> str:
    if format_ == "jsonl":
        return "".join(json.dumps(match.to_dict(), ensure_ascii=False) + "\n" for match in matches)
    return "".join(f"{writers.visible(match.path)}\t{match.score:.2f}\t{text}\n" for match in matches)


def _report(seen: Gallery) -> None:
    """Says what failed, and ends with 1 where anything did."""
    for _, failure in seen.failed:
        click.secho(f"Failed: {writers.visible(failure.message)}", fg="red", err=True)
    if seen.failed:
        click.echo(f"{len(seen.failed)} of {len(seen) + len(seen.failed)} photos failed.", err=True)
        sys.exit(1)
