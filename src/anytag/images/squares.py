"""Preprocess photos for a model."""

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
    """Preprocessing options in a model's card: see `anytag.models.card.ImageSpec`."""

    @property
    def size(self) -> int: ...
    @property
    def resample(self) -> Resample: ...
    @property
    def plain(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Square:
    """A preprocessed photo, or an error.

    Attributes:
        path: the path as given, if any.
        width, height: size of the upright original in pixels.
        pixels: uint8 3×S×S, RGB; None if there is an error.
        error: why it could not be read, or None.
        thumbnail: a JPEG if requested, else empty.
    """

    path: str | None
    width: int = 0
    height: int = 0
    pixels: Bytes | None = None
    error: AnytagError | None = None
    thumbnail: bytes = b""

    @property
    def hash(self) -> bytes:
        """Its difference hash, 32 bytes; empty if there is an error."""
        if self.pixels is None:
            return b""
        return difference_hash(Image.fromarray(self.pixels.transpose(1, 2, 0))).tobytes()


def square_of(image: ImageSource, spec: Spec, *, max_pixels: int, side: int | None = None) -> Square:
    """Load a photo and resize it for a model; errors are returned in `error`.

    Args:
        image: the photo.
        spec: of the model.
        max_pixels: as for `load`.
        side: longer side of a thumbnail; None for no thumbnail.
    """
    path = path_of(image)
    try:
        photo = load(image, min_side=spec.size, max_pixels=max_pixels, exact=spec.plain)
        pixels = prepare(photo, size=spec.size, resample=spec.resample, exact=spec.plain)
        small = b"" if side is None else thumbnail(photo, side)
        return Square(path, photo.width, photo.height, pixels, thumbnail=small)
    except AnytagError as error:
        return Square(path, error=error)
