"""Photos as a model is shown them: its square of each, or why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from anytag._typing import Bytes
from anytag.errors import AnytagError
from anytag.images import ImageSource, Resample, load, path_of, prepare
from anytag.images.likeness import difference_hash
from anytag.images.thumbnail import thumbnail


class Spec(Protocol):
    """What a model's card says of its photos: see `anytag.models.card.ImageSpec`."""

    @property
    def size(self) -> int: ...
    @property
    def resample(self) -> Resample: ...
    @property
    def plain(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Square:
    """A photo that was read, uint8 3×S×S of it, or why it was not.

    Attributes:
        path: as the photo was named, if it was.
        width, height: pixels of the upright original.
        pixels, error: the one or the other.
        thumbnail: a JPEG, where one is wanted.
    """

    path: str | None
    width: int = 0
    height: int = 0
    pixels: Bytes | None = None
    error: AnytagError | None = None
    thumbnail: bytes = b""

    @property
    def hash(self) -> bytes:
        """What it looks like, in 32 bytes."""
        if self.pixels is None:
            return b""
        return difference_hash(Image.fromarray(self.pixels.transpose(1, 2, 0))).tobytes()


def square_of(image: ImageSource, spec: Spec, *, max_pixels: int, side: int | None = None) -> Square:
    """Reads one photo and squashes it to a model's square; what is wrong with it is in `error`.

    Args:
        side: of a thumbnail that is wanted, too.
    """
    path = path_of(image)
    try:
        photo = load(image, min_side=spec.size, max_pixels=max_pixels, exact=spec.plain)
        pixels = prepare(photo, size=spec.size, resample=spec.resample, exact=spec.plain)
        small = b"" if side is None else thumbnail(photo, side)
        return Square(path, photo.width, photo.height, pixels, thumbnail=small)
    except AnytagError as error:
        return Square(path, error=error)
