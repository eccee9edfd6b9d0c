"""Where rows go: stdout, or a file that is whole or not there; no row is lost when the work stops."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from types import TracebackType

import click

from anytag._io import atomic_write, is_special, lock, writing
from anytag.cli import journal
from anytag.errors import OutputError, RefusedOutputError

STDOUT = Path("-")
_CLOSED = "stdout is closed: give a FILE to write to."


def is_stdout(output: str | os.PathLike[str] | None) -> bool:
    """Is it `-`, in every command the name of stdout?"""
    return output is not None and os.fspath(output) == os.fspath(STDOUT)


@contextmanager
def whole(output: Path | str) -> Iterator[Path | str]:
    """Where a file is written that takes its place at once; for `-` a draft, which goes to stdout at the end.

    Raises:
        OutputError: stdout takes no more.
    """
    if not is_stdout(output):
        yield output
        return
    if sys.stdout is None:
        raise click.UsageError(_CLOSED)
    with tempfile.TemporaryDirectory(prefix="anytag-") as folder:
        draft = Path(folder, "stdout")
        yield draft if isinstance(output, Path) else str(draft)
        with writing("stdout"), draft.open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.buffer.flush()


def say(message: str, *outputs: str | os.PathLike[str] | None) -> None:
    """Says what a command did: on stdout, or on stderr where one of its outputs is stdout."""
    click.echo(message, err=any(map(is_stdout, outputs)))


def open_output(output: Path | None, format_: str, *, resume: bool = False) -> Stdout | File:
    """Where rows go; a file is one that `outputs.settle` has let through.

    Raises:
        click.UsageError: stdout is closed, or cannot be resumed.
    """
    if output is not None and output != STDOUT:
        return File(output, format_, resume=resume)
    if resume:
        raise click.UsageError("--resume goes on with the FILE of --output: give it.")
    return Stdout(format_)


def _on_unfit(format_: str) -> str:
    # file names need not be Unicode: text and csv give their bytes back, JSON has an escape for them
    return "backslashreplace" if format_ == "jsonl" else "surrogateescape"


class Stdout:
    """Writes to stdout, each row at once."""

    def __init__(self, format_: str) -> None:
        if sys.stdout is None:
            raise click.UsageError(_CLOSED)
        self.is_terminal = sys.stdout.isatty()
        if isinstance(sys.stdout, io.TextIOWrapper):
            if self.is_terminal:
                sys.stdout.reconfigure(errors="backslashreplace")
            else:
                sys.stdout.reconfigure(encoding="utf-8", errors=_on_unfit(format_))

    @property
    def is_shared(self) -> bool:
        """May rows appear on the terminal without passing through this process?"""
        try:
            return not (self.is_terminal or Path(f"/dev/fd/{sys.stdout.fileno()}").is_file())
        except (OSError, ValueError):
            return True

    def __enter__(self) -> Stdout:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def begin(self, head: str = "", run: Mapping[str, object] | None = None) -> None:
        """Writes what stands before the first row."""
        if head:
            self.write(head)

    def is_done(self, path: str) -> bool:
        """Nothing was done before."""
        return False

    def write(self, lines: str, path: str | None = None, *, is_good: bool = True) -> None:
        """Writes whole lines.

        Raises:
            OutputError: stdout takes no more.
        """
        try:
            click.echo(lines, nl=False, color=True if self.is_terminal else None)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(f"stdout cannot be written: {error.strerror or error}") from error


class File:
    """Writes a file as rows come, each whole and at once, to `NAME.part` beside it, renamed when all is done.

    So `NAME` is never half a result. When the work is interrupted, `NAME.part` has the rows that were done,
    and an earlier `NAME` stays. The file is locked: another process cannot write it. What makes the rows as
    they are is in `NAME.part.json`, so that only the same work goes on. A pipe or device is written directly.

    Args:
        path: what `outputs.settle` has let through.
        format_: of the rows.
        resume: go on with the rows of `NAME.part`.
    """

    is_terminal = False
    is_shared = False

    def __init__(self, path: Path, format_: str, *, resume: bool = False) -> None:
        self._is_special = is_special(path)
        self.path = path if self._is_special else path.resolve()  # a link stays a link
        self.part = self.path if self._is_special else self.path.with_name(self.path.name + ".part")
        self._run_file = self.part.with_name(self.part.name + ".json")
        self._format, self._resume = format_, resume
        self._photos: dict[str, journal.Rows] = {}  # those of an earlier run, and of this one that goes on
        self._order: list[str] = []
        self._was_empty = self._is_resumed = self._has_good = False
        self._head = 0  # bytes before the first row of this run
        self._has_earlier = False  # rows, of a run that this one goes on with
        self._file: FileIO
        if self._is_special and resume:
            raise click.UsageError(f"--resume goes on with a file, and {path} is none.")

    def __enter__(self) -> File:
        """Opens and locks the file.

        Raises:
            RefusedOutputError: another process writes it, rows of an earlier run are there, or it cannot be
                written.
        """
        try:
            self._file = FileIO(self.part, "w") if self._is_special else _locked(self.part)
        except OSError as error:
            raise RefusedOutputError(f"{self.part} cannot be written: {error.strerror or error}") from error
        self._was_empty = self._is_special or not self._size()
        if not self._was_empty and not self._resume:
            self._file.close()
            raise RefusedOutputError(
                f"{self.part} has the rows of an earlier run that did not end: give --resume to go on with "
                "them, or remove it"
            )
        return self

    def begin(self, head: str = "", run: Mapping[str, object] | None = None) -> None:
        """Writes what stands before the first row, or finds the rows of an earlier run.

        Args:
            head: lines.
            run: what makes the rows as they are, see `outputs.work`.

        Raises:
            RefusedOutputError: other work made the rows that are there.
        """
        if not self._is_special:
            if self._size():
                self._go_on(dict(run or {}))
            elif run is not None:
                _check_run_file(self._run_file)
                with atomic_write(self._run_file) as draft:
                    draft.write_text(json.dumps(run), encoding="utf-8")
        if head and (self._is_special or not self._size()):
            self._append(head)
        self._head = self._size()

    def is_done(self, path: str) -> bool:
        """Has a photo its rows from an earlier run? Ask for each photo, in the order of the input."""
        name = journal.key(path, self._format)
        if self._is_resumed:
            self._order.append(name)
        return name in self._photos and self._photos[name].is_good

    def write(self, lines: str, path: str | None = None, *, is_good: bool = True) -> None:
        """Writes whole lines.

        Args:
            lines: the rows of a photo.
            path: the photo.
            is_good: it was read.

        Raises:
            OutputError: the disk is full, or gone.
        """
        start = self._size()
        self._append(lines)
        self._has_good = self._has_good or is_good
        if self._is_resumed and path is not None:
            self._photos[journal.key(path, self._format)] = journal.Rows(start, self._size(), is_good)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            if self._is_special:
                return
            if error is None and (self._has_good or not _has_content(self.path)):
                self._finish()
            elif error is None:
                click.echo(f"No photo could be read: {self.path} stays as it was.", err=True)
                self._remove()
            elif self._has_earlier or self._size() > self._head:  # an interrupt may come right after a row
                click.echo(f"What was done is in {self.part}", err=True)
                click.echo("To go on, give the same command with --resume.", err=True)
            elif self._was_empty:
                self._remove()

    def _size(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def _append(self, lines: str) -> None:
        data = lines.encode("utf-8", _on_unfit(self._format))
        with writing(self.part):
            while data:  # a disk that is nearly full takes a part
                data = data[self._file.write(data) :]

    def _go_on(self, run: dict[str, object]) -> None:
        earlier = _run_in(self._run_file)
        if not earlier:
            raise RefusedOutputError(
                f"{self.part} cannot be gone on with: {self._run_file}, which says what made it, is missing "
                "or damaged; remove it to begin anew"
            )
        if other := sorted(name for name in {**earlier, **run} if earlier.get(name) != run.get(name)):
            raise RefusedOutputError(
                f"{self.part} was made with another {', '.join(other).replace('_', '-')}: "
                "give --resume with the command that made it, or remove it"
            )
        self._photos, whole = journal.read(self.part, self._format)
        with writing(self.part):
            self._file.truncate(whole)
        self._is_resumed = True
        self._has_earlier = bool(self._photos)
        self._has_good = any(rows.is_good for rows in self._photos.values())

    def _finish(self) -> None:
        """The rows take the place of the file; those of several runs in the order of the input."""
        try:
            if self._is_resumed:
                self._merge()
                self._remove()
                return
            if sys.platform == "win32":
                self._file.close()  # there an open file keeps its name
            self.part.replace(self.path)
            self._run_file.unlink(missing_ok=True)
        except (OSError, OutputError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise OutputError(f"{self.path} cannot be written: {why}. All rows are in {self.part}") from error

    def _merge(self) -> None:
        others = [name for name in self._photos.keys() - set(self._order) if name]
        if others:
            click.echo(
                f"{len(others)} photos of the earlier run are not named now; their rows stay.", err=True
            )
        names = [*(name for name in self._photos if name in set(others)), *self._order]
        with atomic_write(self.path) as draft, draft.open("wb") as merged, self.part.open("rb") as rows:
            if self._format == "csv":
                merged.write(rows.readline())
            for place in (self._photos[name] for name in names if name in self._photos):
                rows.seek(place.start)
                merged.write(rows.read(place.end - place.start))

    def _remove(self) -> None:
        if sys.platform == "win32":
            self._file.close()
        if "anytag" in _run_in(self._run_file):
            self._run_file.unlink()
        self.part.unlink(missing_ok=True)


def _locked(part: Path) -> FileIO:
    """The file, made where it is missing, opened to append, and locked.

    Raises:
        RefusedOutputError: another process has it, or something else has its name, as a pipe.
    """
    if part.exists() and not part.is_file():
        raise RefusedOutputError(f"{part} is there and is no file: give another file, or remove it")
    while True:
        file = FileIO(part, "a")
        if not lock(file):
            file.close()
            raise RefusedOutputError(f"{part} is being written by another process: give another file")
        try:
            if os.path.samestat(os.fstat(file.fileno()), part.stat()):
                return file
        except FileNotFoundError:
            pass
        file.close()  # the other process came to its end in between, and this file has another name now


def _has_content(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _run_in(file: Path) -> dict[str, object]:
    """What made an unfinished file; nothing where that is not known."""
    try:
        run = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return run if isinstance(run, dict) else {}


def _check_run_file(file: Path) -> None:
    if _has_content(file) and "anytag" not in _run_in(file):
        raise RefusedOutputError(
            f"{file} is there, and not of anytag: give another --output, or move it away"
        )
