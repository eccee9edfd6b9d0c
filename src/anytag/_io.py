"""Files that are written whole or not at all, and outputs that never replace what the run did not make."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from anytag.errors import AnytagError, OutputError


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A draft beside `path` to write into, which takes its place at the end; after an error it is as before.

    The draft's name is unique, so that two processes never write one file. A link stays a link. The file gets
    the mode that any new file gets, also where a library (safetensors) makes a private one. A pipe or device
    is no file to replace: it is written to as it is.

    Raises:
        OutputError: the folder is missing or not writable, the disk is full; names `path` and the reason.
    """
    target = Path(path).resolve()
    if target.exists() and not target.is_file() and not target.is_dir():
        with writing(target):
            yield target
        return
    with writing(target), _draft_beside(target) as draft:
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
    with writing(target):
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


PHOTO_SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .tif .tiff .bmp .gif .avif .heic .heif .jxl .dng".split()  # noqa: SIM905
)
"""What names of photos end in: no output that is not a picture has such a name."""


def refuse_photo_name(output: str | os.PathLike[str]) -> None:
    """Holds the name of an output that is no picture against those of photos.

    Raises:
        OutputError: it ends as a photo's name does: most likely the shell put a photo in the output's place.
    """
    suffix = os.path.splitext(os.fspath(output))[1].lower()  # noqa: PTH122  # takes names of any kind
    if suffix in PHOTO_SUFFIXES:
        raise OutputError(
            f"{os.fspath(output)} has the suffix of a photo, {suffix}: give a file to write to that is none"
        )


def refuse_other_kind(output: str | os.PathLike[str], is_kind: Callable[[bytes], bool], what: str) -> None:
    """Holds a file that an output would replace against what such outputs are; an empty one may go.

    Args:
        is_kind: told the file's first 4096 bytes.
        what: such a file, in words: "a vocabulary".

    Raises:
        OutputError: it is something else, or no file.
    """
    path = Path(output)
    refuse_photo_name(path)
    if path.is_dir():
        raise OutputError(f"{path} is a folder: give a file to write to")
    if not path.is_file():  # nothing yet, or a pipe or device, which loses nothing
        return
    with writing(path), path.open("rb") as file:
        head = file.read(4096)
    if head and not is_kind(head):
        raise OutputError(f"{path} is there and is not {what}: give another file, or remove it first")


def is_lines_of(*keys: str) -> Callable[[bytes], bool]:
    """Tells whether a file begins as JSON lines of objects that have one of `keys`."""
    names = [f'"{key}"'.encode() for key in keys]

    def is_kind(head: bytes) -> bool:
        first = head.removeprefix(b"\xef\xbb\xbf").lstrip().split(b"\n")[0]
        return first.startswith(b"{") and any(name in first for name in names)

    return is_kind


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a file in UTF-8, or in UTF-16 with its mark, without the mark.

    Raises:
        AnytagError: it cannot be read as such.
    """
    try:
        raw = Path(path).read_bytes()
        return raw.decode("utf-16" if raw.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
    except OSError as error:
        raise AnytagError(f"{os.fspath(path)} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise AnytagError(f"{os.fspath(path)} is not in UTF-8 ({error.reason}): save it as UTF-8") from error


@contextmanager
def locked(path: str | os.PathLike[str]) -> Iterator[None]:
    """Holds a lock by a file, which is made if need be and stays; a process that is killed holds it no more.

    Raises:
        OutputError: another process holds it.
    """
    with ExitStack() as stack:
        with writing(path):
            file = stack.enter_context(open(path, "ab"))  # noqa: PTH123  # takes names of any kind
            try:
                _lock(file.fileno())
            except BlockingIOError as error:
                folder = os.path.dirname(os.fspath(path)) or "."  # noqa: PTH120
                raise OutputError(
                    f"{folder} is being written by another process: wait for it, or give another output"
                ) from error
        yield


def _lock(handle: int) -> None:
    """Locks an open file until it is closed; raises BlockingIOError where it is locked."""
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError from error
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def writing(target: str | os.PathLike[str]) -> Iterator[None]:
    """Any writer's failure as an OutputError with the file's name; errors of ours pass."""
    try:
        yield
    except AnytagError:
        raise
    except OSError as error:
        raise OutputError(f"{os.fspath(target)} cannot be written: {error.strerror or error}") from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":  # of a package that need not be imported for this
            raise
        raise OutputError(f"{os.fspath(target)} cannot be written: {error}") from error


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
