"""`anytag library write` and `keywords`: exchange keywords between a library and sidecars or photos."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import click

from anytag.batching import in_batches
from anytag.cli import library_sync, metadata, paths, sinks, stream
from anytag.cli.writers import visible

if TYPE_CHECKING:
    from anytag.library.library import Library
    from anytag.library.photo import Photo
    from anytag.metadata import Change, Keywords
    from anytag.vocabulary import Vocabulary

_BATCH = 16  # file name stems per task of a thread
_FOLDER = click.argument("folder", metavar="[FOLDER]", required=False, type=paths.PATH)


@click.command("write", short_help="Write tags into sidecars or photos.")
@_FOLDER
@library_sync.database
@click.option("--embed", is_flag=True, help="Write into the photos themselves, not only into sidecars.")
@click.option("--captions", is_flag=True, help="Also write captions of photos that have none.")
@click.option("--overwrite-caption", is_flag=True, help="Write captions, and replace existing ones.")
@click.option("--language", metavar="CODE", help="Write the tags' names in this language: de, es, fr, zh.")
@click.option(
    "--undo",
    is_flag=True,
    help="Remove what anytag wrote for these photos, also if they failed or are gone, and nothing else.",
)
@metadata.options
@click.option("--format", "format_", type=click.Choice(["text", "jsonl"]), default="text", show_default=True)
def write(
    folder: str | None,
    database: Path | None,
    embed: bool,
    captions: bool,
    overwrite_caption: bool,
    language: str | None,
    undo: bool,
    keywords: metadata.KeywordOptions,
    format_: str,
) -> None:
    """Write the tags of the library's photos, those of FOLDER or all, into XMP sidecars.

    Your own keywords are kept, and written into the same fields. Tags that you rejected, or removed from a
    file, are not written. The changes are printed, one row per photo.

    Exit code: 0 success, 1 some photos failed, 2 invalid usage.
    """
    from anytag.library.photo import STATES

    metadata.check(keywords, place="embed" if embed else None if undo else "sidecar", undo=undo)
    with library_sync.open_library(database) as library, sinks.open_output(None, format_) as sink:
        photos = library.photos(folder, states=STATES if undo else ("done",), pairs=undo)
        known, caption = _vocabulary(library, language), captions or overwrite_caption

        def change(photo: Photo) -> Change:
            if undo:
                return keywords.undo(photo.path, lenient=photo.state in ("failed", "gone"))
            return _written(photo, keywords, known, embed=embed, caption=caption, overwrite=overwrite_caption)

        metadata.write_changes(_by_threads(change, photos), sink, format_, None).end()


def _by_threads(change: Callable[[Photo], Change], photos: Iterable[Photo]) -> Iterator[Change]:
    """Apply `change` in threads, in order; photos that may share a sidecar go to the same thread."""
    stems = (list(some) for _, some in groupby(photos, key=lambda photo: os.path.splitext(photo.path)[0]))  # noqa: PTH122

    def work(batch: list[list[Photo]]) -> list[Change]:
        return [change(photo) for some in batch for photo in some]

    for changes in in_batches(work, stems, batch_size=_BATCH, workers=None):
        yield from changes


def _written(
    photo: Photo,
    keywords: metadata.KeywordOptions,
    known: Vocabulary,
    *,
    embed: bool,
    caption: bool,
    overwrite: bool,
) -> Change:
    from anytag.library.keywords import tags_of, write

    return write(
        photo,
        known,
        keywords.of(tags_of(photo, known), known),
        embed=embed,
        caption=metadata.to_write(photo.caption) if caption else None,
        overwrite_caption=overwrite,
        sidecar_name=keywords.sidecar_name,
        touch=keywords.touch,
        dry_run=keywords.dry_run,
    )


@click.command("keywords", short_help="Read your own keywords from files.")
@_FOLDER
@library_sync.database
def keywords(folder: str | None, database: Path | None) -> None:
    """Read your own keywords from photos and sidecars, of FOLDER or all, into the library.

    They can be searched for, and are labels for anytag calibrate. A tag by anytag that you removed from a
    file becomes rejected in the library, unless you accepted or added it there.
    """
    from anytag.library.keywords import path, read_in

    def row(found: Keywords) -> str:
        said = ", ".join(map(path, found.keywords))
        return f"{visible(found.path)}\t{visible(said)}\n" if said else ""

    with library_sync.open_library(database) as library, sinks.open_output(None, "text") as sink:
        photos = list(library.photos(folder, states=("done",)))
        found = stream.with_progress(read_in(library, photos), len(photos), is_shared=sink.is_shared)
        stream.write_rows(found, sink, row).end()


def _vocabulary(library: Library, language: str | None) -> Vocabulary:
    from anytag.library.library import embedded_vocabulary

    known = embedded_vocabulary()
    return known if language is None else known.in_language(language)
