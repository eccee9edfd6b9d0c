"""What users type -> paths of photos: files, folders, globs, and `-` for paths from stdin."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path

import click

SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .tif .tiff .bmp .gif .avif .heic .heif".split()  # noqa: SIM905
)
"""Which files of a folder or a glob are photos. A file that is named itself is read whatever its suffix."""

STDIN = "-"


def gather(arguments: Iterable[str], *, recursive: bool) -> Iterable[str]:
    """Paths of photos in the order typed, those of a folder or glob sorted: a list, or with `-` a stream.

    A path that does not exist is passed on: reading it fails, and the others are done.

    Raises:
        click.UsageError: a folder has no photos, or a glob matches none.
    """
    arguments = list(arguments)
    found = [_from_stdin() if one == STDIN else _expand(one, recursive=recursive) for one in arguments]
    paths = chain.from_iterable(found)
    return paths if STDIN in arguments else list(paths)


def _expand(argument: str, *, recursive: bool) -> list[str]:
    if _is_folder(argument):
        return _in_folder(argument, recursive=recursive)
    if glob.has_magic(argument) and not os.path.lexists(argument):
        return _in_glob(argument, recursive=recursive)
    return [argument]


def _is_folder(path: str) -> bool:
    try:
        return Path(path).is_dir()
    except OSError:  # a name too long, a folder that may not be entered
        return False


def _is_photo(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122  # ten times faster, for each file of a disk


def _in_folder(folder: str, *, recursive: bool) -> list[str]:
    paths, has_folders = _photos(folder, recursive=recursive)
    if not paths:
        hint = " Add --recursive to look into its folders." if has_folders and not recursive else ""
        raise click.UsageError(f"The folder {folder!r} has no photos.{hint}")
    return paths


def _photos(folder: str, *, recursive: bool) -> tuple[list[str], bool]:
    """Photos of a folder but hidden ones, and whether it has folders; links to folders are not followed."""
    paths: list[str] = []
    has_folders = False
    for parent, folders, files in os.walk(folder, onerror=_cannot_read):
        paths += [str(Path(parent, name)) for name in sorted(files) if name[0] != "." and _is_photo(name)]
        folders[:] = sorted(name for name in folders if name[0] != ".")
        has_folders = has_folders or bool(folders)
        if not recursive:
            break
    return paths, has_folders


def _cannot_read(error: OSError) -> None:
    raise click.UsageError(f"The folder {error.filename!r} cannot be read: {error.strerror}.")


def _in_glob(pattern: str, *, recursive: bool) -> list[str]:
    paths: list[str] = []
    for match in sorted(glob.glob(pattern, recursive=True)):  # noqa: PTH207  # Path.glob takes no absolute pattern
        if not _is_folder(match):
            paths += [match] if _is_photo(match) else []
        elif recursive:
            paths += _photos(match, recursive=True)[0]
    if not paths:
        raise click.UsageError(f"The glob {pattern!r} matches no photos.")
    return paths


def _from_stdin() -> Iterator[str]:
    """Paths as they come.

    Raises:
        click.UsageError: stdin is closed.
    """
    if sys.stdin is None:
        raise click.UsageError("- reads paths from stdin, which is closed: name the photos.")
    return _lines(stdin_chunks())


def stdin_chunks() -> Iterator[bytes]:
    """What has come on stdin, each time.

    Without Python's buffer, whose lock a thread that waits for more would hold when the program ends.
    """
    read: Callable[[int], bytes]
    try:
        read = partial(os.read, sys.stdin.fileno())
    except (OSError, ValueError):  # no file, as in tests
        read = sys.stdin.buffer.read  # all at once
    return iter(partial(read, 1 << 16), b"")


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    rest = b""
    for chunk in chain(chunks, [b"\n"]):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if stripped := line.rstrip(b"\r"):
                yield os.fsdecode(stripped)
