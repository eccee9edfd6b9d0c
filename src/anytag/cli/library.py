"""`anytag library`: a database of the photos of folders, tagged and kept in sync."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from anytag.cli import label_source, library_metadata, library_sync, paths, sinks, writers
from anytag.cli.journal import one_line
from anytag.progress import counted

if TYPE_CHECKING:
    from anytag.library.photo import Photo, State
    from anytag.library.status import Status

_PHOTO = click.argument("photo", metavar="PHOTO", type=paths.PATH)
_TAGS = click.argument("tags", metavar="TAG...", nargs=-1, required=True)


@click.group("library", short_help="Keep folders of photos tagged.")
def command() -> None:
    """Keep the photos of folders in a database: `sync` tags only new and changed photos.

    The database is in your data folder, not among the photos. Tags that you accept, reject or add are kept
    when another model tags the photos.
    """


for one in (library_sync.command, library_metadata.keywords, library_metadata.write):
    command.add_command(one)


@command.command("status", short_help="Count photos by state.")
@library_sync.database
@click.option("--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True)
def status(database: Path | None, format_: str) -> None:
    """Count the photos of each folder by state, and by the model that tagged them."""
    with library_sync.open_library(database) as library:
        found = library.status()
    if format_ == "json":
        click.echo(json.dumps(found.to_dict(), indent=2))
    else:
        click.echo(_status(found))


def _status(status: Status) -> str:
    lines = [f"database   {writers.visible(str(status.database))}"]
    for folder in status.folders:
        counts = ", ".join(f"{count} {state}" for state, count in sorted(folder.states.items()))
        lines.append(f"folder     {writers.visible(folder.path)}: {counts or 'no photos'}")
    for label, photos in (("tagged by ", status.models), ("failed    ", status.failures)):
        lines += [f"{label} {name}: {counted(count, 'photo')}" for name, count in photos.items()]
    lines.append(f"decisions  {status.decisions}")
    if status.paired:
        lines.append(f"paired     files that belong to other photos: {status.paired}")
    return "\n".join(lines)


@command.command("list", short_help="List photos with their tags.")
@click.argument("folder", metavar="[FOLDER]", required=False, type=paths.PATH)
@library_sync.database
@click.option(
    "--state",
    type=click.Choice(["waiting", "done", "failed", "gone"]),
    help="Only photos in this state.  [default: all but gone]",
)
@click.option("--pairs", is_flag=True, help="Also list files that belong to other photos, as RAW + JPEG.")
@click.option("--format", "format_", type=click.Choice(["text", "jsonl"]), default="text", show_default=True)
def list_(folder: str | None, database: Path | None, state: State | None, pairs: bool, format_: str) -> None:
    """List the photos of FOLDER, or all, with their tags; for failed photos, the error."""
    states: tuple[State, ...] = (state,) if state else ("waiting", "done", "failed")
    row = _jsonl if format_ == "jsonl" else _text
    with library_sync.open_library(database) as library, sinks.open_output(None, format_) as sink:
        for photo in library.photos(folder, states=states, pairs=pairs):
            sink.write(row(photo))


def _text(photo: Photo) -> str:
    why = photo.error.message.removeprefix(f"{photo.path}: ") if photo.error else ""
    said = f"({why})" if why else ", ".join(photo.tags)
    return f"{one_line(photo.path)}\t{one_line(said)}\n"


def _jsonl(photo: Photo) -> str:
    return json.dumps(photo.to_dict(), ensure_ascii=False) + "\n"


@command.command("accept", short_help="Confirm tags of a photo.")
@_PHOTO
@_TAGS
@library_sync.database
def accept(photo: str, tags: tuple[str, ...], database: Path | None) -> None:
    """Confirm that TAGs of PHOTO are correct."""
    _decide("accept", photo, tags, database)


@command.command("reject", short_help="Mark tags of a photo as wrong.")
@_PHOTO
@_TAGS
@library_sync.database
def reject(photo: str, tags: tuple[str, ...], database: Path | None) -> None:
    """Mark TAGs of PHOTO as wrong; no model adds them again."""
    _decide("reject", photo, tags, database)


@command.command("add", short_help="Add tags to a photo.")
@_PHOTO
@_TAGS
@library_sync.database
def add(photo: str, tags: tuple[str, ...], database: Path | None) -> None:
    """Add TAGs of your own to PHOTO."""
    _decide("add", photo, tags, database)


def _decide(what: str, photo: str, tags: tuple[str, ...], database: Path | None) -> None:
    with library_sync.open_library(database) as library:
        getattr(library, what)(photo, *tags)
        found = library.find(photo)
        shown = found if found.pair is None else library.find(found.pair)
        click.echo(f"{writers.visible(photo)}: {', '.join(shown.tags)}")


@command.command("forget", short_help="Remove photos from the library.")
@click.argument("names", metavar="PATH...", nargs=-1, type=paths.PATH)
@library_sync.database
@click.option("--gone", is_flag=True, help="Remove the photos that were deleted from the disk.")
@click.option("--decisions", is_flag=True, help="Also photos with tags that you accepted, rejected or added.")
def forget(names: tuple[str, ...], database: Path | None, gone: bool, decisions: bool) -> None:
    """Remove photos, or all photos of a folder, from the library; no file is changed.

    Photos in a synced folder return with the next sync: exclude them with --exclude, or with a file
    .anytagignore in their folder.
    """
    if gone == bool(names):
        raise click.UsageError("Name photos or folders to remove, or give --gone: one of the two.")
    with library_sync.open_library(database) as library:
        if not decisions and (count := library.decided(*names)):
            raise click.UsageError(
                f"Your decisions about {counted(count, 'photo')} would be lost: save them with anytag "
                "library export FILE, then give --decisions."
            )
        count = library.forget_gone() if gone else library.forget(*names)
        click.echo(f"{counted(count, 'photo')} removed")


@command.command("export", short_help="Write all photos to a file of JSON lines.")
@click.argument("output", metavar="FILE", type=click.Path(allow_dash=True, path_type=Path))
@library_sync.database
@click.option("--labels", is_flag=True, help="Write your decisions and keywords as training data instead.")
def export(output: Path, database: Path | None, labels: bool) -> None:
    """Write all photos to FILE as JSON lines: tags, decisions, keywords, errors. - is stdout.

    With --labels FILE is training data for anytag calibrate and finetune: accepted and added tags, and your
    keywords that the vocabulary knows, are positive labels, rejected tags negative ones.
    """
    from anytag._io import atomic_write, check_output, is_lines_of
    from anytag.library.photo import Photo

    if not sinks.is_stdout(output):
        keys = ("image", "split", "captions", "tags", "absent") if labels else (*Photo.__slots__, "tags")
        is_earlier = is_lines_of(*keys, **({"source": "library"} if labels else {}))
        check_output(output, is_earlier=is_earlier, kind="an earlier export", parents=True)
    with library_sync.open_library(database) as library:
        photos = library.photos(states=("waiting", "done", "failed", "gone"), pairs=True)
        rows = library.labels() if labels else (photo.to_dict() for photo in photos)
        with sinks.atomic_output(output) as file, atomic_write(file) as draft:
            count = label_source.write_rows(draft, rows)
    sinks.say(f"{counted(count, 'photo')} -> {output}", output)
