"""Bytes, a path, an open file, a PIL image or an array -> an upright RGB photo -> the model's square.

There is one decoder, Pillow, for training and for serving, so that a model is asked with the pixels it was
trained on:

1. a JPEG is decoded at the DCT scale (1, 1/2, 1/4, 1/8) whose both sides stay at least `near`: Pillow's
   `draft`, measured on 12 megapixels: 37 ms instead of 86;
2. transparency is composited on white, every colour space becomes 8-bit RGB, EXIF orientation is applied;
3. the photo is squashed to the square, aspect ratio not kept, by Pillow's antialiased filter.
   A picture of six squares or more on a side (never a JPEG of common size, after 1.) is averaged over whole
   pixels first: 18 ms instead of 37 from 12 megapixels, at most 2 of 255 levels apart (`reducing_gap=3`).

What the pixels mean is settled here, too: TIFFs that Pillow reads wrong (`tiff`), RAW files (`raw`), colour
profiles far from sRGB and 16-bit greys (`colour`), files that lack their last bytes (`damage`). Nothing
global is changed, neither in Pillow nor in its registry of formats; only the plugin for JPEG XL registers
itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from anytag._typing import Bytes
from anytag.errors import ImageError
from anytag.images.decode import Request, decode_bytes, decode_picture
from anytag.images.formats import FORMATS, MAX_PIXELS, RAW_SUFFIXES, SUFFIXES
from anytag.images.sources import ImageSource, Readable, check_many, is_source, path_of, read_source

__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "RAW_SUFFIXES",
    "SUFFIXES",
    "ImageSource",
    "Photo",
    "Readable",
    "Resample",
    "check_many",
    "is_source",
    "load",
    "path_of",
    "prepare",
]

Resample = Literal["nearest", "bilinear", "bicubic", "lanczos"]

_FILTERS: dict[str, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_REDUCING_GAP = 3.0  # part of the numerics that models are trained with: do not change


@dataclass(frozen=True, slots=True)
class Photo:
    """An upright RGB photo.

    Attributes:
        picture: Pillow image of mode RGB; smaller than `width` × `height` when decoded at a DCT scale.
        width: pixels of the upright original, before scaled decoding.
        height: the same.
        name: the path, or what stands for it in messages: "<bytes>", "<file>", "<image>", "<array>".
    """

    picture: Image.Image
    width: int
    height: int
    name: str

    @property
    def pixels(self) -> Bytes:
        """The picture as a fresh uint8 array H×W×3, RGB, 0..255."""
        return np.array(self.picture)


def load(
    source: ImageSource, *, min_side: int | None = None, max_pixels: int = MAX_PIXELS, exact: bool = False
) -> Photo:
    """Reads one photo, upright and in RGB.

    Of an animation it is the first frame, or where that is blank the one of most contrast among the first
    64; of a TIFF the largest page that is neither a reduced copy nor a mask; of a RAW file that is a TIFF
    (DNG, NEF, CR2, ARW, PEF, ...) the largest embedded JPEG, whose size is then the photo's.

    Args:
        source: path, encoded bytes, open file (anything whose `read` gives bytes), PIL image (left as it is),
            or uint8 array H×W×3 in RGB.
        min_side: side of the model's square; JPEG files are decoded at the smallest scale that covers it.
        max_pixels: a photo that is larger as it is decoded (for a JPEG, at its scale) is refused before.
        exact: as published models are given photos: decoded at full scale, the first frame, transparency
            dropped and colour profiles not applied.

    Raises:
        ImageError: missing, not a photo, of an unknown format, damaged, cut short by more than 2 % of its
            pixels, too large, RAW without a preview, samples of unknown range; names the source.
        MissingExtraError: a HEIC or JPEG XL photo, and its package is not installed.
    """
    if min_side is not None and min_side < 1:
        raise ImageError(f"min_side={min_side} is not a side of a square: expected 1 or more")
    if max_pixels < 1:
        raise ImageError(f"max_pixels={max_pixels} is not a number of pixels: expected 1 or more")
    image_or_data, name = read_source(source)
    request = Request(name, None if exact else min_side, max_pixels, exact)
    if isinstance(image_or_data, Image.Image):
        decoded = decode_picture(image_or_data, request)
    else:
        decoded = decode_bytes(image_or_data, request)
    return Photo(decoded.picture, decoded.width, decoded.height, name)


def prepare(photo: Photo, *, size: int, resample: Resample = "bilinear", exact: bool = False) -> Bytes:
    """Squashes a photo to the model's square: contiguous uint8 array 3×S×S, RGB, 0..255, not normalised.

    Args:
        photo: what `load` returned.
        size: S, the side of the square.
        resample: bilinear, bicubic, lanczos (antialiased as torchvision's `Resize` on PIL images) or nearest.
        exact: resized in one step, as published; else a large photo is first averaged down, which is fast.

    Raises:
        ImageError: `size` or `resample` is not one of those.
    """
    if resample not in _FILTERS:
        raise ImageError(f"resample {resample!r} is unknown: expected one of {', '.join(_FILTERS)}")
    if size < 1:
        raise ImageError(f"size {size} is not a side of a square: expected 1 or more")
    gap = None if exact else _REDUCING_GAP
    square = photo.picture.resize((size, size), _FILTERS[resample], reducing_gap=gap)
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))  # H×W×3 -> 3×H×W
