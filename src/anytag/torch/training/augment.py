"""The published training transform: random resized crop, flip and RandAugment, seeded."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance, ImageOps

from anytag.images import Photo

SCALE = (0.2, 1.0)
RATIO = (3 / 4, 4 / 3)
OPERATIONS, MAGNITUDE, CHANCE = 2, 5, 0.5  # number of operations, magnitude (of 10), probability of each
_GREY = (128, 128, 128)

Picture = Image.Image
Operation = Callable[[Picture, int], Picture]


def augment(photo: Photo, *, size: int, draw: random.Random) -> npt.NDArray[np.uint8]:
    """A random view of a photo: uint8 3×S×S.

    A crop of 0.2 to 1 of the area is resized (bicubic) to the square and mirrored with probability 0.5. Two
    operations of RandAugment (Cubuk et al., 2020) at magnitude 5 of 10 are drawn; each is applied with
    probability 0.5.
    """
    picture = photo.picture.resize(
        (size, size), Image.Resampling.BICUBIC, box=crop_box(*photo.picture.size, draw=draw)
    )
    if draw.random() < 0.5:
        picture = ImageOps.mirror(picture)
    for operation in draw.choices(AUGMENTATIONS, k=OPERATIONS):
        sign, applied = draw.choice((-1, 1)), draw.random() < CHANCE
        if applied:
            picture = operation(picture, sign)
    return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))


def crop_box(width: int, height: int, *, draw: random.Random) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a random crop; the whole photo if ten draws do not fit."""
    for _ in range(10):
        area = width * height * draw.uniform(*SCALE)
        ratio = math.exp(draw.uniform(*map(math.log, RATIO)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = draw.randint(0, width - w), draw.randint(0, height - h)
            return left, top, left + w, top + h
    return 0, 0, width, height


def _enhance(kind: Callable[[Picture], ImageEnhance._Enhance]) -> Callable[[Picture, int], Picture]:
    factor = MAGNITUDE / 10 * 1.8 + 0.1  # 1 at magnitude 5, which leaves the photo unchanged
    return lambda picture, _sign: kind(picture).enhance(factor)


def _affine(matrix: Callable[[float], tuple[float, ...]], most: float) -> Callable[[Picture, int], Picture]:
    def apply(picture: Picture, sign: int) -> Picture:
        amount = sign * MAGNITUDE / 10 * most
        return picture.transform(
            picture.size,
            Image.Transform.AFFINE,
            matrix(amount),
            resample=Image.Resampling.BILINEAR,
            fillcolor=_GREY,
        )

    return apply


def _rotate(picture: Picture, sign: int) -> Picture:
    angle = sign * MAGNITUDE / 10 * 30
    return picture.rotate(angle, resample=Image.Resampling.BILINEAR, fillcolor=_GREY)


AUGMENTATIONS: tuple[Operation, ...] = (
    lambda picture, _sign: picture,
    lambda picture, _sign: ImageOps.autocontrast(picture),
    lambda picture, _sign: ImageOps.equalize(picture),
    _enhance(ImageEnhance.Brightness),
    _enhance(ImageEnhance.Sharpness),
    _affine(lambda x: (1, x, 0, 0, 1, 0), 0.3),  # shear
    _affine(lambda x: (1, 0, 0, x, 1, 0), 0.3),
    _affine(lambda x: (1, 0, x, 0, 1, 0), 10),  # translate, in pixels
    _affine(lambda x: (1, 0, 0, 0, 1, x), 10),
    _rotate,
)
"""Identity, AutoContrast, Equalize, Brightness, Sharpness, ShearX, ShearY, TranslateX, TranslateY, Rotate."""
