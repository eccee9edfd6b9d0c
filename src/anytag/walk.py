"""The rules for which files of folders are photos, and which folders are entered."""

from __future__ import annotations

import fnmatch
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path

from anytag._io import decoded
from anytag.suffixes import DRAWING_SUFFIX, RAW_SUFFIXES, SUFFIXES

OTHERS_FOLDERS = (
    "@eadir", "@recycle", "@recently-snapshot", "@tmp", "#recycle", "#snapshot", "$recycle.bin",
    "recycler", "system volume information", "lost+found", "__macosx", "*.lrdata", "*.lrcat-data",
    "*.photoslibrary", "*.photolibrary", "*.aplibrary", "*.migratedphotolibrary", "*.cocatalog",
    "ipod photo cache", "*.thumbnails",
)  # fmt: skip
"""Folders of thumbnails, recycle bins, catalogues, in lower case; `*.thumbnails` are those of anytag's own
libraries. Entered only if named."""

NOMEDIA = ".nomedia"
"""A file that excludes its folder and all below from photo programs."""
IGNORE_FILES = (".anytagignore", ".ppignore")
"""Files with one glob per line for paths to skip below their folder; an empty file skips everything."""

Entry = os.DirEntry[str]
_Ignored = tuple[tuple[str, re.Pattern[str]], ...]
_NAME = attrgetter("name")


@dataclass
class Walk:
    """A recursive walk through folders.

    Hidden files and folders and drawings of tags are skipped. Folders of other programs and those with a
    `.nomedia` file are not entered, unless they are named.

    Attributes:
        excluded: pattern of names and paths to skip.
        recursive: subfolders are entered.
        follow: links to folders are entered; each folder once, whatever links lead to it.
        takes_raw: RAW files are photos.
        on_error: called for each folder that cannot be read.
        raw: RAW files that were skipped.
        others: folders of other programs that were not entered.
        left_out: number of photos that `excluded` matched.
        top: the named folder.
    """

    excluded: re.Pattern[str] | None = None
    recursive: bool = True
    follow: bool = False
    takes_raw: bool = False
    on_error: Callable[[OSError], None] = lambda error: None
    raw: set[str] = field(default_factory=set)
    others: set[str] = field(default_factory=set)
    left_out: int = 0
    top: str = ""
    _entered: set[tuple[int, int]] = field(default_factory=set)

    def photos(self, folder: str) -> Iterator[str]:
        """Yield the paths of the photos of a folder, sorted, followed by those of its subfolders."""
        for entries in self.folders(folder):
            for entry in entries:
                yield entry.path

    def folders(self, folder: str, root: str | None = None) -> Iterator[list[Entry]]:
        """Yield the photos of a folder and then of each subfolder; links to folders come last.

        Args:
            root: a folder above, whose ignore files, and those in between, apply below `folder`, too.
        """
        waiting: list[tuple[str, _Ignored]] = [(folder, self._inherited(folder, root or folder))]
        links: list[tuple[str, _Ignored]] = []
        while waiting or links:
            path, ignored = waiting.pop() if waiting else links.pop()
            if self.follow and not self._is_first(path):
                continue
            entries = self.entries(path)
            names = {entry.name for entry in entries if entry.name[0] == "."}
            if NOMEDIA in names and path != folder:
                continue
            ignored += self._ignored(path, names)
            photos, inner = self._sorted(entries, ignored)
            yield photos
            for entry in reversed(inner if self.recursive else ()):
                (links if entry.is_symlink() else waiting).append((entry.path, ignored))

    def _inherited(self, folder: str, root: str) -> _Ignored:
        """The globs of the ignore files from `root` down to the parent of `folder`."""
        ignored: _Ignored = ()
        place = root
        for part in Path(os.path.relpath(folder, root)).parts:
            ignored += self._ignored(place, {entry.name for entry in self.entries(place)})
            place = os.path.join(place, part)  # noqa: PTH118
        return ignored

    def entries(self, folder: str) -> list[Entry]:
        """Return the entries of a folder, sorted by name; none if it cannot be read."""
        try:
            with os.scandir(folder) as entries:
                return sorted(entries, key=_NAME)
        except OSError as error:
            self.on_error(error)
            return []

    def is_excluded(self, path: str) -> bool:
        """Whether a glob matches the name, the path as given, or the path below the named folder."""
        if self.excluded is None:
            return False
        below = path.removeprefix(self.top).lstrip(os.sep)
        names = (os.path.basename(path), path, below)  # noqa: PTH119  # many times faster than Path
        return any(self.excluded.match(_comparable(name)) for name in names)

    def is_entered(self, path: str) -> bool:
        """Whether a subfolder is entered, judging by its path alone."""
        name = os.path.basename(path).lower()  # noqa: PTH119
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in OTHERS_FOLDERS):
            self.others.add(path)
            return False
        return not self.is_excluded(path)

    def is_photo(self, path: str) -> bool:
        """Whether a file is a photo, judging by its name."""
        suffix = os.path.splitext(path)[1].lower()  # noqa: PTH122  # ten times faster than Path
        if suffix in SUFFIXES:
            return not path.endswith(DRAWING_SUFFIX)
        if suffix in RAW_SUFFIXES:
            if self.takes_raw:
                return True
            self.raw.add(path)
        return False

    def _sorted(self, entries: list[Entry], ignored: _Ignored) -> tuple[list[Entry], list[Entry]]:
        """Return the photos, and the subfolders to enter."""
        photos, folders = [], []
        for entry in entries:
            if entry.name[0] == "." or _is_ignored(entry.path, ignored):
                continue
            if is_folder(entry):
                if (self.follow or not entry.is_symlink()) and self.is_entered(entry.path):
                    folders.append(entry)
            elif self.is_photo(entry.path):
                if self.is_excluded(entry.path):
                    self.left_out += 1
                else:
                    photos.append(entry)
        return photos, folders

    def _is_first(self, folder: str) -> bool:
        """Whether a folder is entered for the first time."""
        try:
            facts = os.stat(folder)  # noqa: PTH116
        except OSError as error:
            self.on_error(error)
            return False
        place = facts.st_dev, facts.st_ino
        is_first = place not in self._entered
        self._entered.add(place)
        return is_first

    def _ignored(self, folder: str, names: set[str]) -> _Ignored:
        """Add the globs of a folder's ignore files."""
        globs: list[str] = []
        for name in names.intersection(IGNORE_FILES):
            try:
                text = decoded(Path(folder, name).read_bytes(), bytes_stay=True)
            except OSError as error:
                self.on_error(error)
                continue
            lines = (line.strip() for line in text.splitlines())
            globs += [line.strip("/") for line in lines if line and line[0] != "#"] or ["*"]
        found = pattern(globs)
        return ((os.path.join(folder, ""), found),) if found else ()  # noqa: PTH118


def pattern(globs: Iterable[str]) -> re.Pattern[str] | None:
    """Compile globs into one pattern; `*` also matches separators."""
    patterns = [pattern.rstrip("/") for pattern in globs]
    patterns += [pattern.removeprefix("**/") for pattern in patterns]
    parts = [fnmatch.translate(_comparable(pattern)) for pattern in patterns if pattern]
    return re.compile("|".join(parts)) if parts else None


def is_folder(path: str | Entry) -> bool:
    """Whether a path is a folder or a link to one."""
    if isinstance(path, str):
        return os.path.isdir(path)  # noqa: PTH112  # three times faster
    with suppress(OSError):  # a loop of links
        return path.is_dir()
    return False


def _comparable(name: str) -> str:
    """A name in the one form of its letters: disks hold ä as one character or as two."""
    return unicodedata.normalize("NFC", os.path.normcase(name))


def _is_ignored(path: str, ignored: _Ignored) -> bool:
    for folder, globs in ignored:
        below = _comparable(path.removeprefix(folder))
        if globs.match(below) or globs.match(os.path.basename(below)):  # noqa: PTH119
            return True
    return False
