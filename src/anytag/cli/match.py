"""`anytag match`: which photos a sentence fits."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

import click

from anytag._io import refuse_inputs, refuse_photo_name
from anytag.cli import paths, stream, writers

if TYPE_CHECKING:
    from anytag.gallery import GalleryWriter
    from anytag.results import Match
    from anytag.retriever import Retriever
    from anytag.tagger import Encoded


class _How(TypedDict):
    batch_size: int
    workers: int | None


_FILE = click.Path(dir_okay=False, path_type=Path)
_FOLDER = click.Path(path_type=Path)


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
    metavar="FOLDER",
    type=_FOLDER,
    help="Rank all photos in FOLDER, which keeps what the model saw; new and changed PATHs are added.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["text", "jsonl"]),
    help="How to write results.  [default: by the suffix of --output, else text]",
)
@click.option("--output", metavar="FILE", type=_FILE, help="Write to FILE.")
@click.option(
    "--model", metavar="NAME|FOLDER", help="Another model than the embedded one: see anytag models."
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
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
    texts: tuple[str, ...],
    top_k: int,
    shortlist: int,
    gallery: Path | None,
    format_: str | None,
    output: Path | None,
    model: str | None,
    device: Literal["auto", "cpu", "cuda"],
    batch_size: int,
    workers: int | None,
    recursive: bool,
) -> None:
    """Rank photos by how well each TEXT fits: files, folders, globs, or - for paths from stdin.

    With --gallery what the model saw is kept as the work goes on: stop it when you like, the same command
    goes on with the others.

    Exit code: 0 all good, 1 some photos failed (each is reported, the rest is ranked), 2 wrong use,
    130 interrupted.
    """
    if not photos and gallery is None:
        raise click.UsageError("Give photos, or a --gallery that an earlier run made.")
    named = paths.gather(photos, recursive=recursive) if photos else None
    format_ = format_ or _by_suffix(output)
    if output is not None:
        refuse_photo_name(output)
        refuse_inputs(output, named if isinstance(named, list) else ())

    from anytag.retriever import Retriever  # after all that can be wrong at once

    retriever = Retriever.load(model, device=device)
    for text in texts:
        _warn(text, retriever.unknown_words(text))
    how = _How(batch_size=batch_size, workers=workers)
    with writers.Stdout(format_) if output is None else writers.File(output, format_) as sink:
        if gallery is None:
            ranking = retriever.ranking(texts, top_k=top_k, shortlist=shortlist)
            failed, total = _watch(ranking.add(named or (), **how), named)
            found: Iterable[tuple[Match, ...]] = ranking.matches()
        else:
            failed, total = _add(retriever, gallery, named, how) if named is not None else (0, None)
            found = _ranked(retriever, gallery, texts, top_k=top_k, shortlist=shortlist)
        for matches in found:
            sink.write(_rows(matches, format_))
    stream.end(failed, total)


def _add(retriever: Retriever, folder: Path, named: Iterable[str], how: _How) -> tuple[int, int | None]:
    """Adds what is new to a gallery; returns how many photos failed, and of how many."""
    with retriever.open_gallery(folder) as gallery:
        new: Iterable[str] = gallery.new(named)
        if isinstance(named, list):
            new = list(new)
            if len(new) < len(named):
                click.echo(
                    f"{len(named) - len(new)} of {len(named)} photos are in {folder} already.", err=True
                )
        try:
            return _watch(retriever.add(gallery, new, **how), new)
        except KeyboardInterrupt:
            _say_kept(gallery)
            raise


def _say_kept(gallery: GalleryWriter) -> None:
    if len(gallery):
        click.echo(
            f"{len(gallery)} photos are kept in {gallery.path}; the same command goes on with the others.",
            err=True,
        )


def _watch(photos: Iterator[Encoded], named: Iterable[str] | None) -> tuple[int, int | None]:
    """Shows how far the work is and what fails; returns how many photos failed, and of how many."""
    total = len(named) if isinstance(named, list) else None
    failed = 0
    with closing(photos):  # type: ignore[type-var]  # generators all
        for photo in stream.with_progress(photos, total):
            if photo.error:
                failed += 1
                click.secho(f"Failed: {writers.visible(photo.error.message)}", fg="red", err=True)
    return failed, total


def _ranked(
    retriever: Retriever, folder: Path, texts: Sequence[str], *, top_k: int, shortlist: int
) -> Iterator[tuple[Match, ...]]:
    from anytag.gallery import Gallery

    gallery = Gallery.read(folder)
    return (retriever.rank(gallery, text, top_k=top_k, shortlist=shortlist) for text in texts)


def _warn(text: str, unknown: tuple[str, ...]) -> None:
    """Says which words of a text the model does not know; all scores may be low for that alone."""
    if unknown:
        words = ", ".join(writers.visible(word) for word in unknown[:20])
        click.echo(f"{writers.visible(text)!r}: the model does not know {words}; ask in English.", err=True)


def _by_suffix(output: Path | None) -> str:
    return "jsonl" if output is not None and output.suffix.lower() == ".jsonl" else "text"


def _rows(matches: tuple[Match, ...], format_: str) -> str:
    if format_ == "jsonl":
        return "".join(json.dumps(match.to_dict(), ensure_ascii=False) + "\n" for match in matches)
    shown = ((writers.visible(match.path), match.score, writers.visible(match.text)) for match in matches)
    return "".join(f"{path}\t{score:.2f}\t{text}\n" for path, score, text in shown)
