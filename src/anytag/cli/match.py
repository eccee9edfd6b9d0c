"""`anytag match`: which photos a sentence fits."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import click

from anytag._io import check_folder, refuse_photo_name
from anytag.cli import lists, options, outputs, paths, sinks, stream, writers
from anytag.cli.journal import one_line
from anytag.errors import RefusedOutputError

if TYPE_CHECKING:
    from anytag.gallery import GalleryWriter
    from anytag.results import Match
    from anytag.retriever import Retriever
    from anytag.tagger import Encoded


class _How(TypedDict):
    batch_size: int
    workers: int | None


_FORMATS = ("text", "jsonl")
_FOLDER = options.Place(path_type=Path)


@click.command("match", short_help="Find photos by a sentence.")
@click.option(
    "--text",
    "texts",
    metavar="TEXT",
    multiple=True,
    required=True,
    help="Text to rank photos by; may be repeated.",
)
@click.option(
    "--top-k", metavar="N", type=click.IntRange(min=1), default=10, show_default=True, help="Photos per text."
)
@click.option(
    "--shortlist",
    metavar="N",
    type=click.IntRange(min=1),
    help="Photos to re-rank for each text, selected by their vectors; by default 64 with the embedded "
    "model, 256 with alignment heads.",
)
@click.option(
    "--gallery",
    metavar="FOLDER",
    type=_FOLDER,
    help="Rank all photos in FOLDER, which stores their embeddings; new and changed PATHs are added.",
)
@outputs.options(*_FORMATS)
@options.running
@paths.options("[PATH...]")
def command(
    texts: tuple[str, ...],
    top_k: int,
    shortlist: int | None,
    gallery: Path | None,
    writing: outputs.Writing,
    running: options.Running,
    source: paths.Source,
) -> None:
    """Rank photos by how well each TEXT fits: files, folders, globs, or - for paths from stdin.

    The embedded model's score is the probability that the photo fits, as in anytag search. Photos below 0.5
    do not fit; if none fits, a note is printed on stderr.

    --gallery stores embeddings as the work proceeds, so the same command continues a stopped run.

    Exit code: 0 success, 1 some photos failed (each is reported, the rest is ranked), 2 usage error, 3 the
    result cannot be written, 130 interrupted.
    """
    if not source and gallery is None:
        raise click.UsageError("Give photos, or a --gallery that an earlier run made.")
    named = source.gather() if source else paths.Gathered([])
    if source and gallery is not None:
        _check_gallery(gallery)
    outputs.refuse_for_folder(writing.output, gallery, alone=True)
    format_ = outputs.settle("match", writing, _FORMATS, photos=named.paths)

    from anytag.retriever import Retriever  # after all that can be wrong at once

    retriever = Retriever.load(running.model, device=running.device, max_pixels=running.max_pixels)
    texts = tuple(map(lists.decoded, texts))
    for text in texts:
        _warn(text, retriever.unknown_words(text))
    how, summary = _How(batch_size=running.batch_size, workers=running.workers), stream.Summary()
    with sinks.open_output(writing.output, format_) as sink:
        sink.begin(run=outputs.work("match", retriever.tagger.card))
        if gallery is None:
            ranking = retriever.ranking(texts, top_k=top_k, shortlist=shortlist)
            _watch(ranking.add(named.paths, **how), named.total, summary)
            results: Iterable[tuple[Match, ...]] = ranking.matches()
        else:
            if source:
                _add(retriever, gallery, named, how, summary)
            results = _ranked(retriever, gallery, texts, top_k=top_k, shortlist=shortlist)
        for text, matches in zip(texts, results, strict=True):
            sink.write(_rows(matches, format_, is_terminal=sink.is_terminal))
            if retriever.calibrated:
                _say_if_none_fits(text, matches)
    summary.end()
    named.end()


def _check_gallery(folder: Path) -> None:
    """Holds a gallery that is to be written against the one rule for outputs, before anything is loaded."""
    from anytag.gallery import may_be_gallery

    refuse_photo_name(folder)
    check_folder(folder, is_earlier=may_be_gallery)
    if not folder.parent.is_dir():  # that would be a slip of the pen
        raise RefusedOutputError(
            f"{folder} cannot be created: {folder.parent} is not a folder; create it first"
        )


def _add(
    retriever: Retriever, folder: Path, named: paths.Gathered, how: _How, summary: stream.Summary
) -> None:
    """Adds what is new to a gallery."""
    with retriever.open_gallery(folder) as gallery:
        new: Iterable[str] = gallery.new(named.paths)
        if named.total is not None:
            new = list(new)
            if len(new) < named.total:
                known = named.total - len(new)
                click.echo(f"{known} of {named.total} photos are in {folder} already.", err=True)
        try:
            _watch(retriever.add(gallery, new, **how), len(new) if isinstance(new, list) else None, summary)
        except KeyboardInterrupt:
            _say_kept(gallery)
            raise


def _say_kept(gallery: GalleryWriter) -> None:
    if len(gallery):
        click.echo(
            f"{len(gallery)} photos are kept in {gallery.path}; the same command goes on with the others.",
            err=True,
        )


def _watch(photos: Iterator[Encoded], total: int | None, summary: stream.Summary) -> None:
    """Shows how far the work is and what fails."""
    with closing(photos):  # type: ignore[type-var]  # generators all
        for photo in stream.with_progress(photos, total):
            summary.add(photo.path, photo.error)


def _ranked(
    retriever: Retriever, folder: Path, texts: Sequence[str], *, top_k: int, shortlist: int | None
) -> Iterator[tuple[Match, ...]]:
    from anytag.gallery import Gallery

    gallery = Gallery.read(folder)
    return (retriever.rank(gallery, text, top_k=top_k, shortlist=shortlist) for text in texts)


def _warn(text: str, unknown: tuple[str, ...]) -> None:
    """Says which words of a text the model does not know; all scores may be low for that alone."""
    if unknown:
        words = ", ".join(writers.visible(word) for word in unknown[:20])
        click.echo(f"{writers.visible(text)!r}: the model does not know {words}; ask in English.", err=True)


def _say_if_none_fits(text: str, matches: tuple[Match, ...]) -> None:
    from anytag.fusion.score import FITS

    if matches and matches[0].score < FITS:
        best = f"the best scores {matches[0].score:.2f}"
        click.echo(f"No photo fits {writers.visible(text)!r}: {best}.", err=True)


def _rows(matches: tuple[Match, ...], format_: str, *, is_terminal: bool) -> str:
    if format_ == "jsonl":
        return "".join(json.dumps(match.to_dict(), ensure_ascii=False) + "\n" for match in matches)
    show = writers.visible if is_terminal else one_line  # a program can open the path that it reads
    lines = ((show(match.path), match.score, writers.visible(match.text)) for match in matches)
    return "".join(f"{path}\t{score:.2f}\t{text}\n" for path, score, text in lines)
