"""`anytag match`: rank photos for texts."""

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
from anytag.progress import counted

if TYPE_CHECKING:
    from anytag.gallery import GalleryWriter
    from anytag.results import Match
    from anytag.retriever import Retriever
    from anytag.tagger import Encoded


class _BatchOptions(TypedDict):
    batch_size: int
    workers: int | None


_FORMATS = ("text", "jsonl")
_FOLDER = options.OutputPath(path_type=Path)


@click.command("match", short_help="Find photos by a description.")
@click.option(
    "--text",
    "texts",
    metavar="TEXT",
    multiple=True,
    required=True,
    help="Text to rank photos by; may be repeated.",
)
@click.option(
    "--top-k",
    metavar="N",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Maximum number of photos per text.",
)
@click.option(
    "--shortlist",
    metavar="N",
    type=click.IntRange(min=1),
    help="Number of photos to re-rank per text, chosen by their embeddings; by default 64 with the embedded "
    "model, 256 with alignment heads.",
)
@click.option(
    "--gallery",
    metavar="FOLDER",
    type=_FOLDER,
    help="Rank all photos of the gallery FOLDER, which stores embeddings; new and changed PATHs are added.",
)
@outputs.options(*_FORMATS)
@options.model_options
@paths.options("[PATH...]")
def command(
    texts: tuple[str, ...],
    top_k: int,
    shortlist: int | None,
    gallery: Path | None,
    output_options: outputs.OutputOptions,
    model_options: options.ModelOptions,
    source: paths.Source,
) -> None:
    """Rank photos by how well each TEXT fits: files, folders, globs, or - for paths from stdin.

    The embedded model's score is the probability that the text fits the photo, as in anytag search; if no
    photo reaches 0.5, a warning is printed.

    --gallery stores embeddings as they are computed: the same command resumes an interrupted run.

    Exit code: 0 success, 1 some photos failed (each is reported, the others are ranked), 2 invalid usage, 3
    the output cannot be written, 130 interrupted.
    """
    if not source and gallery is None:
        raise click.UsageError("Give photos, or an existing --gallery.")
    photos = source.gather() if source else paths.PhotoPaths([])
    if source and gallery is not None:
        _check_gallery(gallery)
    outputs.check_folder_conflict(output_options.output, gallery, alone=True)
    format_ = outputs.check_format("match", output_options, _FORMATS, photos=photos.paths)

    from anytag.retriever import Retriever  # imported after the options are checked: it is slow

    retriever = Retriever.load(
        model_options.model, device=model_options.device, max_pixels=model_options.max_pixels
    )
    texts = tuple(map(lists.decoded, texts))
    for text in texts:
        _warn_of_unknown_words(text, retriever.unknown_words(text))
    batch_options, summary = (
        _BatchOptions(batch_size=model_options.batch_size, workers=model_options.workers),
        stream.Summary(),
    )
    with sinks.open_output(output_options.output, format_) as sink:
        sink.begin(run=outputs.run_settings("match", retriever.tagger.card))
        if gallery is None:
            ranking = retriever.ranking(texts, top_k=top_k, shortlist=shortlist)
            _consume(ranking.add(photos.paths, **batch_options), photos.total, summary)
            results: Iterable[tuple[Match, ...]] = ranking.matches()
        else:
            if source:
                _add(retriever, gallery, photos, batch_options, summary)
            results = _ranked(retriever, gallery, texts, top_k=top_k, shortlist=shortlist)
        for text, matches in zip(texts, results, strict=True):
            sink.write(_rows(matches, format_, is_terminal=sink.is_terminal))
            if retriever.calibrated:
                _warn_if_none_fits(text, matches)
    summary.end()
    photos.end()


def _check_gallery(folder: Path) -> None:
    """Check that a gallery may be written, before the model is loaded."""
    from anytag.gallery import may_be_gallery

    refuse_photo_name(folder)
    check_folder(folder, is_earlier=may_be_gallery)
    if not folder.parent.is_dir():  # probably a typo
        raise RefusedOutputError(
            f"{folder} cannot be created: {folder.parent} is not a folder; create it first"
        )


def _add(
    retriever: Retriever,
    folder: Path,
    photos: paths.PhotoPaths,
    batch_options: _BatchOptions,
    summary: stream.Summary,
) -> None:
    """Add new photos to a gallery."""
    with retriever.open_gallery(folder) as gallery:
        new: Iterable[str] = gallery.new(photos.paths)
        if photos.total is not None:
            new = list(new)
            if len(new) < photos.total:
                known = f"{photos.total - len(new)} of {counted(photos.total, 'photo')}"
                click.echo(f"Already in {folder}: {known}.", err=True)
        try:
            _consume(
                retriever.add(gallery, new, **batch_options),
                len(new) if isinstance(new, list) else None,
                summary,
            )
        except KeyboardInterrupt:
            _report_interrupted(gallery)
            raise


def _report_interrupted(gallery: GalleryWriter) -> None:
    if len(gallery):
        click.echo(
            f"Stored in {gallery.path}: {counted(len(gallery), 'photo')}; the same command adds the others.",
            err=True,
        )


def _consume(photos: Iterator[Encoded], total: int | None, summary: stream.Summary) -> None:
    """Consume encoded photos with a progress bar, and count failures."""
    with closing(photos):  # type: ignore[type-var]  # they are generators
        for photo in stream.with_progress(photos, total):
            summary.add(photo.path, photo.error)


def _ranked(
    retriever: Retriever, folder: Path, texts: Sequence[str], *, top_k: int, shortlist: int | None
) -> Iterator[tuple[Match, ...]]:
    from anytag.gallery import Gallery

    gallery = Gallery.read(folder)
    return (retriever.rank(gallery, text, top_k=top_k, shortlist=shortlist) for text in texts)


def _warn_of_unknown_words(text: str, unknown: tuple[str, ...]) -> None:
    """Warn of words that the model does not know, which lower all scores."""
    if unknown:
        words = ", ".join(writers.visible(word) for word in unknown[:20])
        click.echo(f"{writers.visible(text)!r}: the model does not know {words}; use English.", err=True)


def _warn_if_none_fits(text: str, matches: tuple[Match, ...]) -> None:
    from anytag.fusion.score import FITS

    if matches and matches[0].score < FITS:
        best = f"the best score is {matches[0].score:.2f}"
        click.echo(f"No photo fits {writers.visible(text)!r}: {best}.", err=True)


def _rows(matches: tuple[Match, ...], format_: str, *, is_terminal: bool) -> str:
    if format_ == "jsonl":
        return "".join(json.dumps(match.to_dict(), ensure_ascii=False) + "\n" for match in matches)
    show = writers.visible if is_terminal else one_line  # a program can open the path that it reads
    lines = ((show(match.path), match.score, writers.visible(match.text)) for match in matches)
    return "".join(f"{path}\t{score:.2f}\t{text}\n" for path, score, text in lines)
