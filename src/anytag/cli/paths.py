"""Expand arguments to paths of photos: files, folders, globs, and lists of paths from stdin or a file."""

from __future__ import annotations

import fnmatch
import glob
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, takewhile
from pathlib import Path

import click

from anytag.cli import lists
from anytag.cli.options import F, grouped
from anytag.cli.writers import visible
from anytag.walk import Entry, Walk, is_folder, pattern

STDIN = "-"

PATH = click.Path(allow_dash=True, readable=False)
"""Type of arguments that may be paths: shells complete them, and nothing is checked, so that one that cannot
be read stops no other."""


@dataclass(frozen=True)
class Source:
    """The arguments and options that select photos; see `gather`."""

    photos: tuple[str, ...]
    recursive: bool
    exclude: tuple[str, ...]
    files_from: tuple[Path, ...]
    null: bool

    def __bool__(self) -> bool:
        return bool(self.photos or self.files_from)

    def gather(self) -> PhotoPaths:
        """Find the photos."""
        return gather(
            self.photos,
            recursive=self.recursive, exclude=self.exclude, files_from=self.files_from, null=self.null,
        )  # fmt: skip


def options(metavar: str = "PATH...") -> Callable[[F], F]:
    """Add the arguments and options that select photos, passed to the command as `source`."""
    return grouped(
        "source",
        Source,
        [
            click.argument("photos", metavar=metavar, nargs=-1, type=PATH),
            click.option("--recursive", is_flag=True, help="Include the photos of subfolders."),
            click.option(
                "--exclude",
                metavar="GLOB",
                multiple=True,
                help="Skip files and folders whose name or path matches. May be repeated.",
            ),
            click.option(
                "--files-from",
                metavar="FILE",
                multiple=True,
                type=click.Path(exists=True, dir_okay=False, path_type=Path),
                help="Read paths of photos from FILE, one per line.",
            ),
            click.option(
                "-0",
                "--null",
                is_flag=True,
                help="Paths in - and --files-from end with NUL, as by find -print0.",
            ),
        ],
    )


@dataclass(frozen=True)
class PhotoPaths:
    """Paths of photos, and arguments that failed.

    Attributes:
        paths: in the order of the arguments, sorted within a folder or glob: a list, or an iterator if
            paths are read from stdin or a file.
        failures: messages, already printed to stderr.
    """

    paths: Iterable[str]
    failures: tuple[str, ...] = ()

    @property
    def total(self) -> int | None:
        """The number of photos; None for a stream."""
        return len(self.paths) if isinstance(self.paths, list) else None

    def end(self) -> None:
        """Exit with code 1 if an argument failed."""
        if self.failures:
            sys.exit(1)


def gather(
    arguments: Iterable[str],
    *,
    recursive: bool,
    exclude: Iterable[str] = (),
    files_from: Sequence[Path] = (),
    null: bool = False,
) -> PhotoPaths:
    """Find photos; arguments that cannot be read or have no photos are reported on stderr.

    Paths of files that do not exist are included, and fail when they are read.

    Args:
        arguments: files, folders, globs, and "-" for a list on stdin.
        recursive: include the photos of subfolders.
        exclude: globs; matching names and paths are skipped.
        files_from: files with lists of paths.
        null: whether paths in lists end with NUL instead of a line break.

    Raises:
        click.UsageError: no arguments, or no photos, unless paths are read from a list.
    """
    arguments = list(arguments)
    if not arguments and not files_from:
        raise click.UsageError(
            "Missing argument 'PATH...': name photos, folders or globs, or give --files-from."
        )
    search = _Search(Walk(pattern(exclude), recursive))
    found: list[Iterable[str]] = []
    for one in arguments:
        is_list = one == STDIN
        found.append(_listed(lists.stdin(), null=null, search=search) if is_list else [*search.expand(one)])
    found += [_listed(lists.file(path), null=null, search=search) for path in files_from]
    is_stream = STDIN in arguments or bool(files_from)
    search.report(is_empty=not is_stream and not any(found))
    paths = chain.from_iterable(found)
    return PhotoPaths(_noted_if_empty(paths) if is_stream else list(paths), tuple(search.failures))


def _noted_if_empty(paths: Iterable[str]) -> Iterator[str]:
    """Yield the paths of a stream, and say so if there are none: `find` may have failed."""
    path = None
    for path in paths:
        yield path
    if path is None:
        click.echo("No photos are listed, or --exclude excludes all of them.", err=True)


def _listed(chunks: Iterator[bytes], *, null: bool, search: _Search) -> Iterator[str]:
    return (path for path in lists.paths(chunks, null=null) if not search.is_excluded(path))


@dataclass
class _Search:
    """The expansion of all arguments.

    Attributes:
        walk: the rules for folders.
        failures: messages about arguments that cannot be read or have no photos.
    """

    walk: Walk
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.walk.on_error = self._cannot_read

    def expand(self, argument: str) -> Iterator[str]:
        """Expand one argument to photos."""
        if "://" in argument and not os.path.lexists(argument):
            yield argument  # reading it fails with a message about URLs
        elif not argument:
            self.failures.append("An empty path was given: expected a photo, a folder or a glob.")
        elif is_folder(argument):
            if not self.walk.is_excluded(argument.rstrip("/")):
                yield from self._in_folder(argument)
        elif argument[-1] in (os.sep, os.altsep) and not glob.has_magic(argument):
            self.failures.append(f"The folder {argument!r} does not exist.")
        elif glob.has_magic(argument) and not os.path.lexists(argument):
            yield from self._in_glob(argument)
        elif not self.is_excluded(argument):
            yield argument

    def is_excluded(self, path: str) -> bool:
        """Whether the path, or one of its parents as given, is excluded."""
        if self.walk.excluded is None:
            return False
        return any(map(self.walk.is_excluded, (path, *map(str, Path(path).parents))))

    def report(self, *, is_empty: bool) -> None:
        """Report on stderr what was skipped and what failed.

        Raises:
            click.UsageError: no photos were found.
        """
        if self.walk.raw:
            suffixes = Counter(os.path.splitext(path)[1].lower() for path in self.walk.raw)  # noqa: PTH122
            kinds = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common())
            click.echo(
                f"Skipped raw files: {kinds}. Name them as files to tag their previews.",
                err=True,
            )
        if self.walk.others:
            click.echo(f"Skipped folders of other programs: {len(self.walk.others)}.", err=True)
        if is_empty:
            message = "\n".join(map(visible, self.failures))
            raise click.UsageError(message or "All photos are excluded by --exclude.")
        for failure in self.failures:
            click.secho(f"Failed: {visible(failure)}", fg="red", err=True)

    def _in_folder(self, folder: str) -> Iterator[str]:
        self.walk.top = folder
        before = len(self.failures), self.walk.left_out
        photos = self.walk.photos(folder)
        first = next(photos, None)
        if first is not None:
            yield first
            yield from photos
        elif (len(self.failures), self.walk.left_out) == before:
            self.failures.append(f"The folder {folder!r} has no photos.{self._hint(folder)}")

    def _hint(self, folder: str) -> str:
        if self.walk.recursive or not _has_folders(folder):
            return ""
        return " Add --recursive to include its subfolders."

    def _cannot_read(self, error: OSError) -> None:
        failure = f"The folder {error.filename!r} cannot be read: {error.strerror}."
        if failure not in self.failures:
            self.failures.append(failure)

    def _in_glob(self, pattern: str) -> Iterator[str]:
        before, at = len(self.failures), Path(pattern)
        self.walk.top = str(Path(*takewhile(lambda part: not glob.has_magic(part), at.parts)))
        matches = sorted(self._matches(at.anchor, at.parts[bool(at.anchor) :]))
        photos = dict.fromkeys(chain.from_iterable(map(self._matched, matches)))
        if not photos and len(self.failures) == before:
            self.failures.append(f"The glob {pattern!r} matches no photos.")
        yield from (path for path in photos if not self.walk.is_excluded(path))

    def _matched(self, path: str) -> Iterable[str]:
        """The photos of one match of a glob."""
        if is_folder(path):
            return self.walk.photos(path) if self.walk.recursive else ()
        return (path,) if self.walk.is_photo(path) else ()

    def _matches(self, folder: str, parts: tuple[str, ...]) -> Iterator[str]:
        """Paths below `folder` that match `parts`, one glob per level; `**` is any depth, without links."""
        part, rest = parts[0], parts[1:]
        if not glob.has_magic(part):
            path = os.path.join(folder, part)  # noqa: PTH118
            yield from self._below(path, rest) if os.path.lexists(path) else ()
            return
        if part == "**":
            yield from self._below(folder, rest)
        for entry in self._entries(folder, hidden=part[0] == "."):
            if part != "**" and not fnmatch.fnmatch(entry.name, part):
                continue
            is_inner = is_folder(entry)
            path = os.path.join(folder, entry.name)  # noqa: PTH118  # without the ./ of `entry.path`
            if is_inner and not self.walk.is_entered(path):
                continue
            if part != "**":
                yield from self._below(path, rest)
            elif is_inner and not entry.is_symlink():
                yield from self._matches(path, parts)
            elif not rest:
                yield path

    def _below(self, path: str, rest: tuple[str, ...]) -> Iterator[str]:
        """`path`, or the paths below it that match the rest of a glob."""
        if not rest:
            yield path
        elif is_folder(path or "."):
            yield from self._matches(path, rest)

    def _entries(self, folder: str, *, hidden: bool) -> list[Entry]:
        """Sorted entries of a folder; those that begin with a dot only if `hidden`."""
        return [entry for entry in self.walk.entries(folder or ".") if hidden or entry.name[0] != "."]


def _has_folders(folder: str) -> bool:
    with suppress(OSError), os.scandir(folder) as entries:
        return any(entry.is_dir() for entry in entries if entry.name[0] != ".")
    return False
