"""Load photos (bytes, path, open file, PIL image or array) as upright RGB, and resize them for a model.

Training and serving use the same decoder, Pillow, so that the pixels are the same:

1. a JPEG is decoded at the smallest DCT scale (1, 1/2, 1/4, 1/8) of which both sides are at least `min_side`
   (Pillow's `draft`; 37 ms instead of 86 for 12 megapixels);
2. transparency is composited on white, every colour space is converted to 8-bit RGB, and the EXIF orientation
   is applied;
3. the photo is resized to a square with Pillow's antialiased filter, without keeping the aspect ratio. If it
   is at least six times as large as the square, which a JPEG of usual size is not after step 1, it is first
   reduced by box averaging (`reducing_gap=3`): 18 ms instead of 37 for 12 megapixels, with differences of at
   most 2 of 255 levels.

Also handled are TIFFs that Pillow reads wrongly (`tiff`), RAW files (`raw`), colour profiles far from sRGB
and 16-bit grey (`colour`), and truncated files (`damage`). Pillow's global state and its registry of formats
are not changed, except that the JPEG XL plugin registers itself.
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
        picture: Pillow image of mode RGB; smaller than `width` × `height` if decoded at a DCT scale.
        width, height: size of the upright original in pixels.
        name: for messages: the path, "<bytes>", "<file>", "<image>" or "<array>".
    """

    picture: Image.Image
    width: int
    height: int
    name: str

    @property
    def pixels(self) -> Bytes:
        """The picture as a new uint8 array H×W×3, RGB, 0..255."""
        return np.array(self.picture)


def load(
    source: ImageSource, *, min_side: int | None = None, max_pixels: int = MAX_PIXELS, exact: bool = False
) -> Photo:
    """Load a photo, upright and in RGB.

    For animations, the first frame is used or, if it is blank, the frame with the most contrast of the first
    64; for TIFFs, the largest page that is neither a reduced copy nor a mask; for RAW files, a developed page
    or the largest embedded JPEG, whose size is then the photo's.

    Args:
        source: path, encoded bytes, open file (any object whose `read` returns bytes), PIL image (not
            modified), or uint8 array H×W×3 in RGB.
        min_side: side of the model's square in pixels; JPEGs are decoded at the smallest scale covering it.
        max_pixels: maximum number of decoded pixels (of a JPEG, at its scale); larger photos are refused.
        exact: preprocess as for the published models: full scale, first frame, alpha dropped, colour profiles
            ignored.

    Raises:
        ImageError: missing, not a photo, of an unknown format, damaged, truncated by more than 2 % of its
            pixels, too large, RAW without a preview, or with samples of unknown range.
        MissingExtraError: a HEIC or JPEG XL photo whose package is not installed.
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
    """Resize a photo to a square: contiguous uint8 array 3×S×S, RGB, 0..255, not normalised.

    Args:
        photo: from `load`.
        size: S, the side of the square in pixels.
        resample: bilinear, bicubic, lanczos (antialiased, as torchvision's `Resize`) or nearest.
        exact: resize in one step, as for the published models; otherwise large photos are first reduced by
            box averaging, which is faster.

    Raises:
        ImageError: `size` or `resample` is invalid.
    """
    if resample not in _FILTERS:
        raise ImageError(f"resample {resample!r} is unknown: expected one of {', '.join(_FILTERS)}")
    if size < 1:
        raise ImageError(f"size {size} is not a side of a square: expected 1 or more")
    gap = None if exact else _REDUCING_GAP
    square = photo.picture.resize((size, size), _FILTERS[resample], reducing_gap=gap)
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))  # H×W×3 -> 3×H×W
