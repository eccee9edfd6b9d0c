"""Localisation of tags: a heat map and a box from the tag decoder's evidence at each image token.

The decoder's cross-attention weights the tokens for each tag, and what it gathers from a token is evidence
for or against the tag: in the folded decoder, exactly the token's contribution to the logit. Laid out on the
token grid, the evidence is the heat map; the box encloses the largest connected region with at least two
fifths of the maximum.
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


BOX_LEVEL = 0.4
"""Share of the heat map's maximum from which a pixel belongs to the box."""
_UPSAMPLING = 8  # heat map pixels per token side when the box is computed, since the token grid is coarse
PANEL_SIDE = 320
"""Longer side, in pixels, of a panel drawn by `draw`."""
_MIN_SIDE = 24  # of a panel, in pixels
_HEAT_COLOUR = (255, 96, 0)
_FONT_FILES = (
    "NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "SourceHanSans.ttc", "wqy-microhei.ttc",
    "DroidSansFallbackFull.ttf", "msyh.ttc", "YuGothM.ttc", "PingFang.ttc", "Hiragino Sans GB.ttc",
    "Arial Unicode.ttf", "arialuni.ttf", "DejaVuSans.ttf", "NotoSans-Regular.ttf", "segoeui.ttf", "Arial.ttf",
)  # fmt: skip


def heat_maps(evidence: Floats) -> Floats:
    """Turn each tag's evidence at the tokens into a heat map.

    Args:
        evidence: float32 K×T, T tokens of a square grid in row-major order, possibly after one token for the
            whole photo.

    Returns:
        float32 K×h×w in [0, 1]: 1 at the strongest evidence, 0 where there is none or only the minimum.

    Raises:
        ModelError: the tokens do not form a square grid.
    """
    count = evidence.shape[1]
    side = math.isqrt(count)
    if count - side * side > 1:
        raise ModelError(f"{count} tokens do not form a square grid: this model cannot localise tags")
    heat: Floats = np.maximum(evidence[:, count - side * side :], 0)
    heat -= heat.min(1, keepdims=True)
    best = heat.max(1, keepdims=True)
    heat /= np.where(best > 0, best, 1)
    return heat.reshape(-1, side, side)


def box_of(heat: Floats, *, width: int, height: int) -> Box | None:
    """Return the box around the largest region of a heat map h×w, in pixels of a width × height photo.

    None if the map is zero everywhere.
    """
    if not heat.any():
        return None
    fine = _resized(heat, heat.shape[1] * _UPSAMPLING, heat.shape[0] * _UPSAMPLING)
    rows, columns = np.nonzero(largest_region(fine >= BOX_LEVEL * fine.max()))
    across, down = width / fine.shape[1], height / fine.shape[0]
    return Box(
        math.floor(columns.min() * across),
        math.floor(rows.min() * down),
        min(width, math.ceil((columns.max() + 1) * across)),  # rounding may exceed it by one
        min(height, math.ceil((rows.max() + 1) * down)),
    )


def largest_region(mask: Bools) -> Bools:
    """Return the largest 4-connected component of a mask: bool h×w -> bool h×w."""
    remaining = mask.copy()
    best = np.zeros_like(mask)
    for start in product(*map(range, mask.shape)):
        if remaining[start]:
            region = np.zeros_like(mask)
            for place in _flood_fill(remaining, start):
                region[place] = True
            if region.sum() > best.sum():
                best = region
    return best


def _flood_fill(remaining: Bools, start: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Yield the pixels connected with `start`, and clear them in `remaining`."""
    waiting = [(start[0], start[1])]
    while waiting:
        row, column = waiting.pop()
        inside = 0 <= row < remaining.shape[0] and 0 <= column < remaining.shape[1]
        if inside and remaining[row, column]:
            remaining[row, column] = False
            yield row, column
            waiting += [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]


def locate(tags: Sequence[TagScore], evidence: Floats, *, width: int, height: int) -> tuple[TagScore, ...]:
    """Add heat maps and boxes to tags.

    Args:
        tags: K tags of one photo.
        evidence: float32 K×T, as for `heat_maps`.
        width, height: of the upright original, in pixels.
    """
    return tuple(
        replace(tag, heat=heat, box=box_of(heat, width=width, height=height))
        for tag, heat in zip(tags, heat_maps(evidence), strict=True)
    )


def draw(
    picture: Image.Image, tags: Sequence[TagScore], *, size: tuple[int, int] | None = None
) -> Image.Image:
    """Draw a sheet with one panel per located tag: the photo with the tag's heat map and box.

    Args:
        picture: the upright photo in RGB, of any size.
        tags: in the order of the panels; tags without `heat` are skipped.
        size: width and height of the original, in whose pixels the boxes are; by default those of `picture`.
    """
    from PIL import Image

    located = [(tag, tag.heat) for tag in tags if tag.heat is not None]
    size = size or picture.size
    scale = PANEL_SIDE / max(size)
    width, height = (max(_MIN_SIDE, round(side * scale)) for side in size)  # distorts very long photos
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
    warm = Image.new("RGB", picture.size, _HEAT_COLOUR)
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
    """Return a tag's name and a font for it; without a font its id, or the name's Latin characters."""
    if _is_latin(tag.name):
        return tag.name, None
    for font in _fonts():
        if _has_letters(font, tag.name):
            return tag.name, font
    if _is_latin(tag.id):
        return tag.id, None
    return tag.name.encode("latin-1", "replace").decode("latin-1"), None


def _is_latin(text: str) -> bool:
    """Whether Pillow's built-in font has all characters."""
    return all(ord(letter) < 256 for letter in text)


@cache
def _fonts() -> tuple[Font, ...]:
    """Installed fonts with more than Latin characters."""
    from PIL import ImageFont

    found = []
    for name in _FONT_FILES:
        with suppress(OSError):  # not installed
            found.append(ImageFont.truetype(name, 12))
    return tuple(found)


def _has_letters(font: Font, text: str) -> bool:
    missing = bytes(
        font.getmask("\U0010ffff")
    )  # unassigned, so rendered as the placeholder for missing glyphs
    return all(letter.isspace() or bytes(font.getmask(letter)) != missing for letter in text)


def _resized(heat: Floats, width: int, height: int) -> Floats:
    from PIL import Image

    return np.asarray(Image.fromarray(heat).resize((width, height), Image.Resampling.BILINEAR))
