"""`anytag match`: which photos a sentence fits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from anytag._io import check_output, resolved
from anytag.cli import outputs, paths, sinks, stream, writers
from anytag.errors import AnytagError

if TYPE_CHECKING:
    from anytag.results import Match
    from anytag.retriever import Gallery

_FILE = click.Path(dir_okay=False, path_type=Path)
_FORMATS = ("text", "jsonl")


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
@outputs.options(*_FORMATS)
@click.option(
    "--model", metavar="NAME|FOLDER", help="Another model than the embedded one: see anytag models."
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--recursive", is_flag=True, help="Look into the folders of folders.")
def command(
    photos: tuple[str, ...],
    texts: tuple[str, ...],
    top_k: int,
    shortlist: int,
    gallery: Path | None,
    format_: str | None,
    output: Path | None,
    overwrite: bool,
    model: str | None,
    device: Literal["auto", "cpu", "cuda"],
    recursive: bool,
) -> None:
    """Rank photos by how well each TEXT fits: files, folders, globs, or - for paths from stdin.

    Exit code: 0 all good, 1 some photos failed (each is reported, the rest is ranked), 2 wrong use, 3 the
    result cannot be written, 130 interrupted.
    """
    if not photos and gallery is None:
        raise click.UsageError("Give photos, or a --gallery that an earlier run kept.")
    named = paths.gather(photos, recursive=recursive) if photos else None
    format_ = outputs.settle("match", output, format_, _FORMATS, photos=named or (), overwrite=overwrite)
    if output is not None and gallery is not None and resolved(output) == resolved(gallery):
        raise click.UsageError(f"--output and --gallery are both {output}: give two files.")
    if named is not None and gallery is not None:
        check_output(gallery, named if isinstance(named, list) else (), is_earlier=_is_gallery)

    from anytag.retriever import Gallery, Retriever

    retriever = Retriever.load(model, device=device)
    summary = stream.Summary()
    if named is None and gallery is not None:
        seen = Gallery.read(gallery)
    else:
        seen = retriever.embed(named or ())
        if gallery is not None:
            seen.write(gallery)
    with sinks.open_output(output, format_) as sink:
        sink.begin(run=outputs.work("match", retriever.tagger.card))
        for text in texts:
            found = retriever.rank(seen, text, top_k=top_k, shortlist=shortlist)
            sink.write(_rows(found, text, format_))
    _report(seen, summary)


def _rows(matches: tuple[Match, ...], text: str, format_: str) -> str:
    if format_ == "jsonl":
        return "".join(json.dumps(match.to_dict(), ensure_ascii=False) + "\n" for match in matches)
    shown = writers.visible(text)  # a text may hold what ends a line
    return "".join(f"{writers.visible(match.path)}\t{match.score:.2f}\t{shown}\n" for match in matches)


def _is_gallery(path: Path) -> bool:
    """Did `Gallery.write` make this file?"""
    from anytag.retriever import Gallery

    try:
        Gallery.read(path)
    except AnytagError:
        return False
    return True


def _report(seen: Gallery, summary: stream.Summary) -> None:
    """Says what failed, and ends with 1 where anything did."""
    for path in seen.paths:
        summary.add(path, None)
    for path, failure in seen.failed:
        summary.add(path, failure)
    summary.end()
