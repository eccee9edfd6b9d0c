"""`anytag.images.tiff` and `raw`: the right page, the right values, or an error; never another picture."""

from __future__ import annotations

import io
import itertools
import struct
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from anytag.errors import ImageError
from anytag.images import RAW_SUFFIXES, SUFFIXES, load
from tests import xmp
from tests.pictures import Pixels, encoded, quarters, tiff, tiff_page

GREY = quarters(53, 33)[..., :1] // 2 + np.arange(53, dtype=np.uint8)[:, None]
RGB = quarters(53, 33)
LAYOUTS = list(itertools.product("<>", [False, True], [0, 32]))  # byte order, compressed, tiled
THUMBNAIL = tiff_page(quarters(16, 12)[..., ::-1].copy(), photometric=2, tags={254: (1,)})
CFA = tiff_page(np.zeros((400, 600, 1), np.uint16), photometric=32803)


def wide(pixels: Pixels, bits: int) -> npt.NDArray[Any]:
    """The same levels of more bits, so that the largest stays the largest."""
    kind = np.uint16 if bits <= 16 else np.uint32
    levels: npt.NDArray[Any] = np.round(pixels.astype(np.float64) * ((2**bits - 1) / 255)).astype(kind)
    return levels


def assert_shown(data: bytes, expected: Pixels, *, tolerance: int = 1) -> None:
    photo = load(data)
    assert (photo.height, photo.width) == expected.shape[:2]
    assert np.abs(photo.pixels.astype(int) - expected.astype(int)).max() <= tolerance


@pytest.mark.parametrize(("order", "deflate", "tile"), LAYOUTS)
@pytest.mark.parametrize("bits", [10, 12, 14, 16, 32])
@pytest.mark.parametrize("is_white_zero", [False, True])
def test_grey_of_any_depth(
    order: Literal["<", ">"], deflate: bool, tile: int, bits: int, is_white_zero: bool
) -> None:
    stored = wide(255 - GREY if is_white_zero else GREY, bits)
    page = tiff_page(
        stored, photometric=int(not is_white_zero), bits=bits, order=order, deflate=deflate, tile=tile
    )
    assert_shown(tiff(page, order=order), np.repeat(GREY, 3, 2), tolerance=1 if bits > 10 else 2)


@pytest.mark.parametrize(("order", "deflate", "tile"), LAYOUTS)
@pytest.mark.parametrize(("bits", "planar"), [(16, True), (16, False), (32, True), (32, False), (12, False)])
def test_colours_of_any_depth(
    order: Literal["<", ">"], deflate: bool, tile: int, bits: int, planar: bool
) -> None:
    page = tiff_page(
        wide(RGB, bits), photometric=2, bits=bits, order=order, deflate=deflate, tile=tile, planar=planar
    )
    assert_shown(tiff(page, order=order), RGB)


@pytest.mark.parametrize("bits", [16, 32])
def test_differences_of_rows(bits: int) -> None:
    for planar, tile in itertools.product([False, True], [0, 16]):
        page = tiff_page(
            wide(RGB, bits), photometric=2, planar=planar, deflate=True, predictor=True, tile=tile
        )
        assert_shown(tiff(page), RGB)


def test_transparency_of_16_bits_is_on_white_and_inks_are_colours() -> None:
    alpha = np.full((*GREY.shape[:2], 1), 255, np.uint8)
    alpha[:16] = 0
    white = np.where(alpha, np.repeat(GREY, 3, 2), 255).astype(np.uint8)
    for planar in (False, True):
        page = tiff_page(wide(np.dstack([GREY, alpha]), 16), photometric=1, planar=planar, tags={338: (2,)})
        assert_shown(tiff(page), white)
        inks = np.dstack([255 - RGB, np.zeros_like(GREY)])
        assert_shown(tiff(tiff_page(wide(inks, 16), photometric=5, planar=planar)), RGB)
    multiplied = np.dstack([np.where(alpha, GREY, 0).astype(np.uint8), alpha])
    assert_shown(tiff(tiff_page(wide(multiplied, 16), photometric=1, tags={338: (1,)})), white)


def test_orientation_holds_for_every_kind() -> None:
    for bits, planar in ((8, False), (16, True)):
        pixels = RGB if bits == 8 else wide(RGB, bits)
        turned = np.ascontiguousarray(np.rot90(pixels))  # what 6 turns upright
        assert_shown(tiff(tiff_page(turned, photometric=2, planar=planar, tags={274: (6,)})), RGB)


@pytest.mark.parametrize(
    ("pixels", "tags", "message"),
    [
        (np.ones((9, 9, 1), np.uint32), {339: (3,)}, "floating-point numbers of 32 bits"),
        (np.ones((9, 9, 3), np.uint32), {339: (3, 3, 3)}, "floating-point numbers of 32 bits"),
        (np.ones((9, 9, 1), np.uint16), {339: (3,)}, "floating-point numbers of 16 bits"),
        (np.ones((9, 9, 1), np.uint8), {339: (2,)}, "signed numbers of 8 bits"),
        (np.ones((9, 9, 1), np.uint16), {339: (2,)}, "signed numbers of 16 bits"),
        (np.ones((9, 9, 7), np.uint8), {}, "7 per pixel"),
        (np.ones((10, 10, 3), np.uint8), {262: (6,), 530: (2, 2)}, "YCbCr with subsampling"),
    ],
)
def test_what_would_be_shown_wrong_is_refused(
    pixels: npt.NDArray[Any], tags: dict[int, tuple[int, ...]], message: str
) -> None:
    with pytest.raises(ImageError, match=f"<bytes>.*{message}.*8-bit RGB"):
        load(tiff(tiff_page(pixels, photometric=1 if pixels.shape[2] == 1 else 2, tags=tags)))


def test_a_picture_opened_by_the_user_is_not_shown_wrong() -> None:
    planar = tiff(tiff_page(wide(RGB, 16), photometric=2, planar=True))
    with (
        Image.open(io.BytesIO(planar)) as picture,
        pytest.raises(ImageError, match=r"<image>.*path or bytes"),
    ):
        load(picture)
    with Image.open(io.BytesIO(encoded(Image.fromarray(RGB), "TIFF"))) as picture:
        assert (load(picture).pixels == RGB).all()


def test_lab() -> None:
    from PIL import ImageCms

    lab = ImageCms.createProfile("LAB")
    picture = ImageCms.profileToProfile(
        Image.fromarray(RGB), ImageCms.createProfile("sRGB"), lab, outputMode="LAB"
    )
    assert picture is not None
    for source in (picture, encoded(picture, "TIFF")):
        assert np.abs(load(source).pixels.astype(int) - RGB).max() <= 15  # 8-bit Lab is coarse in the dark


def test_the_largest_page_that_is_neither_reduced_nor_a_mask() -> None:
    small = tiff_page(quarters(16, 12), photometric=2)
    full = tiff_page(RGB, photometric=2)
    reduced = tiff_page(quarters(106, 66)[::-1].copy(), photometric=2, tags={254: (1,)})
    mask = tiff_page(np.zeros((66, 106, 1), np.uint8), photometric=1, tags={254: (4,)})
    assert_shown(tiff(small, full, reduced, mask), RGB)
    assert_shown(tiff(full, small), RGB)
    assert_shown(tiff(small, children=(full,)), RGB)
    other = tiff_page(RGB[::-1].copy(), photometric=2)
    assert_shown(tiff(full, other), RGB)  # the first of equals
    assert_shown(tiff(small, tiff_page(wide(RGB, 16), photometric=2, planar=True)), RGB)
    assert load(tiff(reduced)).width == 106  # there is no other


def test_pages_in_a_circle_end() -> None:
    data = bytearray(tiff(tiff_page(RGB, photometric=2)))
    data[-4:] = data[4:8]  # the last page is followed by the first
    assert_shown(bytes(data), RGB)


# --- RAW ---


def jpeg_page(pixels: Pixels) -> tuple[dict[int, tuple[int, ...]], list[bytes]]:
    """A preview as cameras embed it: one strip that is a JPEG."""
    body = encoded(Image.fromarray(pixels), "JPEG", quality=95)
    height, width = pixels.shape[:2]
    return {254: (1,), 256: (width,), 257: (height,), 259: (7,), 262: (6,), 277: (3,)}, [body]


def test_a_raw_file_shows_its_largest_preview_upright(tmp_path: Path) -> None:
    preview = quarters(900, 600)
    turned = jpeg_page(np.ascontiguousarray(np.rot90(preview)))
    thumbnail = (THUMBNAIL[0] | {50706: (1,), 274: (6,)}, THUMBNAIL[1])
    path = tmp_path / "photo.dng"
    path.write_bytes(tiff(thumbnail, children=(CFA, jpeg_page(quarters(640, 480)), turned)))
    photo = load(path, min_side=100)
    assert (photo.width, photo.height) == (900, 600)
    assert photo.picture.size == (225, 150)
    np.testing.assert_allclose(photo.pixels[20, 20], preview[0, 0], atol=4)


def test_a_raw_file_with_its_finished_picture_shows_it() -> None:
    data = tiff((THUMBNAIL[0] | {50706: (1,)}, THUMBNAIL[1]), children=(tiff_page(RGB, photometric=2),))
    assert_shown(data, RGB)
    turned = np.ascontiguousarray(np.rot90(RGB))
    first = (THUMBNAIL[0] | {50706: (1,), 274: (6,)}, THUMBNAIL[1])  # speaks for its children, too
    assert_shown(tiff(first, children=(tiff_page(turned, photometric=2),)), RGB)
    assert_shown(tiff(first, children=(tiff_page(wide(turned, 16), photometric=2, planar=True),)), RGB)


def old_preview(pixels: Pixels) -> tuple[dict[int, tuple[int, ...]], bytes]:
    """A preview as older cameras embed it: JPEGInterchangeFormat and its length."""
    return {254: (1,), 259: (6,)}, encoded(Image.fromarray(pixels), "JPEG", quality=95)


@pytest.mark.parametrize("as_child", [True, False])
def test_previews_by_interchange_format(as_child: bool) -> None:
    tags, body = old_preview(quarters(700, 500))
    page: tuple[dict[int, tuple[int, ...]], list[bytes]] = (tags | {513: (8,), 514: (len(body),)}, [])
    padding = (THUMBNAIL[0], [body, *THUMBNAIL[1]])  # the first piece lies at 8
    data = tiff(padding, children=(CFA, page)) if as_child else tiff(padding, CFA, page)
    if as_child:  # children are written first
        at = data.index(body)
        data = tiff(padding, children=(CFA, (tags | {513: (at,), 514: (len(body),)}, [])))
    photo = load(data)
    assert (photo.width, photo.height) == (700, 500)


@pytest.mark.parametrize("children", [(CFA,), (CFA, jpeg_page(quarters(160, 120)))])
def test_a_raw_file_with_a_thumbnail_only_is_refused_by_name(children: Any) -> None:
    for data in (tiff(THUMBNAIL, children=children), tiff(THUMBNAIL, *children)):
        with pytest.raises(ImageError, match=r"<bytes>: is a RAW photo.*develop it"):
            load(data)


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("a.raf", b"FUJIFILMCCD-RAW 0201"),
        ("a.rw2", b"IIU\0\x18\0\0\0"),
        ("a.orf", b"IIRO\x08\0\0\0"),
        ("a.cr3", b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom"),
        ("a.x3f", b"FOVb\0\0"),
        ("a.crw", b"II\x1a\0\0\0HEAPCCDR"),
        ("a.mrw", b"\0MRM\0\0"),
        ("a.3fr", b"what a camera writes"),
    ],
)
def test_raw_files_that_are_no_tiff_are_refused_by_name(tmp_path: Path, name: str, head: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(head + bytes(200))
    with pytest.raises(ImageError, match=rf"{name}: is a RAW photo \(.*\).*develop it to JPEG"):
        load(path)


def raf(jpeg: bytes) -> bytes:
    """A Fujifilm RAW file, as much of one as tells where its JPEG lies."""
    head = b"FUJIFILMCCD-RAW 0201FF383501X-T1".ljust(84, b"\0")
    return head + struct.pack(">IIIIII", 160, len(jpeg), 0, 0, 0, 0) + bytes(160 - 108) + jpeg


def rw2(jpeg: bytes, orientation: int) -> bytes:
    """A Panasonic RAW file: a TIFF by another name, whose preview is a tag."""
    head = struct.pack("<2sHIH", b"IIU\0"[:2], 0x55, 8, 2)
    entries = struct.pack("<HHII", 0x2E, 7, len(jpeg), 38) + struct.pack("<HHII", 274, 3, 1, orientation)
    return head + entries + bytes(4) + jpeg


@xmp.NEEDS_EXIFTOOL
@pytest.mark.parametrize("orientation", [1, 6])
def test_raw_files_that_are_no_tiff_are_read_by_their_preview(tmp_path: Path, orientation: int) -> None:
    upright = quarters(900, 600)
    stored = upright if orientation == 1 else np.ascontiguousarray(np.rot90(upright))
    picture = Image.fromarray(stored)
    exif = Image.Exif()
    exif[274] = orientation
    for name, data in (
        ("a.raf", raf(encoded(picture, "JPEG", quality=95, exif=exif))),
        ("a.rw2", rw2(encoded(picture, "JPEG", quality=95), orientation)),
    ):
        path = tmp_path / name
        path.write_bytes(data)
        for source in (path, data):
            photo = load(source, min_side=100)
            assert (photo.width, photo.height) == (900, 600)
            np.testing.assert_allclose(photo.pixels[20, 20], upright[0, 0], atol=4)


def test_without_exiftool_the_error_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anytag.metadata.exiftool import shared

    shared().close()
    monkeypatch.setenv("PATH", "/nowhere")
    path = tmp_path / "a.raf"
    path.write_bytes(raf(encoded(Image.fromarray(quarters(900, 600)), "JPEG")))
    with pytest.raises(ImageError, match=r"a\.raf: is a RAW photo \(Fujifilm RAF\).*libimage-exiftool-perl"):
        load(path)


def test_a_suffix_makes_a_thumbnail_no_photo_and_a_photo_no_raw(tmp_path: Path) -> None:
    path = tmp_path / "photo.NEF"
    path.write_bytes(tiff(tiff_page(quarters(160, 120), photometric=2)))
    with pytest.raises(ImageError, match="RAW"):
        load(path)
    path.write_bytes(tiff(tiff_page(quarters(700, 500), photometric=2)))
    assert load(path).width == 700
    path.write_bytes(encoded(Image.fromarray(RGB), "JPEG"))  # what it is counts
    assert load(path).width == 53


def test_suffixes_are_of_one_kind() -> None:
    assert not SUFFIXES & RAW_SUFFIXES
    assert all(suffix == suffix.lower() and suffix[0] == "." for suffix in SUFFIXES | RAW_SUFFIXES)
