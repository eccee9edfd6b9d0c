"""`--draw FOLDER`: where the tags of each photo are, as pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from anytag.cli.writers import visible

if TYPE_CHECKING:
    from anytag.results import Tags


def drawn(results: Iterable[Tags], folder: Path, *, max_pixels: int) -> Iterator[Tags]:
    """The same results; each is drawn as FOLDER/NAME.jpg before it is passed on.

    Raises:
        OSError: the folder cannot be made or written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()
    for tags in results:
        if tags.path is not None and tags.error is None:
            _draw(tags, tags.path, folder / f"{_free(Path(tags.path).stem, taken)}.jpg", max_pixels)
        yield tags


def _free(stem: str, taken: set[str]) -> str:
    """A name that no earlier photo took, whatever the case: photos of several folders may have one name."""
    number, name = 1, stem
    while name.lower() in taken:
        number += 1
        name = f"{stem}-{number}"
    taken.add(name.lower())
    return name


def _draw(tags: Tags, path: str, file: Path, max_pixels: int) -> None:
    from anytag.errors import AnytagError
    from anytag.images import load
    from anytag.where import PANEL, draw

    try:
        photo = load(path, near=PANEL, max_pixels=max_pixels)
        draw(photo.picture, tags.tags, size=(photo.width, photo.height)).save(file)
    except AnytagError as error:  # it was read a moment ago
        click.secho(f"Not drawn: {visible(str(error))}", fg="red", err=True)
