"""`anytag.images.colour`: profiles far from sRGB are applied, near ones change no bit; modes have a range."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from anytag.errors import ImageError
from anytag.images import load
from tests.pictures import ADOBE_RGB, PROPHOTO, SRGB, encoded, icc_profile, quarters, raw

SCENE = Image.fromarray(quarters(96, 64))


def in_space(profile: bytes) -> Image.Image:
    """The scene's colours as a space stores them."""
    space = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    picture = ImageCms.profileToProfile(SCENE, ImageCms.createProfile("sRGB"), space, outputMode="RGB")
    assert picture is not None
    return picture


def off(data: Any, **options: Any) -> int:
    """The largest difference from the scene, of 255 levels."""
    return int(np.abs(load(data, **options).pixels.astype(int) - np.asarray(SCENE)).max())


@pytest.mark.parametrize(
    ("kind", "options"),
    [("JPEG", {"quality": 98, "subsampling": 0}), ("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})],
)
def test_wide_and_linear_spaces_are_converted(kind: str, options: dict[str, Any]) -> None:
    for profile in (icc_profile(b"RGB ", PROPHOTO, gamma=1.8), icc_profile(b"RGB ", SRGB, gamma=1.0)):
        data = encoded(in_space(profile), kind, icc_profile=profile, **options)
        tolerance = 30 if kind == "JPEG" else 14  # few levels are left in the dark
        assert off(data) <= tolerance
        assert off(data, exact=True) > 40  # as published: profiles are not applied


@pytest.mark.parametrize("columns", [SRGB, ADOBE_RGB])
def test_ordinary_profiles_leave_each_bit(columns: Any) -> None:
    for kind in ("PNG", "JPEG"):
        data = encoded(SCENE, kind, icc_profile=icc_profile(b"RGB ", columns))
        assert (load(data).pixels == load(encoded(SCENE, kind)).pixels).all()


def test_broken_profiles_and_those_of_another_kind_are_ignored() -> None:
    good = icc_profile(b"RGB ", PROPHOTO, gamma=1.8)
    for profile in (
        b"nonsense" * 40,
        good[:200],
        good[:100],
        bytes(500),
        icc_profile(b"GRAY"),
        icc_profile(b"CMYK"),
    ):
        assert off(encoded(SCENE, "PNG", icc_profile=profile)) == 0
    damaged = np.random.default_rng(0).integers(0, 256, (200, 2))
    for at, value in damaged:
        broken = bytearray(good)
        broken[int(at) * len(good) // 256] = int(value)
        load(encoded(SCENE, "PNG", icc_profile=bytes(broken)))


def test_inks_are_converted_by_their_profile() -> None:
    inks = np.zeros((16, 16, 4), np.uint8)
    inks[:, 8:, 1] = 255  # magenta
    profile = icc_profile(b"CMYK")
    for kind in ("JPEG", "TIFF"):
        with_profile = load(encoded(raw("CMYK", inks), kind, icc_profile=profile, quality=98)).pixels
        assert with_profile[8, 2].min() > 250
        assert with_profile[8, 13, 1] > with_profile[8, 13, 0] + 50  # the profile shows it as green
        without = load(encoded(raw("CMYK", inks), kind, quality=98)).pixels
        assert without[8, 13, 0] > without[8, 13, 1] + 50


def test_grey_profiles() -> None:
    ramp = np.tile(np.arange(0, 256, 5, dtype=np.uint8), (8, 1))
    alpha = Image.merge("LA", [Image.fromarray(ramp), Image.new("L", ramp.shape[::-1], 255)])
    linear = icc_profile(b"GRAY", gamma=1.0)
    expected = ((ramp[0] / 255) ** (1 / 2.4) * 1.055 - 0.055).clip(0) * 255
    for picture in (Image.fromarray(ramp), alpha, Image.fromarray(ramp.astype(np.uint16) * 257)):
        pixels = load(encoded(picture, "PNG", icc_profile=linear)).pixels
        np.testing.assert_allclose(pixels[0, 2:, 1], expected[2:], atol=8)
        same = load(encoded(picture, "PNG", icc_profile=icc_profile(b"GRAY", gamma=2.2))).pixels
        assert (same[0, :, 0] == ramp[0]).all()


def test_transparent_colours_are_converted_before_they_are_put_on_white() -> None:
    profile = icc_profile(b"RGB ", PROPHOTO, gamma=1.8)
    picture = in_space(profile)
    picture.putalpha(Image.new("L", picture.size, 255))
    picture.paste((0, 0, 0, 0), (0, 0, 8, 8))
    pixels = load(encoded(picture, "PNG", icc_profile=profile)).pixels
    assert (pixels[:8, :8] == 255).all()
    assert np.abs(pixels[20:].astype(int) - np.asarray(SCENE)[20:]).max() <= 14


def test_pictures_of_8_bits_in_wider_modes_are_no_black_ones() -> None:
    grey = SCENE.convert("L")
    for mode in ("I", "I;16"):
        assert (load(grey.convert(mode)).pixels == np.asarray(grey)[..., None]).all(), mode
    dark = Image.fromarray(np.full((4, 4), 200, np.uint16))
    assert load(encoded(dark, "PNG")).pixels.max() == 1  # a file states its depth


@pytest.mark.parametrize("mode", ["1", "L", "LA", "PA", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "La"])
def test_pil_modes_keep_the_picture(mode: str) -> None:
    made = SCENE.convert("RGBA").convert(mode) if mode == "RGBa" else None
    made = SCENE.quantize(8).convert("PA") if mode == "PA" else made
    picture = made or (SCENE.convert("LA").convert("La") if mode == "La" else SCENE.convert(mode))
    grey = mode in ("1", "L", "LA", "La")
    expected = np.asarray(
        (SCENE.convert("1") if mode == "1" else SCENE.convert("L")).convert("RGB") if grey else SCENE
    )
    difference = np.abs(load(picture).pixels.astype(int) - expected)
    assert np.median(difference) <= 6


def test_values_outside_of_a_range_are_errors() -> None:
    for values in ([[-1, 5]], [[0, 70_000]]):
        with pytest.raises(ImageError, match="outside of 16 bits"):
            load(Image.fromarray(np.array(values, np.int32)))
