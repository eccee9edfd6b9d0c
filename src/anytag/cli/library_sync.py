"""`anytag library sync`, and the option --database of all library commands."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from anytag._io import refuse_photo_name
from anytag.cli import options, paths, sinks, stream
from anytag.cli.writers import echo_error
from anytag.progress import counted

if TYPE_CHECKING:
    from anytag.captioner import Captioner
    from anytag.library.library import Library
    from anytag.library.process import Event
    from anytag.library.sync import Report, Sync
    from anytag.tagger import Tagger

F = TypeVar("F", bound=Callable[..., Any])
_COUNTS = (
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
_LABELS = {"pending": "to be tagged", "waits": "still being written", "kept": "missing but kept"}


def database(command: F) -> F:
    """The option --database."""
    return click.option(
        "--database",
        metavar="FILE",
        type=options.OutputPath(dir_okay=False, path_type=Path),
        help="The library.  [default: library.db in your data folder]",
    )(command)


def existing_library(database: Path | None) -> Path:
    """The file of an existing library.

    Raises:
        click.UsageError: it does not exist.
    """
    from anytag.library.library import default_path

    path = database or default_path()
    if not path.exists():
        raise click.UsageError(f"There is no library at {path}: create one with anytag library sync FOLDER.")
    return path


@contextmanager
def open_library(database: Path | None) -> Iterator[Library]:
    """Open an existing library; errors as for `existing_library`."""
    from anytag.library.library import Library

    with Library.open(existing_library(database)) as library:
        yield library


@click.command("sync", short_help="Tag new and changed photos.")
@click.argument("folders", metavar="[FOLDER]...", nargs=-1, type=paths.PATH)
@database
@click.option(
    "--exclude",
    metavar="GLOB",
    multiple=True,
    help="Skip files and folders whose name or path matches. May be repeated.",
)
@click.option("--follow", is_flag=True, help="Follow links to folders, each folder once.")
@click.option(
    "--dry-run", is_flag=True, help="Show which photos would be tagged or marked as gone; write nothing."
)
@click.option(
    "--accept-missing", is_flag=True, help="Mark all missing photos as gone, however many there are."
)
@click.option(
    "--retag", is_flag=True, help="Tag photos again that another model or vocabulary tagged; can be resumed."
)
@click.option("--captions", is_flag=True, help="Also caption photos, including those tagged without.")
@click.option(
    "--no-thumbnails",
    is_flag=True,
    help="Do not store thumbnails, which the page of anytag serve shows.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["text", "jsonl"]),
    default="text",
    show_default=True,
    help="Output format; jsonl is one row per tagged photo.",
)
@options.model_options
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
    model_options: options.ModelOptions,
) -> None:
    """Synchronise the library with FOLDERs, or with all its folders: tag new and changed photos.

    Photos that were moved, renamed or touched, or whose metadata changed, are not tagged again. A failed
    photo is tried again when its file changes. If a folder is missing, or most photos of a disk are, no photo
    is marked as gone.

    Exit code: 0 success, 1 some photos cannot be read or are missing, until they are repaired or excluded, 2
    invalid usage, 3 the database cannot be written, 130 interrupted: finished photos are kept, and the next
    sync continues.
    """
    from anytag.library.sync import Sync

    def load() -> tuple[Tagger, Captioner | None]:
        from anytag.tagger import Tagger

        if not captions:
            return Tagger.load(
                model_options.model, device=model_options.device, max_pixels=model_options.max_pixels
            ), None
        from anytag.captioner import Captioner

        captioner = Captioner.load(
            model_options.model, device=model_options.device, max_pixels=model_options.max_pixels
        )
        return captioner.tagger, captioner

    with _library(database, folders, dry_run=dry_run) as library, sinks.open_output(None, format_) as sink:
        sync = Sync(library.database, folders, exclude=exclude, follow=follow, accept_missing=accept_missing)
        with sync:
            if dry_run:
                events = sync.dry_run()
            else:
                sync.scan()
                events = sync.process(
                    load,
                    retag=retag,
                    captions=captions,
                    thumbnails=not no_thumbnails,
                    batch_size=model_options.batch_size,
                    workers=model_options.workers,
                )
            _run(sync, events, sink, format_)


@contextmanager
def _library(database: Path | None, folders: Sequence[str], *, dry_run: bool) -> Iterator[Library]:
    """Open the library, created if it does not exist; a dry run creates a temporary one.

    Raises:
        LibraryError: there is no library, and one with these folders could not be synced.
    """
    from anytag.library.library import Library, default_path
    from anytag.library.sync import Sync

    path = database or default_path()
    refuse_photo_name(path)
    with tempfile.TemporaryDirectory() as scratch:
        if not path.exists():
            trial = Path(scratch, path.name)
            with Library.open(trial) as library:
                Sync(library.database, folders).check()
            path = trial if dry_run else path
        with Library.open(path) as library:
            if library.database.is_shared:
                echo_error(
                    f"{path} is on a network file system: it is written without a write-ahead log, which is "
                    "slower. Use --database FILE for one on a local disk."
                )
            yield library


def _run(
    sync: Sync, events: Generator[Event, None, None], sink: sinks.Stdout | sinks.File, format_: str
) -> None:
    """Write the events with a progress bar, report failures and set the exit code."""
    summary = stream.Summary()

    def row(event: Event) -> str:
        return json.dumps(event.to_dict(), ensure_ascii=False) + "\n" if format_ == "jsonl" else ""

    with closing(events):
        shown = stream.with_progress(events, sync.total, is_shared=sink.is_shared)
        stream.write_rows(shown, sink, row, summary)
    report = sync.end()
    for name, failure in sync.found.failures.items():
        if Path(name).is_dir():
            echo_error(f"Failed: {failure.message}")
        else:
            summary.add(name, failure)
    if format_ == "text":
        click.echo(_summary_line(report))
    if report.refused:
        echo_error(report.refused)
    if known := report.failed - len(report.failures):
        echo_error(f"{known} failed before and have not changed; see anytag library list --state failed.")
    summary.end()
    if not report.is_good:
        click.get_current_context().exit(1)


def _summary_line(report: Report) -> str:
    counts = {_LABELS.get(name, name): getattr(report, name) for name in _COUNTS}
    folders = sum(Path(name).is_dir() for name in report.failures)
    counts["failed"] -= folders
    counts["unreadable folder" if folders == 1 else "unreadable folders"] = folders
    found = ", ".join(f"{n} {what}" for what, n in counts.items() if n)
    return f"{counted(report.photos, 'photo')}: {found or 'none'}"
