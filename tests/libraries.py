"""Folders of small photos and a tagger that counts what goes through its network, for tests of libraries."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anytag import Library, Tagger

_CLOCK = itertools.count(1)


class CountedRuntime:
    """A runtime that counts the photos that it encodes."""

    def __init__(self, runtime: Any) -> None:
        self.runtime, self.photos = runtime, 0

    def encode(self, pixels: Any) -> Any:
        self.photos += len(pixels)
        return self.runtime.encode(pixels)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.runtime, name)


def counted(model: Path) -> tuple[Tagger, CountedRuntime]:
    """A tagger, and what counts its photos."""
    tagger = Tagger.load(model, device="cpu")
    runtime = CountedRuntime(tagger.runtime)
    tagger.runtime = runtime  # type: ignore[assignment]
    return tagger, runtime


def picture(number: int, *, size: tuple[int, int] = (32, 24)) -> Image.Image:
    """A picture of its own."""
    random = np.random.default_rng(number)
    return Image.fromarray(random.integers(0, 255, (size[1], size[0], 3), np.uint8))


def write_photo(path: Path, number: int, **options: Any) -> Path:
    """A photo, with a time of change that no other has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(number).save(path, **options)
    return tick(path)


def tick(path: Path) -> Path:
    """Gives a file a time of change of its own: clocks of file systems may stand still for milliseconds."""
    at = 1_600_000_000_000_000_000 + next(_CLOCK) * 1_000_000_007
    os.utime(path, ns=(at, at))
    return path


def states(library: Library) -> dict[str, str]:
    """The state of every name that is not gone."""
    return {photo.name: photo.state for photo in library.photos(pairs=True)}


def rows(library: Library) -> dict[str, object]:
    """What the library knows of each name, but for the numbers of its rows."""
    return {
        photo.name: (
            photo.state,
            photo.width,
            photo.height,
            photo.model,
            photo.tags,
            photo.error,
            photo.pair is None,
        )
        for photo in library.photos(pairs=True)
    }
