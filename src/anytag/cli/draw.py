"""`--draw FOLDER`: where the tags of each photo are, as pictures."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from anytag._io import atomic_write, identity, resolved
from anytag.cli.writers import complain
from anytag.errors import AnytagError, OutputError, RefusedOutputError
from anytag.suffixes import DRAWING_SUFFIX

if TYPE_CHECKING:
    from anytag.results import TagResult

_MARK = b"anytag: tags of "
_LONGEST = 255 - len(DRAWING_SUFFIX)  # bytes of a file's name


class Drawings:
    """Pictures of the tags of photos, in a folder.

    Below `folder` a drawing has its photo's path from the folder that all photos share; where they come one
    by one, from the working folder, and the full path outside of it. ``holiday/cats/a.jpg`` of the photos in
    ``holiday`` becomes ``cats/a.jpg.tags.jpg``. So no drawing has the name of its photo, and no two of a run
    have one. Each has in its comment which photo it is of, and replaces only an earlier one of that photo.

    Args:
        folder: made where it is missing.
        photos: all of them, a list, or a stream.

    Raises:
        RefusedOutputError: the folder cannot be made or written, or a drawing would replace another file.
    """

    def __init__(self, folder: Path, photos: Iterable[str], *, max_pixels: int) -> None:
        self.folder = folder
        self.failed = 0
        self._max_pixels = max_pixels
        self._photos = photos if isinstance(photos, list) else []
        self._base = _common(self._photos)
        self._check_all()

    def _check_all(self) -> None:
        place = resolved(self.folder)
        place = next(one for one in (place, *place.parents) if one.exists())
        if not place.is_dir():
            raise RefusedOutputError(f"{self.folder} cannot be made: {place} is a file; give another folder")
        if not os.access(place, os.W_OK | os.X_OK):
            raise RefusedOutputError(f"no permission to write into {place}: give another folder")
        there = {photo: file for photo in self._photos if os.path.lexists(file := self.file(photo))}
        files = {identity(photo) for photo in self._photos} if there else set()
        for photo, file in there.items():
            if identity(file) in files:
                raise RefusedOutputError(f"{file} is an input of this run: give another folder to draw into")
            self._check(photo, file)

    def file(self, photo: str) -> Path:
        """The drawing's file; by its full path where another photo has the name, from an earlier run."""
        path = Path(os.path.abspath(photo))  # noqa: PTH100  # links stay links: the path is the user's
        file = self._below(path, self._base)
        if os.path.lexists(file) and _comment_of(file).startswith(_MARK) and not _is_of(file, photo):
            return self._below(path, Path(path.anchor))
        return file

    def _below(self, path: Path, base: Path) -> Path:
        relative = path.relative_to(base if path.is_relative_to(base) else path.anchor)
        return self.folder / relative.parent / (_short(relative.name) + DRAWING_SUFFIX)

    def of(self, results: Iterable[TagResult]) -> Iterator[TagResult]:
        """The same results; the tags of each are drawn before it is passed on, or it is said why not.

        Raises:
            OutputError: the disk is full, or gone.
        """
        for tags in results:
            if tags.path is not None and tags.error is None:
                try:
                    self._draw(tags, tags.path)
                except RefusedOutputError as error:
                    self._complain(str(error))
                except OutputError:
                    raise
                except (
                    AnytagError,
                    ValueError,
                ) as error:  # it was read a moment ago; a shape that has no sheet
                    self._complain(f"{tags.path}: {error}")
            yield tags

    def _draw(self, tags: TagResult, photo: str) -> None:
        from anytag.images import load
        from anytag.localization import PANEL_SIDE, draw

        file = self.file(photo)
        self._check(photo, file)
        found = load(photo, min_side=PANEL_SIDE, max_pixels=self._max_pixels)
        sheet = draw(found.picture, tags.shown, size=(found.width, found.height))
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{file.parent} cannot be made: {error.strerror}") from error
        with atomic_write(file) as draft:
            sheet.save(draft, "JPEG", comment=_comment(photo))

    def _check(self, photo: str, file: Path) -> None:
        if os.path.lexists(file) and not _is_of(file, photo):
            raise RefusedOutputError(
                f"{file} is there and no drawing of {photo}: give another folder, or remove it"
            )

    def _complain(self, message: str) -> None:
        self.failed += 1
        complain(f"Not drawn: {message}")


def _short(name: str) -> str:
    """A name to which the suffix can be added."""
    data = os.fsencode(name)
    if len(data) <= _LONGEST:
        return name
    return os.fsdecode(data[: _LONGEST - 9]) + "-" + hashlib.sha256(data).hexdigest()[:8]


def _common(photos: Sequence[str]) -> Path:
    """The folder that photos share."""
    try:
        return Path(os.path.commonpath([os.path.dirname(os.path.abspath(photo)) for photo in photos]))  # noqa: PTH100, PTH120
    except ValueError:  # none are known, or they are on several drives
        return Path.cwd()


def _comment(photo: str) -> bytes:
    return _MARK + os.fsencode(os.path.abspath(photo))  # noqa: PTH100  # see Drawings.file


def _is_of(file: Path, photo: str) -> bool:
    return _comment_of(file) == _comment(photo)


def _comment_of(file: Path) -> bytes:
    from PIL import Image

    try:
        with Image.open(file, formats=["JPEG"]) as picture:
            comment = picture.info.get("comment")
            return comment if isinstance(comment, bytes) else b""
    except (OSError, ValueError):
        return b""
