"""What users type -> paths of photos: files, folders, globs, and `-` for paths from stdin."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import click

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
    """Is a file of a folder or a glob a photo? One that is named itself is read whatever its suffix."""
    from anytag.images import SUFFIXES  # NumPy and Pillow, which --help need not wait for

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
    for line in sys.stdin.buffer:
        if stripped := line.rstrip(b"\r\n"):
            yield os.fsdecode(stripped)
