"""`--draw FOLDER`: where the tags of each photo are, as pictures."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from anytag._io import atomic_write, identity, resolved
from anytag.cli.writers import complain
from anytag.errors import AnytagError, OutputError, RefusedOutputError

if TYPE_CHECKING:
    from anytag.results import Tags

SUFFIX = ".tags.jpg"
_MARK = "anytag: tags of "
_LONGEST = 255 - len(SUFFIX)  # bytes of a file's name


class Drawings:
    """Pictures of the tags of photos in a folder, each where the photo's own path says.

    A photo below the working folder is drawn below `folder` under the same path, any other under its whole
    path: ``cats/a.jpg`` as ``FOLDER/cats/a.jpg.tags.jpg``. So no two photos have one drawing, and no drawing
    has the name of its photo. Each says in its comment which photo it is of, and replaces nothing but an
    earlier drawing of that photo.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.failed = 0

    def check(self, photos: Iterable[str]) -> None:
        """Holds the drawings of photos against the files that are there.

        Args:
            photos: all inputs that are known.

        Raises:
            RefusedOutputError: the folder cannot be made or written, or a drawing would replace another file.
        """
        place = resolved(self.folder)
        place = next(one for one in (place, *place.parents) if one.exists())
        if not place.is_dir():
            raise RefusedOutputError(f"{self.folder} cannot be made: {place} is a file; give another folder")
        if not os.access(place, os.W_OK | os.X_OK):
            raise RefusedOutputError(f"no permission to write into {place}: give another folder")
        inputs = list(photos)
        there = {photo: file for photo in inputs if os.path.lexists(file := self.file(photo))}
        files = {identity(photo) for photo in inputs} if there else set()
        for photo, file in there.items():
            if identity(file) in files:
                raise RefusedOutputError(f"{file} is an input of this run: give another folder to draw into")
            self._check(photo, file)

    def file(self, photo: str) -> Path:
        """The drawing's file."""
        path = Path(os.path.abspath(photo))  # noqa: PTH100  # links stay links: the path is the user's
        here = Path.cwd()
        relative = path.relative_to(here if path.is_relative_to(here) else path.anchor)
        return self.folder / relative.parent / (_short(relative.name) + SUFFIX)

    def of(self, results: Iterable[Tags]) -> Iterator[Tags]:
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

    def _draw(self, tags: Tags, photo: str) -> None:
        from anytag.images import load
        from anytag.where import draw

        file = self.file(photo)
        self._check(photo, file)
        sheet = draw(load(photo).picture, tags.tags)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{file.parent} cannot be made: {error.strerror}") from error
        with atomic_write(file) as draft:
            sheet.save(draft, "JPEG", comment=_comment(photo))

    def _check(self, photo: str, file: Path) -> None:
        if os.path.lexists(file) and _comment_of(file) != _comment(photo):
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


def _comment(photo: str) -> bytes:
    return os.fsencode(_MARK + os.path.abspath(photo))  # noqa: PTH100  # see Drawings.file


def _comment_of(file: Path) -> bytes | None:
    from PIL import Image

    try:
        with Image.open(file, formats=["JPEG"]) as picture:
            comment = picture.info.get("comment")
            return comment if isinstance(comment, bytes) else None
    except (OSError, ValueError):
        return None
