"""Where in the photo a tag is: a heat map and a box, from what the tag decoder gathers at each image token.

The decoder's cross-attention weighs the tokens for each tag. What it gathers from a token speaks for the tag
or against it: of the folded decoder, that is exactly the token's share of the logit. Laid out as the tokens
lie in the photo, it is the heat map; the box is around the largest patch of at least two fifths of the
greatest heat.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from anytag._typing import Bools, Floats
from anytag.errors import ModelError
from anytag.results import Box, TagScore

if TYPE_CHECKING:
    from PIL import Image
    from PIL.ImageFont import FreeTypeFont as Font


LEVEL = 0.4
"""Share of the greatest heat from which a place belongs to the tag."""
_FINE = 8  # places of the box's grid along each token: tokens are few
PANEL = 320
"""Pixels of the longer side of a panel that `draw` makes."""
_NARROWEST = 24  # pixels of the shorter side
_WARM = (255, 96, 0)
_FONT_FILES = (
    "NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "SourceHanSans.ttc", "wqy-microhei.ttc",
    "DroidSansFallbackFull.ttf", "msyh.ttc", "YuGothM.ttc", "PingFang.ttc", "Hiragino Sans GB.ttc",
    "Arial Unicode.ttf", "arialuni.ttf", "DejaVuSans.ttf", "NotoSans-Regular.ttf", "segoeui.ttf", "Arial.ttf",
)  # fmt: skip


def heat_maps(where: Floats) -> Floats:
    """What each token says for each tag, as maps.

    Args:
        where: float32 K×T, T tokens of a square grid, row by row; one for the whole photo may come before.

    Returns:
        float32 K×h×w in [0, 1]: 1 where most speaks for the tag, 0 where nothing does, or no more than
        everywhere.

    Raises:
        ModelError: the tokens are no square.
    """
    count = where.shape[1]
    side = math.isqrt(count)
    if count - side * side > 1:
        raise ModelError(f"{count} tokens are no square grid: this model cannot tell where tags are")
    heat: Floats = np.maximum(where[:, count - side * side :], 0)
    heat -= heat.min(1, keepdims=True)
    best = heat.max(1, keepdims=True)
    heat /= np.where(best > 0, best, 1)
    return heat.reshape(-1, side, side)


def box_of(heat: Floats, *, width: int, height: int) -> Box | None:
    """The box around the largest warm patch of a heat map h×w, in pixels of a width × height photo.

    None where the map is cold everywhere.
    """
    if not heat.any():
        return None
    fine = _resized(heat, heat.shape[1] * _FINE, heat.shape[0] * _FINE)
    rows, columns = np.nonzero(largest_patch(fine >= LEVEL * fine.max()))
    across, down = width / fine.shape[1], height / fine.shape[0]
    return Box(
        math.floor(columns.min() * across),
        math.floor(rows.min() * down),
        min(width, math.ceil((columns.max() + 1) * across)),  # by rounding it may be one more
        min(height, math.ceil((rows.max() + 1) * down)),
    )


def largest_patch(mask: Bools) -> Bools:
    """The largest set of true places that touch by their sides: bool h×w -> bool h×w."""
    left = mask.copy()
    best = np.zeros_like(mask)
    for start in product(*map(range, mask.shape)):
        if left[start]:
            patch = np.zeros_like(mask)
            for place in _flood(left, start):
                patch[place] = True
            if patch.sum() > best.sum():
                best = patch
    return best


def _flood(left: Bools, start: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Places that are connected with `start`; each is taken out of `left`."""
    waiting = [(start[0], start[1])]
    while waiting:
        row, column = waiting.pop()
        if 0 <= row < left.shape[0] and 0 <= column < left.shape[1] and left[row, column]:
            left[row, column] = False
            yield row, column
            waiting += [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]


def locate(tags: Sequence[TagScore], where: Floats, *, width: int, height: int) -> tuple[TagScore, ...]:
    """The same tags with heat maps and boxes.

    Args:
        tags: K of one photo.
        where: float32 K×T, what the photo's tokens say for each.
        width: pixels of the upright original.
        height: the same.
    """
    return tuple(
        replace(tag, heat=heat, box=box_of(heat, width=width, height=height))
        for tag, heat in zip(tags, heat_maps(where), strict=True)
    )


def draw(
    picture: Image.Image, tags: Sequence[TagScore], *, size: tuple[int, int] | None = None
) -> Image.Image:
    """A sheet with a panel for every tag that was located: the photo, warm where the tag is, and its box.

    Args:
        picture: the upright photo in RGB, of any size.
        tags: with `heat`, in the order of the panels; the others are left out.
        size: width and height of the original, in whose pixels boxes are; by default those of `picture`.
    """
    from PIL import Image

    located = [(tag, tag.heat) for tag in tags if tag.heat is not None]
    size = size or picture.size
    scale = PANEL / max(size)
    width, height = (max(_NARROWEST, round(side * scale)) for side in size)  # a very long photo is squashed
    small = picture.resize((width, height))
    across = max(1, math.ceil(math.sqrt(len(located))))
    sheet = Image.new("RGB", (across * width, max(1, -(-len(located) // across)) * height), "white")
    for number, (tag, heat) in enumerate(located):
        at = (number % across * width, number // across * height)
        sheet.paste(_panel(small, tag, heat, scale=(width / size[0], height / size[1])), at)
    return sheet


def _panel(picture: Image.Image, tag: TagScore, heat: Floats, *, scale: tuple[float, float]) -> Image.Image:
    from PIL import Image, ImageDraw

    shades = _resized(heat, *picture.size).clip(0, 1) * 140  # of 255: the photo stays visible
    warm = Image.new("RGB", picture.size, _WARM)
    panel = Image.composite(warm, picture, Image.fromarray(shades.astype(np.uint8)))
    pen = ImageDraw.Draw(panel)
    if tag.box is not None:
        corners = [side * scale[number % 2] for number, side in enumerate(tag.box)]
        left, top, right, bottom = corners
        pen.rectangle([left, top, max(left, right - 1), max(top, bottom - 1)], outline="white", width=2)
    name, font = _label(tag)
    label = f"{name} {tag.score:.2f}"
    pen.rectangle(pen.textbbox((5, 3), label, font=font), fill="black")
    pen.text((5, 3), label, fill="white", font=font)
    return panel


def _label(tag: TagScore) -> tuple[str, Font | None]:
    """A tag's name and a font that has its letters; without one its id, which is English, or what is left."""
    if _is_latin(tag.name):
        return tag.name, None
    for font in _fonts():
        if _has_letters(font, tag.name):
            return tag.name, font
    if _is_latin(tag.id):
        return tag.id, None
    return tag.name.encode("latin-1", "replace").decode("latin-1"), None


def _is_latin(text: str) -> bool:
    """Does Pillow's own font have the letters?"""
    return all(ord(letter) < 256 for letter in text)


@cache
def _fonts() -> tuple[Font, ...]:
    """Those of the system that have more than Latin letters."""
    from PIL import ImageFont

    found = []
    for name in _FONT_FILES:
        with suppress(OSError):  # it is not installed
            found.append(ImageFont.truetype(name, 12))
    return tuple(found)


def _has_letters(font: Font, text: str) -> bool:
    missing = bytes(font.getmask("\U0010ffff"))  # no letter, so the box that stands for those
    return all(letter.isspace() or bytes(font.getmask(letter)) != missing for letter in text)


def _resized(heat: Floats, width: int, height: int) -> Floats:
    from PIL import Image

    return np.asarray(Image.fromarray(heat).resize((width, height), Image.Resampling.BILINEAR))
