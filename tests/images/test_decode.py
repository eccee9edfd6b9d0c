"""`anytag.images`: every promised format and mode is written and read back."""

from __future__ import annotations

import io
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from anytag.errors import ImageError, MissingExtraError
from anytag.images import Resample, load, prepare
from anytag.images.jxl import jxl_size
from tests.pictures import (
    BLUE,
    GREEN,
    GREY,
    RED,
    SIZE,
    STORED,
    WHITE,
    assert_close,
    encoded,
    middles,
    png,
    quarters,
    raw,
    tiff,
    tiff_page,
    transparent_grey,
    turned,
)

# --- formats ---


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("JPEG", {"quality": 95}, 4),
        ("JPEG", {"quality": 95, "progressive": True}, 4),
        ("JPEG", {"quality": 95, "subsampling": 0}, 4),
        ("PNG", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("WEBP", {"quality": 90}, 8),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("TIFF", {"compression": "jpeg", "quality": 95}, 6),
        ("TIFF", {"big_tiff": True}, 0),
        ("BMP", {}, 0),
        ("AVIF", {"quality": 90}, 8),
    ],
)
def test_rgb_formats(tmp_path: Path, kind: str, options: dict[str, Any], tolerance: int) -> None:
    data = encoded(Image.fromarray(quarters()), kind, **options)
    path = tmp_path / "photo.bin"  # the name's ending plays no part
    path.write_bytes(data)
    for source in (data, path, str(path)):
        photo = load(source)
        assert (photo.width, photo.height) == SIZE
        assert_close(photo.pixels, quarters(), tolerance)
    assert photo.name == str(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_heic(orientation: int) -> None:
    heif = pytest.importorskip("pillow_heif")
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](quarters(96, 64))))
    heif.from_pillow(stored).save(file, quality=95, exif=exif.tobytes())
    before = set(Image.OPEN)
    photo = load(file.getvalue())
    assert set(Image.OPEN) == before  # Pillow's registry belongs to the user
    assert (photo.width, photo.height) == (96, 64)
    assert_close(photo.pixels, quarters(96, 64), 12)


@pytest.mark.parametrize("brand", [b"heic", b"mif1"])
def test_heic_without_the_extra(monkeypatch: pytest.MonkeyPatch, brand: bytes) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # what Python does for a package that is not there
    data = b"\0\0\0\x1cftyp" + brand + b"\0\0\0\0mif1heic" + bytes(40)
    with pytest.raises(MissingExtraError, match=r"<bytes>.*pip install 'anytag\[heic\]'"):
        load(data)


@pytest.mark.parametrize("orientation", [1, 6])
def test_jpeg_xl(orientation: int) -> None:
    pytest.importorskip("pillow_jxl.JpegXLImagePlugin")
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](quarters(96, 64))))
    for options in ({"lossless": True}, {"quality": 90}):
        data = encoded(stored, "JXL", exif=exif.tobytes(), **options)
        photo = load(data)
        assert (photo.width, photo.height) == (96, 64)
        assert_close(photo.pixels, quarters(96, 64), 8)
        with pytest.raises(ImageError, match="more than the limit"):
            load(data, max_pixels=96 * 64 - 1)


@pytest.mark.parametrize("size", [(8, 8), (256, 256), (300, 200), (1600, 900), (5000, 70), (1, 1)])
def test_the_size_that_jpeg_xl_states(size: tuple[int, int]) -> None:
    pytest.importorskip("pillow_jxl.JpegXLImagePlugin")
    for options in ({}, {"exif": b"Exif\0\0" + Image.Exif().tobytes(), "use_container": True}):
        data = encoded(Image.new("RGB", size), "JXL", **options)
        assert jxl_size(data) == size


@pytest.mark.parametrize("head", [b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14jxlc\xff\x0a"])
def test_jpeg_xl_without_the_extra(monkeypatch: pytest.MonkeyPatch, head: bytes) -> None:
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    monkeypatch.setitem(sys.modules, "pillow_jxl.JpegXLImagePlugin", None)
    with pytest.raises(MissingExtraError, match=r"<bytes>: reading JPEG XL.*pip install 'anytag\[jxl\]'"):
        load(head + bytes(40))


def test_gif_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", SIZE, colour) for colour in (RED, GREEN, BLUE)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (load(data).pixels == RED).all()


def test_animated_png_and_webp_give_their_first_frame() -> None:
    frames = [Image.new("RGB", SIZE, colour) for colour in (RED, GREEN)]
    for kind in ("PNG", "WEBP"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
        assert (load(data).pixels == RED).all(), kind


def test_multi_picture_jpeg_gives_its_first_and_still_decodes_scaled() -> None:
    frames = [Image.new("RGB", (800, 640), colour) for colour in (GREY, RED)]
    photo = load(encoded(frames[0], "MPO", save_all=True, append_images=frames[1:]), min_side=100)
    assert (photo.width, photo.height) == (800, 640)
    assert photo.picture.size == (200, 160)
    assert np.abs(photo.pixels.astype(int) - 128).max() <= 2


# --- modes ---


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP", "GIF"])
def test_grey(kind: str) -> None:
    ramp = np.tile(np.arange(0, 240, 5, dtype=np.uint8), (32, 1))
    pixels = load(encoded(Image.fromarray(ramp), kind)).pixels
    assert pixels.shape == (32, 48, 3)
    assert np.abs(pixels.astype(int) - ramp[..., None]).max() <= (4 if kind == "JPEG" else 0)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF"])
def test_one_bit(kind: str) -> None:
    mask = np.zeros((32, 48), bool)
    mask[:16] = True
    pixels = load(encoded(Image.fromarray(mask), kind)).pixels
    assert (pixels[:16] == 255).all()
    assert (pixels[16:] == 0).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_of_16_bits_is_scaled_not_clipped(kind: str) -> None:
    levels = np.array([0, 128, 129, 255, 257, 25_700, 32_768, 65_279, 65_535], np.uint16)
    pixels = load(encoded(Image.fromarray(np.tile(levels, (3, 1))), kind)).pixels
    assert pixels[1, :, 0].tolist() == [0, 0, 1, 1, 1, 100, 128, 254, 255]
    assert (pixels == pixels[..., :1]).all()


def test_big_endian_16_bit_tiff_and_pgm_like_mode_i() -> None:
    levels = np.array([[0, 25_700, 65_535]], np.uint16)
    pixels = load(Image.fromarray(levels.astype(np.int32))).pixels  # mode I
    assert pixels[0, :, 0].tolist() == [0, 100, 255]
    big = Image.frombytes("I;16B", (3, 1), levels.astype(">u2").tobytes())
    assert load(big).pixels[0, :, 0].tolist() == [0, 100, 255]


def test_grey_of_16_bits_with_a_transparent_value() -> None:
    levels = np.array([[0, 25_700, 65_535]], np.uint16)
    data = png(levels, colour=0, extra=transparent_grey(25_700))
    assert load(data).pixels[0, :, 0].tolist() == [0, 255, 255]


def test_colour_of_16_bits() -> None:
    wide = quarters().astype(np.uint16) * 257
    assert (load(png(wide, colour=2)).pixels == quarters()).all()
    assert (load(tiff(tiff_page(wide, photometric=2))).pixels == quarters()).all()
    alpha = np.full((*wide.shape[:2], 1), 65_535, np.uint16)
    alpha[:16] = 0
    pixels = load(png(np.concatenate([wide, alpha], axis=2), colour=6)).pixels
    assert (pixels[:16] == 255).all()
    assert (pixels[16:] == quarters()[16:]).all()


def test_32_bit_grey_outside_of_16_bits_is_an_error() -> None:
    for level in (-1, 65_536):
        with pytest.raises(ImageError, match="16 bits"):
            load(encoded(Image.fromarray(np.array([[0, level]], np.int32)), "TIFF"))


def test_float_tiff_is_an_error_that_names_the_mode() -> None:
    data = encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF")
    with pytest.raises(ImageError, match=r"<bytes>.*mode F.*8-bit RGB"):
        load(data)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF"])
def test_palette(kind: str) -> None:
    picture = Image.fromarray(quarters()).quantize(4)
    assert_close(load(encoded(picture, kind)).pixels, quarters(), 1)


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_palette_with_a_transparent_colour_is_on_white(kind: str) -> None:
    picture = raw("P", np.tile(np.array([0, 1], np.uint8), (8, 4)))
    picture.putpalette([*RED, *BLUE])
    pixels = load(encoded(picture, kind, transparency=0)).pixels
    assert tuple(pixels[0, 0]) == WHITE
    assert tuple(pixels[0, 1]) == BLUE


def test_palette_with_alpha_per_colour_is_blended_with_white() -> None:
    picture = raw("P", np.array([[0, 1, 2]], np.uint8))
    picture.putpalette([0, 0, 0, 0, 0, 0, 0, 0, 0])
    pixels = load(encoded(picture, "PNG", transparency=bytes([0, 128, 255]))).pixels
    assert pixels[0, :, 0].tolist() == [255, 127, 0]


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})]
)
def test_alpha_is_on_white(kind: str, options: dict[str, Any]) -> None:
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[..., 3] = [0, 128, 255]
    assert load(encoded(Image.fromarray(pixels), kind, **options)).pixels[0, :, 1].tolist() == [255, 127, 0]


def test_avif_alpha_is_on_white() -> None:
    picture = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    assert load(encoded(picture, "AVIF", quality=100)).pixels.min() >= 250


def test_grey_with_alpha_is_on_white() -> None:
    picture = raw("LA", np.array([[[0, 0], [0, 128], [40, 255]]], np.uint8))
    assert load(encoded(picture, "PNG")).pixels[0, :, 2].tolist() == [255, 127, 40]


def test_colour_and_grey_with_one_transparent_value() -> None:
    assert tuple(load(encoded(Image.fromarray(quarters()), "PNG", transparency=RED)).pixels[0, 0]) == WHITE
    grey = Image.fromarray(np.array([[7, 8]], np.uint8))
    assert load(encoded(grey, "PNG", transparency=7)).pixels[0, :, 0].tolist() == [255, 8]


@pytest.mark.parametrize(("kind", "tolerance"), [("JPEG", 6), ("TIFF", 1)])
def test_cmyk(kind: str, tolerance: int) -> None:
    # Pillow writes CMYK JPEG as Adobe does: APP14 marker, inverted inks.
    data = encoded(Image.fromarray(quarters()).convert("CMYK"), kind, quality=95)
    assert kind != "JPEG" or b"Adobe" in data
    photo = load(data)
    assert_close(photo.pixels, quarters(), tolerance)


def test_cmyk_inks_by_hand() -> None:
    inks = np.zeros((16, 16, 4), np.uint8)  # no ink at all is white paper
    inks[:, 8:, 3] = 255  # all black
    pixels = load(encoded(raw("CMYK", inks), "JPEG", quality=100)).pixels
    assert pixels[8, 2].min() >= 253
    assert pixels[8, 13].max() <= 2


# --- animations ---


def fading(kind: str) -> bytes:
    scene = Image.fromarray(quarters())
    black = Image.new("RGB", scene.size)
    frames = [Image.blend(black, scene, part) for part in (0, 0.01, 0.5, 1, 0.5)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=40, lossless=True)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_an_animation_that_fades_in_gives_the_frame_of_most_contrast(kind: str) -> None:
    assert_close(load(fading(kind)).pixels, quarters(), 12)
    assert load(fading(kind), exact=True).pixels.max() == 0  # as published: the first


# --- EXIF ---


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("TIFF", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("JPEG", {"quality": 95}, 4),
        ("AVIF", {"quality": 90}, 8),
    ],
)
def test_orientation(orientation: int, kind: str, options: dict[str, Any], tolerance: int) -> None:
    photo = load(turned(quarters(), orientation, kind, **options))
    assert (photo.width, photo.height) == SIZE
    assert_close(photo.pixels, quarters(), tolerance)
    if not tolerance:
        assert (photo.pixels == quarters()).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_with_scaled_decoding(orientation: int) -> None:
    upright = quarters(640, 320)
    photo = load(turned(upright, orientation, "JPEG", quality=95), min_side=80)
    assert (photo.width, photo.height) == (640, 320)
    assert photo.picture.size == (160, 80)
    assert_close(photo.pixels, quarters(160, 80), 4)


def test_orientation_of_a_pil_image_that_stays_as_it_is() -> None:
    with Image.open(io.BytesIO(turned(quarters(640, 320), 6, "JPEG"))) as picture:
        photo = load(picture, min_side=80)
        assert picture.size == (320, 640)  # neither turned nor scaled
    assert photo.picture.size == (photo.width, photo.height) == (640, 320)
    assert_close(photo.pixels, quarters(640, 320), 6)


@pytest.mark.parametrize(
    "block", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0nonsense", bytes(20)]
)
def test_a_damaged_exif_block_leaves_the_photo(block: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        photo = load(encoded(Image.fromarray(quarters()), "JPEG", quality=95, exif=block))
    assert_close(photo.pixels, quarters(), 4)


def test_an_unknown_orientation_is_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 9
    assert (load(encoded(Image.fromarray(quarters()), "PNG", exif=exif)).pixels == quarters()).all()


# --- scaled decoding and the square ---


@given(width=st.integers(1, 700), height=st.integers(1, 700), near=st.integers(1, 300))
@settings(max_examples=60, deadline=None)
def test_scaled_decoding_keeps_both_sides_at_least_near(width: int, height: int, near: int) -> None:
    photo = load(encoded(Image.new("L", (width, height), 100), "JPEG"), min_side=near)
    assert (photo.width, photo.height) == (width, height)
    scale = next((s for s in (8, 4, 2) if min(width // near, height // near) >= s), 1)
    assert photo.picture.size == (-(-width // scale), -(-height // scale))
    assert scale == 1 or min(photo.picture.size) >= near


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_plain_photos_are_what_pillow_alone_makes_of_them(mode: str) -> None:
    """As published: `convert("RGB").resize((S, S), BILINEAR)` of the photo at full scale."""
    noise = np.random.default_rng(0).integers(0, 256, (400, 300, 4), dtype=np.uint8)
    picture = Image.fromarray(noise)
    if mode != "RGBA":
        picture = picture.convert("RGB").convert(mode)
    for kind in ("PNG", "JPEG") if mode in ("RGB", "L") else ("PNG",):
        data = encoded(picture, kind)
        expected = Image.open(io.BytesIO(data)).convert("RGB").resize((32, 32), Image.Resampling.BILINEAR)
        found = prepare(load(data, min_side=32, exact=True), size=32, exact=True)
        np.testing.assert_array_equal(found.transpose(1, 2, 0), np.asarray(expected))
        assert (prepare(load(data, min_side=32), size=32) != found).any()


def test_only_jpeg_is_decoded_scaled() -> None:
    assert load(encoded(Image.new("RGB", (640, 320)), "PNG"), min_side=32).picture.size == (640, 320)


def test_prepare_is_pillow_antialiased_bilinear() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (75, 100, 3), dtype=np.uint8)
    out = prepare(load(noise), size=32)
    assert out.shape == (3, 32, 32)
    assert out.dtype == np.uint8
    assert out.flags.c_contiguous
    assert out.flags.owndata
    expected = np.asarray(Image.fromarray(noise).resize((32, 32), Image.Resampling.BILINEAR))
    assert (out == expected.transpose(2, 0, 1)).all()


def test_prepare_squashes_and_keeps_the_sides() -> None:
    square = prepare(load(quarters(96, 24)), size=16)
    assert middles(square.transpose(1, 2, 0)) == [RED, GREEN, BLUE, GREY]


@pytest.mark.parametrize("resample", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_prepare_of_a_large_picture_is_within_three_levels_of_the_exact_filter(resample: Resample) -> None:
    rough = np.random.default_rng(1).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    large = Image.fromarray(rough).resize((1600, 1200), Image.Resampling.BICUBIC)
    exact = np.asarray(large.resize((64, 64), Image.Resampling[resample.upper()])).transpose(2, 0, 1)
    out = prepare(load(large), size=64, resample=resample)
    assert np.abs(out.astype(int) - exact.astype(int)).max() <= 3


def test_prepare_refuses_what_it_cannot_do() -> None:
    photo = load(quarters())
    with pytest.raises(ImageError, match=r"'cubic'.*nearest, bilinear, bicubic, lanczos"):
        prepare(photo, size=8, resample="cubic")  # type: ignore[arg-type]
    with pytest.raises(ImageError, match="size 0"):
        prepare(photo, size=0)
    with pytest.raises(ImageError, match="min_side=0"):
        load(quarters(), min_side=0)


def test_threads_see_what_one_thread_sees() -> None:
    files = [turned(quarters(320, 200), o, kind) for o in range(1, 9) for kind in ("JPEG", "PNG", "WEBP")]
    filters = list(warnings.filters)
    alone = [prepare(load(data, min_side=64), size=64) for data in files]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda data: prepare(load(data, min_side=64), size=64), files))
    assert all((a == b).all() for a, b in zip(alone, together, strict=True))
    assert list(warnings.filters) == filters
