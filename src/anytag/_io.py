"""Files that are written whole or not at all, and outputs that never replace what the run did not make."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from anytag.errors import AnytagError, OutputError, RefusedOutputError
from anytag.suffixes import IMAGE_SUFFIXES

DRAFT_NAME = 50
"""Letters of a file's name that its draft has: a name may be as long as the disk allows."""

Recognizer = Callable[[Path], bool]
"""Is this file (or folder) an earlier result of the same command, which a new one may replace?"""


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A draft beside `path` to write into, which takes its place at the end; after an error it is as before.

    The draft's name is unique, so that two processes never write one file. A link stays a link. A file that
    is there keeps its mode and, on Linux, its extended attributes (what file managers keep: tags, ratings;
    access lists); a new one gets the mode of any new file, also where a library (safetensors) makes a
    private one. A pipe or device is no file to replace: it is written to as it is.

    Raises:
        OutputError: the folder is missing or not writable, the disk is full; names `path` and the reason.
    """
    target = Path(path).resolve()
    if is_special(target):
        with writing(target):
            yield target
        return
    with writing(target), _draft_beside(target) as draft:
        yield draft
        is_there = target.exists()
        if is_there:
            _copy_attributes(target, draft)  # while it is sure to be writable
        draft.chmod(target.stat().st_mode & 0o777 if is_there else 0o666 & ~_umask())
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
        raise RefusedOutputError(f"{path} is there already: give another folder, or remove it first")
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
    """What tells a file by all its names; None for one that is not there."""
    try:
        facts = os.stat(path)  # noqa: PTH116  # takes names of any kind, and is fast for each file of a disk
    except (OSError, ValueError):
        return None
    return facts.st_dev, facts.st_ino


def version(path: str | os.PathLike[str]) -> tuple[int, ...] | None:
    """What tells whether a file was written or replaced since; None for one that is not there."""
    try:
        facts = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns


def refuse_inputs(output: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str]]) -> None:
    """Holds an output against the inputs of the run, by whatever names, links included.

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
    """Holds the name of an output that is no picture against those of photos.

    Raises:
        RefusedOutputError: it ends as a photo's name does: most likely the shell put a photo in the output's
            place.
    """
    if os.path.splitext(os.fspath(output))[1].lower() in IMAGE_SUFFIXES:  # noqa: PTH122  # names of any kind
        raise RefusedOutputError(f"{output} has the suffix of a photo: give a file with another to write to")


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
    """The one rule for files that a command writes; call it before the work, and before anything is loaded.

    Args:
        output: text, a table, or data of ours; never a photo.
        inputs: all files that the run reads.
        is_earlier: tells an earlier result of the same command, which the new one may replace.
        overwrite: any other file that is there may go, too, as long as it is no input and no photo.
        hint: what to do about a file that may not be replaced.
        kind: what `is_earlier` tells, in words.
        parents: folders above it that are missing are made by whoever writes.

    Raises:
        RefusedOutputError: `output` has the suffix of a photo, is an input, a folder or somebody else's file,
            or cannot be written.
    """
    special = is_special(Path(output))  # /dev/stdout leads to a pipe, which has no name
    target = Path(output) if special else resolved(output)
    for name in (Path(output), target):
        refuse_photo_name(name)
    if target.is_dir():
        raise RefusedOutputError(f"{output} is a folder: give a file to write to")
    refuse_inputs(output, inputs)
    if special:
        return
    _check_place(_existing(target.parent) if parents else target.parent, output)
    if not target.exists() or target.stat().st_size == 0 or overwrite:
        return
    if not os.access(target, os.W_OK):
        raise RefusedOutputError(f"{output} is write-protected: give another file to write to")
    if is_earlier is None or not _recognized(target, is_earlier):
        raise RefusedOutputError(f"{output} is there already and is not {kind}: {hint}")


def refuse_other_kind(output: str | os.PathLike[str], is_kind: Callable[[bytes], bool], what: str) -> None:
    """`check_output` for a file that is told by its first bytes.

    Args:
        is_kind: told the file's first 4096 bytes.
        what: such a file, in words: "a vocabulary".

    Raises:
        RefusedOutputError: as `check_output`.
    """

    def is_earlier(path: Path) -> bool:
        with path.open("rb") as file:
            return is_kind(file.read(4096))

    check_output(
        output, is_earlier=is_earlier, hint="give another file, or remove it first", kind=what, parents=True
    )


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
        return decoded(Path(path).read_bytes())
    except OSError as error:
        raise AnytagError(f"{os.fspath(path)} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise AnytagError(f"{os.fspath(path)} is not in UTF-8 ({error.reason}): save it as UTF-8") from error


def decoded(raw: bytes, *, bytes_stay: bool = False) -> str:
    """Text in UTF-8, or in UTF-16 with its mark, without the mark.

    Args:
        raw: the text.
        bytes_stay: what is no UTF-8 is kept as `os.fsdecode` does: names of files may be anything.

    Raises:
        UnicodeDecodeError: it is neither.
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
    """The same rule for a folder that a command makes as a whole, together with the folders above it.

    Args:
        inputs: files and folders that the run reads: none may be `folder` or lie in it.
        is_earlier: tells an earlier result of the same command, which may be replaced or gone on with.

    Raises:
        RefusedOutputError: `folder` is or holds an input, is a file, holds somebody else's files, or
            cannot be made.
    """
    target, inputs = resolved(folder), list(inputs)
    refuse_inputs(folder, inputs)
    if target.exists() and not target.is_dir():
        raise RefusedOutputError(f"{folder} is a file: give a folder to write to")
    for name in inputs:
        if identity(name) is not None and resolved(name).is_relative_to(target):
            raise RefusedOutputError(f"{folder} holds the input {os.fspath(name)}: give another folder")
    _check_place(_existing(target), folder)
    if target.exists() and any(target.iterdir()) and not (is_earlier and _recognized(target, is_earlier)):
        raise RefusedOutputError(f"{folder} exists and is not empty: give a folder that is not there yet")


def not_inputs(inputs: Iterable[str], outputs: Iterable[str | os.PathLike[str]]) -> Iterator[str]:
    """The same inputs, each held against the outputs as it comes: for inputs that cannot be listed before.

    Raises:
        RefusedOutputError: one is an output.
    """
    files = list(outputs)
    for name in inputs:
        for file in files:
            refuse_inputs(file, [name])
        yield name


def resolved(path: str | os.PathLike[str]) -> Path:
    """The file behind all links.

    Raises:
        RefusedOutputError: links go round, or a folder on the way may not be entered.
    """
    try:
        return Path(path).resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise RefusedOutputError(f"{os.fspath(path)!r} is no file that can be written: {error}") from error


def is_special(path: Path) -> bool:
    """Is it there, and neither file nor folder: a pipe, a device, which is written directly?"""
    return path.exists() and not path.is_file() and not path.is_dir()


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
def locked(path: str | os.PathLike[str]) -> Iterator[None]:
    """Holds a lock by a file, which is made if need be and stays; a process that is killed holds it no more.

    Raises:
        RefusedOutputError: another process holds it.
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
    """The folder itself, or the nearest above it that is there."""
    return next(one for one in (place, *place.parents) if one.exists())


def _check_place(parent: Path, output: str | os.PathLike[str]) -> None:
    if not parent.is_dir():
        raise RefusedOutputError(f"Cannot write {output}: {parent} is no folder; make it first")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise RefusedOutputError(f"Cannot write {output}: no permission for the folder {parent}")


def _recognized(path: Path, is_earlier: Recognizer) -> bool:
    """Reads a little of a file that may be anything."""
    try:
        return is_earlier(path)
    except (OSError, ValueError):  # not readable, not UTF-8, no JSON
        return False


@contextmanager
def writing(target: str | os.PathLike[str]) -> Iterator[None]:
    """Any writer's failure as one error with the file's name; errors of ours pass."""
    try:
        yield
    except AnytagError:
        raise
    except BrokenPipeError:
        raise  # of stdout: whoever read it has enough
    except OSError as error:
        raise OutputError(f"{os.fspath(target)} cannot be written: {error.strerror or error}") from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":  # of a package that need not be imported for this
            raise
        raise OutputError(f"{os.fspath(target)} cannot be written: {error}") from error


@contextmanager
def _draft_beside(target: Path) -> Iterator[Path]:
    handle, name = tempfile.mkstemp(prefix=f".{target.name[:DRAFT_NAME]}.", suffix=".new", dir=target.parent)
    os.close(handle)
    draft = Path(name)
    try:
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def _copy_attributes(source: Path, target: Path) -> None:
    """Copies extended attributes, where the system has them; those that only root may set stay behind."""
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
