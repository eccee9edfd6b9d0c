"""Files that are written whole or not at all, and outputs that never replace what the run did not make."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from anytag.errors import AnytagError, OutputError


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A draft beside `path` to write into, which takes its place at the end; after an error it is as before.

    The draft's name is unique, so that two processes never write one file. A link stays a link. The file gets
    the mode that any new file gets, also where a library (safetensors) makes a private one.

    Raises:
        OutputError: the folder is missing or not writable, the disk is full; names `path` and the reason.
    """
    target = Path(path).resolve()
    with _writing(target), _draft_beside(target) as draft:
        yield draft
        draft.chmod(0o666 & ~_umask())
        draft.replace(target)


@contextmanager
def atomic_folder(path: str | os.PathLike[str], *, replace: bool = False) -> Iterator[Path]:
    """The same for a folder: an empty draft folder, renamed to `path` at the end.

    Args:
        replace: a folder that is there gives way once all is written; say so only of one that may go.

    Raises:
        OutputError: `path` is there and `replace` is false, or it cannot be written.
    """
    target = Path(path).resolve()
    if target.exists() and not replace:
        raise OutputError(f"{path} is there already: give another folder, or remove it first")
    with _writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as work:
            draft, old = Path(work, "new"), Path(work, "old")
            draft.mkdir()
            yield draft
            if target.exists():
                target.rename(old)  # removed with the draft's folder, after the new one is in place
            draft.rename(target)


def same_file(one: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    """Are these one file, by whatever names, links included?"""
    try:
        return os.path.samefile(one, other)  # noqa: PTH121  # takes names of any kind
    except (OSError, ValueError):
        return False


def refuse_inputs(output: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str]]) -> None:
    """Holds an output against the inputs of the run.

    Raises:
        OutputError: `output` is one of `inputs`, by this or another name.
    """
    if not os.path.lexists(output):
        return
    for name in inputs:
        if same_file(output, name):
            raise OutputError(f"{os.fspath(output)} is an input of this run: give another file to write to")


def lock(file: IO[Any]) -> bool:
    """Locks an open file for this process until it is closed, or the process dies, however that happens.

    Returns:
        False where another process holds it. File systems without locks give True.
    """
    if sys.platform == "win32":
        import msvcrt

        place = file.tell()
        file.seek(1 << 40)  # far behind the content, which others may read meanwhile
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
def _writing(target: Path) -> Iterator[None]:
    """Any writer's failure as one error with the file's name; errors of ours pass."""
    try:
        yield
    except AnytagError:
        raise
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror or error}") from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":  # of a package that need not be imported for this
            raise
        raise OutputError(f"{target} cannot be written: {error}") from error


@contextmanager
def _draft_beside(target: Path) -> Iterator[Path]:
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".new", dir=target.parent)
    os.close(handle)
    draft = Path(name)
    try:
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)  # the only portable way to read it
    os.umask(mask)
    return mask
