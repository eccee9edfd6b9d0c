"""`anytag library sync`, and how each command of the library finds its database."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from anytag._io import refuse_photo_name
from anytag.cli import options, sinks, stream
from anytag.cli.writers import complain

if TYPE_CHECKING:
    from anytag.captioner import Captioner
    from anytag.library.library import Library
    from anytag.library.look import Event
    from anytag.library.sync import Report, Sync
    from anytag.tagger import Tagger

F = TypeVar("F", bound=Callable[..., Any])
_SAID = (
    "pending",
    "new",
    "changed",
    "unchanged",
    "moved",
    "copied",
    "tagged",
    "waits",
    "failed",
    "gone",
    "kept",
)
_WORDS = {"pending": "to be looked at", "waits": "being written", "kept": "missing and kept"}


def database(command: F) -> F:
    """The option that names another library than the user's own."""
    return click.option(
        "--database",
        metavar="FILE",
        type=options.Place(dir_okay=False, path_type=Path),
        help="The library's database.  [default: library.db in your data folder]",
    )(command)


@contextmanager
def opened(database: Path | None) -> Iterator[Library]:
    """A library that is there.

    Raises:
        click.UsageError: there is none.
    """
    from anytag.library.library import Library, default_path

    path = database or default_path()
    if not path.exists():
        raise click.UsageError(f"There is no library at {path}: make one with anytag library sync FOLDER.")
    with Library.open(path) as library:
        yield library


@click.command("sync", short_help="Tag new and changed photos.")
@click.argument("folders", metavar="[FOLDER]...", nargs=-1, type=click.Path())
@database
@click.option(
    "--exclude",
    metavar="GLOB",
    multiple=True,
    help="Leave out files and folders whose name or path matches. May be repeated.",
)
@click.option("--follow", is_flag=True, help="Follow links to folders, each folder once.")
@click.option(
    "--dry-run", is_flag=True, help="Write nothing; show what would be processed or marked as gone."
)
@click.option("--accept-missing", is_flag=True, help="Mark missing photos as gone, however many they are.")
@click.option(
    "--retag",
    is_flag=True,
    help="Tag photos again that another model or vocabulary tagged; may be interrupted.",
)
@click.option("--captions", is_flag=True, help="Generate captions, also for photos that have none yet.")
@click.option(
    "--no-thumbnails",
    is_flag=True,
    help="Do not store thumbnails for the page of anytag serve.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["text", "jsonl"]),
    default="text",
    show_default=True,
    help="jsonl writes a row for each processed photo.",
)
@options.running
def command(
    folders: tuple[str, ...],
    database: Path | None,
    exclude: tuple[str, ...],
    follow: bool,
    dry_run: bool,
    accept_missing: bool,
    retag: bool,
    captions: bool,
    no_thumbnails: bool,
    format_: str,
    running: options.Running,
) -> None:
    """Sync the library with FOLDERs, or with all its folders: tag new and changed photos.

    Photos that were moved, renamed or touched, or had tags written into them, are not tagged again. A photo
    that failed is tried again when its file changes. If a folder does not exist, or most photos of a disk are
    missing, none is marked as gone.

    Exit code: 0 success, 1 some photos cannot be read or are missing, each time until they are repaired or
    excluded, 2 usage error, 3 the database cannot be written, 130 interrupted: finished photos are kept, and
    the next sync continues.
    """
    from anytag.library.sync import Sync

    def load() -> tuple[Tagger, Captioner | None]:
        from anytag.tagger import Tagger

        if not captions:
            return Tagger.load(running.model, device=running.device, max_pixels=running.max_pixels), None
        from anytag.captioner import Captioner

        captioner = Captioner.load(running.model, device=running.device, max_pixels=running.max_pixels)
        return captioner.tagger, captioner

    with _library(database, dry_run=dry_run) as library, sinks.open_output(None, format_) as sink:
        sync = Sync(library.database, folders, exclude=exclude, follow=follow, accept_missing=accept_missing)
        with sync:
            if dry_run:
                events = sync.rehearse()
            else:
                sync.scan()
                events = sync.look(
                    load,
                    retag=retag,
                    captions=captions,
                    thumbnails=not no_thumbnails,
                    batch_size=running.batch_size,
                    workers=running.workers,
                )
            _run(sync, events, sink, format_)


@contextmanager
def _library(database: Path | None, *, dry_run: bool) -> Iterator[Library]:
    """The library, made where it is not there, but for a dry run."""
    from anytag.library.library import Library, default_path

    path = database or default_path()
    refuse_photo_name(path)
    with tempfile.TemporaryDirectory() as scratch:
        if dry_run and not path.exists():
            path = Path(scratch, path.name)
        with Library.open(path) as library:
            if library.database.is_shared:
                complain(
                    f"{path} lies on a file system of a network: it is written without a write-ahead log, "
                    "which is slower. --database FILE names one on a disk of this machine."
                )
            yield library


def _run(
    sync: Sync, events: Generator[Event, None, None], sink: sinks.Stdout | sinks.File, format_: str
) -> None:
    """Events out, the bar, the failures, the end."""
    summary = stream.Summary()

    def row(event: Event) -> str:
        return json.dumps(event.to_dict(), ensure_ascii=False) + "\n" if format_ == "jsonl" else ""

    with closing(events):
        shown = stream.with_progress(events, sync.total, is_shared=sink.is_shared)
        stream.write_rows(shown, sink, row, summary)
    report = sync.end()
    for name, failure in sync.found.failures.items():
        summary.add(name, failure)
    if format_ == "text":
        click.echo(_told(report))
    if report.refused:
        complain(report.refused)
    if known := report.failed - len(report.failures):
        complain(f"{known} failed before and did not change: anytag library list --state failed says why.")
    summary.end()
    if not report.is_good:
        click.get_current_context().exit(1)


def _told(report: Report) -> str:
    counts = [(_WORDS.get(name, name), getattr(report, name)) for name in _SAID]
    return f"{report.photos} photos: " + (", ".join(f"{n} {what}" for what, n in counts if n) or "none")
