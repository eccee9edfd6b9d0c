"""Convert any Pillow mode and colour profile to 8-bit RGB.

Profiles near sRGB, including Display P3 and Adobe RGB, are not applied, which saves time and does not affect
tags. ProPhoto, Rec. 2020, linear and printer profiles are applied.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from anytag._typing import Bytes
from anytag.errors import ImageError

NEAR_SRGB = 13.0
"""Profiles whose mean change of a grid of colours is at most this, in levels of 255, are not applied.

Cameras' sRGB is at 0 to 2, Display P3 and Adobe RGB at 11, Rec. 2020 at 18, ProPhoto at 23, linear at 40."""

_MAX_PROFILE = 4 << 20  # bytes; printer profiles reach 2 MB
_SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK", "LAB": "Lab"}  # Pillow mode -> colour space of profiles
Convert = Callable[[Image.Image], Image.Image]


def to_rgb(picture: Image.Image, name: str, *, exact: bool) -> Image.Image:
    """Convert a loaded picture to RGB: composite transparency on white, apply its colour profile.

    Args:
        picture: of any Pillow mode.
        name: of the photo, for messages.
        exact: as for the published models: drop alpha, and ignore profiles.

    Raises:
        ImageError: the range of the pixels is unknown.
    """
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture if exact else _in_srgb(picture, picture.info)
    if picture.mode == "F":
        raise ImageError(
            f"{name}: its pixels are floating-point numbers (mode F), whose range is not known; "
            "save it as 8-bit RGB"
        )
    if picture.mode.startswith("I"):
        picture = _eight_bits(picture, name)
    elif picture.mode == "La":
        picture = picture.convert("LA")
    if picture.has_transparency_data and not exact:
        return _on_white(picture)
    if picture.mode == "1":
        picture = picture.convert("L")
    return picture.convert("RGB") if exact and picture.mode != "LAB" else _in_srgb(picture, picture.info)


def _on_white(picture: Image.Image) -> Image.Image:
    layer = picture.convert("RGBA")
    alpha = layer.getchannel("A")
    colours = picture.convert("L") if picture.mode in ("LA", "L") else layer.convert("RGB")
    layer = _in_srgb(colours, picture.info)
    layer.putalpha(alpha)
    white = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(white, layer).convert("RGB")


def _eight_bits(picture: Image.Image, name: str) -> Image.Image:
    """Scale 16-bit grey (modes I;16, I) to 8 bits, which Pillow's own conversion may clip.

    Pillow converts 8-bit pictures to these modes without scaling: unless the picture is from a file that
    states its depth, values up to 255 are 8-bit levels.
    """
    grey = np.asarray(picture)
    least, most = int(grey.min()), int(grey.max())
    if least < 0 or most > 65535:
        raise ImageError(f"{name}: its grey values are outside of 16 bits (0..65535); save it as 8-bit RGB")
    of_8_bits = most <= 255 and (picture.mode == "I" or picture.format is None)
    levels = grey.astype(np.uint8) if of_8_bits else scaled(grey, 16)
    clear = picture.info.get("transparency")
    if isinstance(clear, int):
        levels = np.where(grey == clear, np.uint8(255), levels)  # transparency on white
    small = Image.fromarray(levels)
    small.info = {"icc_profile": picture.info.get("icc_profile")}
    return small


def scaled(values: npt.NDArray[Any], bits: int) -> Bytes:
    """Scale unsigned integers of `bits` ≤ 32 bits to uint8, such that the maximum becomes 255."""
    most = 2**bits - 1
    wide: npt.NDArray[Any] = values.astype(np.uint32 if bits <= 16 else np.uint64)
    levels: Bytes = ((wide * 255 + most // 2) // most).astype(np.uint8)
    return levels


def _in_srgb(picture: Image.Image, info: dict[Any, Any]) -> Image.Image:
    """Convert a picture to RGB, by its profile if that matches the mode and is far from sRGB."""
    profile = info.get("icc_profile")
    if picture.mode == "LAB":
        return _lab(picture)
    if not isinstance(profile, bytes) or not 128 <= len(profile) <= _MAX_PROFILE:
        return picture if picture.mode == "RGB" else picture.convert("RGB")
    if picture.mode not in _SPACES:
        picture = picture.convert("RGB")
    convert = _conversion(profile, picture.mode)
    if convert is not None:
        return convert(picture)
    return picture if picture.mode == "RGB" else picture.convert("RGB")


@lru_cache(maxsize=16)
def _conversion(profile: bytes, mode: str) -> Convert | None:
    """The conversion of a mode from a profile to sRGB; None if it is not needed.

    Invalid profiles, and those for other modes, are ignored.
    """
    try:
        convert = _transform(profile, mode)
        probe = _probe(mode)
        change = np.asarray(convert(probe), np.int16) - np.asarray(probe.convert("RGB"), np.int16)
    except Exception:  # LittleCMS and Pillow may raise anything for invalid profiles
        return None
    return convert if np.abs(change).mean() > NEAR_SRGB else None


def _transform(profile: bytes, mode: str) -> Convert:
    from PIL import ImageCms

    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    if source.profile.xcolor_space.strip() != _SPACES[mode]:
        raise ValueError(f"a profile of {source.profile.xcolor_space} for a picture of {mode}")
    transform = ImageCms.buildTransform(
        source,
        ImageCms.createProfile("sRGB"),
        mode,
        "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )

    def convert(picture: Image.Image) -> Image.Image:
        out: Image.Image | None = ImageCms.applyTransform(picture, transform)
        if out is None:
            raise ValueError("LittleCMS gave no picture")
        return out

    return convert


def _probe(mode: str) -> Image.Image:
    """A grid of colours of a mode, with nine levels per channel (five for CMYK)."""
    channels = Image.getmodebands(mode)
    levels = np.linspace(0, 255, 5 if channels == 4 else 9).astype(np.uint8)
    grid = np.stack(np.meshgrid(*[levels] * channels), -1).reshape(1, -1, channels)
    return Image.frombytes(mode, (grid.shape[1], 1), np.ascontiguousarray(grid).tobytes())


def _lab(picture: Image.Image) -> Image.Image:
    """Convert CIE L*a*b* in Pillow's encoding, with LittleCMS."""
    return _lab_transform()(picture)


@lru_cache(maxsize=1)
def _lab_transform() -> Convert:
    from PIL import ImageCms

    return _transform(ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes(), "LAB")
