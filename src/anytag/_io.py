"""Atomic writes, file locks, and checks that an output never replaces a file that the run did not make."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from anytag.errors import AnytagError, OutputError, RefusedOutputError
from anytag.suffixes import IMAGE_SUFFIXES

DRAFT_NAME_LENGTH = 50
"""Characters of the file's name that its draft's name repeats: the file's name may be as long as allowed."""

Recognizer = Callable[[Path], bool]
"""Whether a file or folder is an earlier result of the same command, which a new one may replace."""


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a draft beside `path` to write to, and rename it to `path` at the end.

    After an error `path` is as it was before. The draft's name is unique, so two processes never write to the
    same file. Symbolic links are kept. An existing file keeps its mode and, on Linux, its extended attributes
    (in which file managers store tags and ratings; access lists); a new one gets the default mode, even where
    a library (safetensors) creates private files. Pipes and devices are written to directly.

    Raises:
        OutputError: the folder is missing or not writable, or the disk is full; names `path` and the reason.
    """
    target = Path(path).resolve()
    if is_special(target):
        with writing(target):
            yield target
        return
    with writing(target), _draft_beside(target) as draft:
        yield draft
        is_there = target.exists()
        if is_there:  # while the draft is certainly writable
            _copy_attributes(target, draft)
            _flush(draft)  # on some file systems a power cut would otherwise leave neither file
        draft.chmod(target.stat().st_mode & 0o777 if is_there else 0o666 & ~_umask())
        draft.replace(target)


@contextmanager
def atomic_folder(path: str | os.PathLike[str], *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty draft folder, and rename it to `path` at the end.

    Args:
        replace: whether an existing folder is replaced once everything is written.

    Raises:
        OutputError: `path` exists and `replace` is false, or it cannot be written.
    """
    target = Path(path).resolve()
    if target.exists() and not replace:
        raise RefusedOutputError(f"{path} exists already: give another folder, or remove it first")
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as work:
            draft, old = Path(work, "new"), Path(work, "old")
            draft.mkdir()
            yield draft
            if target.exists():
                target.rename(old)  # removed with the draft's folder, after the new one is in place
            draft.rename(target)


def identity(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """Return device and inode of a file, the same for all its names; None if it does not exist."""
    try:
        facts = os.stat(path)  # noqa: PTH116  # accepts names of any type, and is fast
    except (OSError, ValueError):
        return None
    return facts.st_dev, facts.st_ino


def version(path: str | os.PathLike[str]) -> tuple[int, ...] | None:
    """Return a key that changes when the file is written or replaced; None if it does not exist."""
    try:
        facts = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns


def refuse_inputs(output: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str]]) -> None:
    """Check that an output is none of the run's inputs, by any name, links included.

    Raises:
        RefusedOutputError: `output` is one of `inputs`.
    """
    if (output_identity := identity(output)) is None:
        return
    for name in inputs:
        if identity(name) == output_identity:
            raise RefusedOutputError(
                f"{os.fspath(output)} is an input of this run: give another file to write to"
            )


def refuse_photo_name(output: str | os.PathLike[str]) -> None:
    """Check that the name of an output that is not an image does not have the suffix of a photo or sidecar.

    Raises:
        RefusedOutputError: it has; most likely the shell expanded a glob and put a photo in the output's
            place.
    """
    suffix = os.path.splitext(os.fspath(output))[1].lower()  # noqa: PTH122  # accepts names of any type
    what = "a sidecar" if suffix == ".xmp" else "a photo" if suffix in IMAGE_SUFFIXES else None
    if what is not None:
        raise RefusedOutputError(f"{output} has the suffix of {what}: give an output with another suffix")


def check_output(
    output: str | os.PathLike[str],
    inputs: Iterable[str | os.PathLike[str]] = (),
    *,
    is_earlier: Recognizer | None = None,
    overwrite: bool = False,
    hint: str = "give another file, or remove it first",
    kind: str = "an earlier result of this command",
    parents: bool = False,
) -> None:
    """Check an output file before the work starts and before anything is loaded.

    Args:
        output: a text, table or data file of anytag; never a photo.
        inputs: all files that the run reads.
        is_earlier: whether a file is an earlier result of the same command, which the new one may replace; by
            default none is.
        overwrite: any other existing text file may be replaced too, unless it is an input.
        hint: what to do about a file that may not be replaced.
        kind: description of the files that `is_earlier` accepts.
        parents: the writer creates missing parent folders.

    Raises:
        RefusedOutputError: `output` has the suffix of a photo, is an input, a folder or an unrelated file,
            or cannot be written.
    """
    special = is_special(Path(output))  # /dev/stdout may be a pipe, which has no path to resolve
    target = Path(output) if special else resolved(output)
    for name in (Path(output), target):
        refuse_photo_name(name)
    if target.is_dir():
        raise RefusedOutputError(f"{output} is a folder: give a file to write to")
    refuse_inputs(output, inputs)
    if special:
        return
    _check_place(_existing(target.parent) if parents else target.parent, output)
    if not target.exists() or target.stat().st_size == 0:
        return
    if overwrite:
        is_earlier, kind, hint = _is_text, "a text file", "give another file, or remove it first"
    elif not os.access(target, os.W_OK):
        raise RefusedOutputError(f"{output} is write-protected: give another file to write to")
    if is_earlier is None:
        raise RefusedOutputError(f"{output} exists already: {hint}")
    if not _recognized(target, is_earlier):
        raise RefusedOutputError(f"{output} exists already and is not {kind}: {hint}")


def _is_text(path: Path) -> bool:
    """Whether a file is none of photos and films with unusual suffixes, and databases."""
    with path.open("rb") as file:
        return b"\0" not in file.read(4096)


def is_lines_of(*keys: str, optional: Iterable[str] = (), **values: object) -> Recognizer:
    """Return a predicate for files of JSON lines, by the first line.

    Args:
        keys: all of them must be there, and no others except the following.
        optional: keys that may be missing.
        values: keys with the value that they must have.
    """
    required = {*keys, *values}
    allowed = {*required, *optional}

    def matches(path: Path) -> bool:
        with path.open(encoding="utf-8-sig") as file:
            row = json.loads(file.readline())
        if not isinstance(row, dict) or not required <= row.keys() <= allowed:
            return False
        return all(row[key] == value for key, value in values.items())

    return matches


def begins_with(start: bytes) -> Recognizer:
    """Return a predicate for files with these first bytes."""

    def matches(path: Path) -> bool:
        with path.open("rb") as file:
            return file.read(len(start)) == start

    return matches


def read_text(path: str | os.PathLike[str]) -> str:
    """Read a file in UTF-8, or in UTF-16 with a byte order mark; the mark is removed.

    Raises:
        AnytagError: it cannot be read or decoded.
    """
    try:
        return decoded(Path(path).read_bytes())
    except OSError as error:
        raise AnytagError(f"{os.fspath(path)} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise AnytagError(f"{os.fspath(path)} is not in UTF-8 ({error.reason}): save it as UTF-8") from error


def decoded(raw: bytes, *, bytes_stay: bool = False) -> str:
    """Decode text in UTF-8, or in UTF-16 with a byte order mark; the mark is removed.

    Args:
        raw: the encoded text.
        bytes_stay: keep bytes that are not UTF-8, as `os.fsdecode` does, because file names may contain any.

    Raises:
        UnicodeDecodeError: it is in neither encoding.
    """
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return raw.decode("utf-16", "replace" if bytes_stay else "strict")
    return raw.decode("utf-8-sig", "surrogateescape" if bytes_stay else "strict")


def check_folder(
    folder: str | os.PathLike[str],
    inputs: Iterable[str | os.PathLike[str]] = (),
    *,
    is_earlier: Recognizer | None = None,
) -> None:
    """Check an output folder that a command writes as a whole, missing parents included.

    Args:
        inputs: files and folders that the run reads: none may be `folder` or lie in it.
        is_earlier: whether a folder is an earlier result of the same command, to be replaced or continued.

    Raises:
        RefusedOutputError: `folder` is or contains an input, is a file, contains unrelated files, or
            cannot be created.
    """
    target, inputs = resolved(folder), list(inputs)
    refuse_inputs(folder, inputs)
    if target.exists() and not target.is_dir():
        raise RefusedOutputError(f"{folder} is a file: give a folder to write to")
    for name in inputs:
        if identity(name) is not None and resolved(name).is_relative_to(target):
            raise RefusedOutputError(f"{folder} contains the input {os.fspath(name)}: give another folder")
    _check_place(_existing(target), folder)
    if target.exists() and any(target.iterdir()) and not (is_earlier and _recognized(target, is_earlier)):
        raise RefusedOutputError(f"{folder} exists and is not empty: give a folder that does not exist yet")


def not_inputs(inputs: Iterable[str], outputs: Iterable[str | os.PathLike[str]]) -> Iterator[str]:
    """Yield the inputs and check each against the outputs, for inputs that cannot be listed in advance.

    Raises:
        RefusedOutputError: an input is one of the outputs.
    """
    files = list(outputs)
    for name in inputs:
        for file in files:
            refuse_inputs(file, [name])
        yield name


def resolved(path: str | os.PathLike[str]) -> Path:
    """Resolve all symbolic links of a path.

    Raises:
        RefusedOutputError: the links form a loop, or a folder on the way is not accessible.
    """
    try:
        return Path(path).resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise RefusedOutputError(f"{os.fspath(path)!r} is not a file that can be written: {error}") from error


def is_special(path: Path) -> bool:
    """Whether a path is a pipe or device, which is written directly."""
    return path.exists() and not path.is_file() and not path.is_dir()


def lock(file: IO[Any]) -> bool:
    """Lock an open file for this process until it is closed or the process ends, even if it is killed.

    Returns:
        False if another process holds the lock. True on file systems without locks.
    """
    if sys.platform == "win32":
        import msvcrt

        place = file.tell()
        file.seek(1 << 40)  # far past the content, which others may read meanwhile
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            file.seek(place)
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


@contextmanager
def locked(path: str | os.PathLike[str]) -> Iterator[None]:
    """Hold a lock on a file, which is created if needed and kept; the lock ends with the process at latest.

    Raises:
        RefusedOutputError: another process holds the lock.
    """
    with ExitStack() as stack:
        with writing(Path(path)):
            file = stack.enter_context(open(path, "ab"))  # noqa: PTH123  # takes names of any kind
        if not lock(file):
            folder = os.path.dirname(os.fspath(path)) or "."  # noqa: PTH120
            raise RefusedOutputError(
                f"{folder} is being written by another process: wait for it, or give another output"
            )
        yield


def _existing(place: Path) -> Path:
    """Return the folder itself or its nearest existing parent."""
    return next(one for one in (place, *place.parents) if one.exists())


def _check_place(parent: Path, output: str | os.PathLike[str]) -> None:
    if not parent.is_dir():
        raise RefusedOutputError(f"Cannot write {output}: {parent} is not a folder; create it first")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise RefusedOutputError(f"Cannot write {output}: no permission for the folder {parent}")


def _recognized(path: Path, is_earlier: Recognizer) -> bool:
    """Apply `is_earlier` to a file of any content."""
    try:
        return is_earlier(path)
    except (OSError, ValueError):  # not readable, not UTF-8, not JSON
        return False


@contextmanager
def writing(target: str | os.PathLike[str]) -> Iterator[None]:
    """Turn a writer's errors into an OutputError with the file's name; errors of anytag pass unchanged."""
    try:
        yield
    except AnytagError:
        raise
    except BrokenPipeError:
        raise  # of stdout: the reader has closed it
    except OSError as error:
        raise OutputError(f"{os.fspath(target)} cannot be written: {error.strerror or error}") from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":  # by name, so that safetensors need not be imported
            raise
        raise OutputError(f"{os.fspath(target)} cannot be written: {error}") from error


@contextmanager
def _draft_beside(target: Path) -> Iterator[Path]:
    handle, name = tempfile.mkstemp(
        prefix=f".{target.name[:DRAFT_NAME_LENGTH]}.", suffix=".new", dir=target.parent
    )
    os.close(handle)
    draft = Path(name)
    try:
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def _flush(file: Path) -> None:
    """Write a file's content to the disk."""
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())


def _copy_attributes(source: Path, target: Path) -> None:
    """Copy extended attributes, except those that only root may set; on Linux only."""
    if sys.platform != "linux":
        return
    with suppress(OSError):
        for name in os.listxattr(source):
            with suppress(OSError):
                os.setxattr(target, name, os.getxattr(source, name))


def _umask() -> int:
    mask = os.umask(0)  # the only portable way to read it
    os.umask(mask)
    return mask
