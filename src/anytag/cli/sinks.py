"""Outputs for rows: stdout, or a file that is replaced atomically and can be resumed."""

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
from anytag.progress import counted

STDOUT = Path("-")
_CLOSED = "stdout is closed: give a FILE to write to."


def is_stdout(output: str | os.PathLike[str] | None) -> bool:
    """Whether an output is `-`, the name of stdout."""
    return output is not None and os.fspath(output) == os.fspath(STDOUT)


@contextmanager
def atomic_output(output: Path | str) -> Iterator[Path | str]:
    """The path to write a file to; for `-` a temporary file, which is copied to stdout at the end.

    Raises:
        OutputError: stdout cannot be written.
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
    """Print a message to stdout, or to stderr if one of the outputs is stdout."""
    click.echo(message, err=any(map(is_stdout, outputs)))


def open_output(output: Path | None, format_: str, *, resume: bool = False) -> Stdout | File:
    """Open the output for rows; a file must have passed `outputs.check_format`.

    Raises:
        click.UsageError: stdout is closed, or `resume` is set for stdout.
    """
    if output is not None and output != STDOUT:
        return File(output, format_, resume=resume)
    if resume:
        raise click.UsageError("--resume needs --output FILE.")
    return Stdout(format_)


def _encoding_errors(format_: str) -> str:
    # file names need not be valid Unicode: text and CSV keep their bytes, JSON escapes them
    return "backslashreplace" if format_ == "jsonl" else "surrogateescape"


class Stdout:
    """Writes rows to stdout, unbuffered."""

    def __init__(self, format_: str) -> None:
        if sys.stdout is None:
            raise click.UsageError(_CLOSED)
        self.is_terminal = sys.stdout.isatty()
        if isinstance(sys.stdout, io.TextIOWrapper):
            if self.is_terminal:
                sys.stdout.reconfigure(errors="backslashreplace")
            else:
                sys.stdout.reconfigure(encoding="utf-8", errors=_encoding_errors(format_))

    @property
    def is_shared(self) -> bool:
        """Whether rows may reach the terminal through another process, as in a pipe."""
        try:
            return not (self.is_terminal or Path(f"/dev/fd/{sys.stdout.fileno()}").is_file())
        except (OSError, ValueError):
            return True

    def __enter__(self) -> Stdout:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def begin(self, head: str = "", run: Mapping[str, object] | None = None) -> None:
        """Write the header."""
        if head:
            self.write(head)

    def is_done(self, path: str) -> bool:
        """False: stdout has no rows of an earlier run."""
        return False

    def write(self, lines: str, path: str | None = None, *, is_good: bool = True) -> None:
        """Write complete lines.

        Raises:
            OutputError: stdout cannot be written.
        """
        try:
            click.echo(lines, nl=False, color=True)  # else escape sequences in paths would be dropped
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(f"stdout cannot be written: {error.strerror or error}") from error


class File:
    """Writes rows, unbuffered, to `NAME.part`, which replaces `NAME` at the end.

    So `NAME` is never incomplete. After an interruption, `NAME.part` has the finished rows, and an earlier
    `NAME` is unchanged. The file is locked against other processes. `NAME.part.json` has the options and the
    model of the run, so that it is resumed only with the same ones. Pipes and devices are written directly.

    Args:
        path: a path that has passed `outputs.check_format`.
        format_: of the rows.
        resume: continue with the rows of `NAME.part`.
    """

    is_terminal = False
    is_shared = False

    def __init__(self, path: Path, format_: str, *, resume: bool = False) -> None:
        self._is_special = is_special(path)
        self.path = path if self._is_special else path.resolve()  # symbolic links are kept
        self.part = self.path if self._is_special else self.path.with_name(self.path.name + ".part")
        self._run_file = self.part.with_name(self.part.name + ".json")
        self._format, self._resume = format_, resume
        self._photos: dict[str, journal.Rows] = {}  # of the earlier run, and of this one that resumes it
        self._order: list[str] = []
        self._was_empty = self._is_resumed = self._has_good = False
        self._head = 0  # bytes before the first row of this run
        self._has_earlier = False  # whether there are rows of an earlier run
        self._file: FileIO
        if self._is_special and resume:
            raise click.UsageError(f"--resume needs a regular file, and {path} is not one.")

    def __enter__(self) -> File:
        """Open and lock the file.

        Raises:
            RefusedOutputError: another process writes it, it has rows of an earlier run, or it cannot be
                written.
        """
        try:
            self._file = FileIO(self.part, "w") if self._is_special else _locked(self.part)
        except OSError as error:
            raise RefusedOutputError(f"{self.part} cannot be written: {error.strerror or error}") from error
        self._head = self._size()
        self._was_empty = self._is_special or not self._head
        if not self._was_empty and not self._resume:
            self._file.close()
            way = "give --resume to continue it, or remove the file"
            raise RefusedOutputError(
                f"{self.part} has the rows of an unfinished run: "
                f"{way if self._can_resume else 'remove the file to start again'}"
            )
        return self

    @property
    def _can_resume(self) -> bool:
        """Whether the rows can be continued: their command has stored its options."""
        return self._run_file.exists()

    def begin(self, head: str = "", run: Mapping[str, object] | None = None) -> None:
        """Write the header, or read the rows of an earlier run.

        Args:
            head: header lines.
            run: options and model of the run; see `outputs.run_settings`.

        Raises:
            RefusedOutputError: the earlier run had other options or another model.
        """
        if not self._is_special:
            if self._size():
                self._resume_from(dict(run or {}))
            elif run is not None:
                _check_run_file(self._run_file)
                with atomic_write(self._run_file) as draft:
                    draft.write_text(json.dumps(run), encoding="utf-8")
        if head and (self._is_special or not self._size()):
            self._append(head)
        self._head = self._size()

    def is_done(self, path: str) -> bool:
        """Whether a photo has rows of an earlier run; call it for all photos, in the order of the input."""
        name = journal.key(path, self._format)
        if self._is_resumed:
            self._order.append(name)
        return name in self._photos and self._photos[name].is_good

    def write(self, lines: str, path: str | None = None, *, is_good: bool = True) -> None:
        """Write complete lines.

        Args:
            lines: the rows of a photo.
            path: path of the photo.
            is_good: whether it was read without error.

        Raises:
            OutputError: the file cannot be written, as on a full disk.
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
                click.echo(f"No photo could be read: {self.path} is unchanged.", err=True)
                self._remove()
            elif self._has_earlier or self._size() > self._head:  # an interrupt may come right after a row
                click.echo(f"Finished rows are in {self.part}", err=True)
                way = "To continue, run the same command with --resume."
                click.echo(way if self._can_resume else "To start again, remove that file.", err=True)
            elif self._was_empty:
                self._remove()

    def _size(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def _append(self, lines: str) -> None:
        data = lines.encode("utf-8", _encoding_errors(self._format))
        with writing(self.part):
            while data:  # a nearly full disk writes a part only
                data = data[self._file.write(data) :]

    def _resume_from(self, run: dict[str, object]) -> None:
        earlier = _read_run(self._run_file)
        if not earlier:
            raise RefusedOutputError(
                f"{self.part} cannot be resumed: {self._run_file}, which has its options, is missing or "
                "damaged; remove it to start again"
            )
        if other := sorted(name for name in {**earlier, **run} if earlier.get(name) != run.get(name)):
            raise RefusedOutputError(
                f"{self.part} was written with another {', '.join(other).replace('_', '-')}: "
                "resume it with its original options, or remove it"
            )
        self._photos, size = journal.read(self.part, self._format)
        with writing(self.part):
            self._file.truncate(size)
        self._is_resumed = True
        self._has_earlier = bool(self._photos)
        self._has_good = any(rows.is_good for rows in self._photos.values())

    def _finish(self) -> None:
        """Replace the file; rows of several runs are merged in the order of the input."""
        try:
            if self._is_resumed:
                self._merge()
                self._remove()
                return
            if sys.platform == "win32":
                self._file.close()  # Windows does not rename open files
            self.part.replace(self.path)
            self._run_file.unlink(missing_ok=True)
        except (OSError, OutputError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise OutputError(
                f"{self.path} cannot be written: {reason}. All rows are in {self.part}"
            ) from error

    def _merge(self) -> None:
        others = [name for name in self._photos.keys() - set(self._order) if name]
        if others:
            photos = counted(len(others), "photo")
            click.echo(f"Rows of {photos} of the earlier run that this one does not have are kept.", err=True)
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
        if "anytag" in _read_run(self._run_file):
            self._run_file.unlink()
        self.part.unlink(missing_ok=True)


def _locked(part: Path) -> FileIO:
    """Open a file for appending, created if it is missing, and lock it.

    Raises:
        RefusedOutputError: another process has locked it, or it is not a regular file.
    """
    if part.exists() and not part.is_file():
        raise RefusedOutputError(f"{part} is not a regular file: give another file, or remove it")
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
        file.close()  # another process has finished and renamed this file in the meantime


def _has_content(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _read_run(file: Path) -> dict[str, object]:
    """The options of an unfinished run; empty if they cannot be read."""
    try:
        run = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return run if isinstance(run, dict) else {}


def _check_run_file(file: Path) -> None:
    if _has_content(file) and "anytag" not in _read_run(file):
        raise RefusedOutputError(
            f"{file} exists and was not written by anytag: give another --output, or move it away"
        )
