"""`--draw FOLDER`: draw the tags of each photo with their locations."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from anytag._io import atomic_write, identity, resolved
from anytag.cli.writers import echo_error
from anytag.errors import AnytagError, OutputError, RefusedOutputError
from anytag.suffixes import DRAWING_SUFFIX

if TYPE_CHECKING:
    from anytag.results import TagResult

_COMMENT_PREFIX = b"anytag: tags of "
_MAX_NAME_BYTES = 255 - len(DRAWING_SUFFIX)  # bytes of a file's name


class Drawings:
    """Drawings of tagged photos in a folder.

    A drawing's path below `folder` is its photo's path relative to the common folder of all photos, such as
    ``cats/a.jpg.tags.jpg`` for ``holiday/cats/a.jpg`` if all are in ``holiday``. For a stream of photos it is
    relative to the working directory, or the full path outside it. So no drawing has the name of a photo, and
    names within a run are unique. The JPEG comment names the photo; a drawing replaces only an earlier one of
    the same photo.

    Args:
        folder: created if it is missing.
        photos: paths of all photos, a list or a stream.
        max_pixels: maximum pixels of a decoded photo.

    Raises:
        RefusedOutputError: the folder cannot be created or written, or a drawing would replace another file.
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
            raise RefusedOutputError(
                f"{self.folder} cannot be created: {place} is a file; give another folder"
            )
        if not os.access(place, os.W_OK | os.X_OK):
            raise RefusedOutputError(f"no permission to write into {place}: give another folder")
        there = {photo: file for photo in self._photos if os.path.lexists(file := self.file(photo))}
        files = {identity(photo) for photo in self._photos} if there else set()
        for photo, file in there.items():
            if identity(file) in files:
                raise RefusedOutputError(f"{file} is an input of this run: give another folder for drawings")
            self._check(photo, file)

    def file(self, photo: str) -> Path:
        """The file of a drawing; named by the full path if an earlier run used the name for another photo."""
        path = Path(os.path.abspath(photo))  # noqa: PTH100  # symbolic links are not resolved
        file = self._below(path, self._base)
        if (
            os.path.lexists(file)
            and _comment_of(file).startswith(_COMMENT_PREFIX)
            and not _is_of(file, photo)
        ):
            return self._below(path, Path(path.anchor))
        return file

    def _below(self, path: Path, base: Path) -> Path:
        relative = path.relative_to(base if path.is_relative_to(base) else path.anchor)
        return self.folder / relative.parent / (_shortened(relative.name) + DRAWING_SUFFIX)

    def of(self, results: Iterable[TagResult]) -> Iterator[TagResult]:
        """Yield the results unchanged, each after its tags are drawn; failures are reported.

        Raises:
            OutputError: the folder cannot be written, as on a full disk.
        """
        for tags in results:
            if tags.path is not None and tags.error is None:
                try:
                    self._draw(tags, tags.path)
                except RefusedOutputError as error:
                    self._complain(str(error))
                except OutputError:
                    raise
                except (AnytagError, ValueError) as error:  # the photo has changed, or cannot be drawn
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
            raise OutputError(f"{file.parent} cannot be created: {error.strerror}") from error
        with atomic_write(file) as draft:
            sheet.save(draft, "JPEG", comment=_comment(photo))

    def _check(self, photo: str, file: Path) -> None:
        if os.path.lexists(file) and not _is_of(file, photo):
            raise RefusedOutputError(
                f"{file} exists and is not a drawing of {photo}: give another folder, or remove it"
            )

    def _complain(self, message: str) -> None:
        self.failed += 1
        echo_error(f"Not drawn: {message}")


def _shortened(name: str) -> str:
    """Shorten a name so that the suffix can be added."""
    data = os.fsencode(name)
    if len(data) <= _MAX_NAME_BYTES:
        return name
    return os.fsdecode(data[: _MAX_NAME_BYTES - 9]) + "-" + hashlib.sha256(data).hexdigest()[:8]


def _common(photos: Sequence[str]) -> Path:
    """The common folder of photos."""
    try:
        return Path(os.path.commonpath([os.path.dirname(os.path.abspath(photo)) for photo in photos]))  # noqa: PTH100, PTH120
    except ValueError:  # no photos are known, or they are on several drives
        return Path.cwd()


def _comment(photo: str) -> bytes:
    return _COMMENT_PREFIX + os.fsencode(os.path.abspath(photo))  # noqa: PTH100  # see Drawings.file


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
