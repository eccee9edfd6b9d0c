"""`anytag search`: search the library by text or by a similar photo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from anytag.cli import library_sync, lists, outputs, paths, sinks, writers
from anytag.cli.journal import one_line
from anytag.progress import counted

if TYPE_CHECKING:
    from anytag.library.hits import Found, Hit

_FORMATS = ("text", "jsonl")


@click.command("search", short_help="Find photos of the library.")
@click.argument("text", required=False)
@click.option("--tag", "tags", metavar="TAG", multiple=True, help="Only photos with TAG. May be repeated.")
@click.option("--not", "exclude_tags", metavar="TAG", multiple=True, help="Only photos without TAG.")
@click.option("--in", "folder", metavar="FOLDER", type=paths.PATH, help="Only photos in or below FOLDER.")
@click.option("--after", metavar="DATE", help="Taken on DATE or later: 2024, 2024-05 or 2024-05-31.")
@click.option("--before", metavar="DATE", help="Taken before DATE.")
@click.option("--like", metavar="PHOTO", type=paths.PATH, help="Photos similar to PHOTO, any photo file.")
@click.option(
    "--top-k",
    metavar="N",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Maximum number of photos.",
)
@click.option("--all", "unfolded", is_flag=True, help="List near duplicates of a photo separately.")
@click.option("--open", "opens", is_flag=True, help="Open the best photo.")
@click.option("--model", metavar="NAME|FOLDER", help="The model that the library was synced with.")
@library_sync.database
@outputs.options(*_FORMATS)
def command(
    text: str | None,
    tags: tuple[str, ...],
    exclude_tags: tuple[str, ...],
    folder: str | None,
    after: str | None,
    before: str | None,
    like: str | None,
    top_k: int,
    unfolded: bool,
    opens: bool,
    model: str | None,
    database: Path | None,
    output_options: outputs.OutputOptions,
) -> None:
    """Find photos of the library by TEXT, a sentence or a few words; by tags, dates, folder; or by a photo.

    File names, keywords and your own tags match by words, everything else by the model. The score is the
    probability that the photo fits; photos below 0.5 are not listed. With --like the score is the similarity;
    with both, photos must fit TEXT. Without either the newest photos come first.

    Exit code: 0 success, even if nothing fits, 2 invalid usage, 3 the output cannot be written.
    """
    if text is None and like is None and not (tags or exclude_tags or folder or after or before):
        raise click.UsageError("Give a text, --like PHOTO, or a filter such as --tag.")
    format_ = outputs.check_format("search", output_options, _FORMATS, photos=[like or ""])
    with (
        library_sync.open_library(database) as library,
        sinks.open_output(output_options.output, format_) as sink,
    ):
        found = library.search(
            None if text is None else lists.decoded(text),
            tags=tuple(map(lists.decoded, tags)),
            exclude_tags=tuple(map(lists.decoded, exclude_tags)),
            folder=folder,
            after=after,
            before=before,
            like=like,
            top_k=top_k,
            fold=not unfolded,
            model=model,
        )
        for hit in found:
            sink.write(_row(hit, format_, is_terminal=sink.is_terminal))
    _say(found, text, by_words=text is not None or like is not None)
    if opens and found.hits:
        click.launch(found.hits[0].photo.path)


def _row(hit: Hit, format_: str, *, is_terminal: bool) -> str:
    if format_ == "jsonl":
        return json.dumps(hit.to_dict(), ensure_ascii=False) + "\n"
    show = writers.visible if is_terminal else one_line  # programs must get the unescaped path
    count = len(hit.copies)
    copies = f"\t{count} near {'copy' if count == 1 else 'copies'}" if count else ""
    return f"{show(hit.photo.path)}\t{hit.score:.2f}{copies}\n"


def _say(found: Found, text: str | None, *, by_words: bool) -> None:
    """Report on stderr if nothing fits, and how many photos could not be compared."""
    if not found.photos:
        click.echo("No photo of the library matches; see anytag library status.", err=True)
    elif not found.hits:
        what = "is similar to this one" if text is None else f"fits {writers.visible(text)!r}"
        near = ", ".join(f"{writers.visible(hit.photo.path)} ({hit.score:.2f})" for hit in found.nearest)
        nearest = f"; the nearest: {near}" if near else ""
        click.echo(f"None of {counted(found.photos, 'photo')} {what}{nearest}.", err=True)
    if by_words and found.unseen:
        click.echo(
            f"{found.unseen} of {counted(found.photos, 'photo')} have no embedding of this model and match "
            "by words only: run anytag library sync, with --retag if another model tagged them.",
            err=True,
        )
