"""`anytag.images`: whatever the bytes, a photo or an `ImageError` that names its source."""

from __future__ import annotations

import io
import os
import random
import struct
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from anytag.errors import ImageError, MissingExtraError
from anytag.images import MAX_PIXELS, Photo, decode, formats, load, prepare
from tests.pictures import encoded, png, quarters, tiff, tiff_page, turned

SAMPLES = {
    "JPEG": turned(quarters(), 6, "JPEG"),
    "PNG": turned(quarters(), 6, "PNG"),
    "PNG palette": encoded(Image.fromarray(quarters()).quantize(4), "PNG", transparency=0),
    "PNG 16": png(quarters().astype(np.uint16) * 257, colour=2),
    "GIF": encoded(Image.fromarray(quarters()).quantize(4), "GIF"),
    "WEBP": turned(quarters(), 6, "WEBP"),
    "TIFF": turned(quarters(), 6, "TIFF"),
    "TIFF lzw": turned(quarters(), 6, "TIFF", compression="tiff_lzw"),
    "BMP": encoded(Image.fromarray(quarters()), "BMP"),
    "AVIF": turned(quarters(), 6, "AVIF"),
}


def test_missing_directory_empty_text(tmp_path: Path) -> None:
    empty, text = tmp_path / "empty.jpg", tmp_path / "text.jpg"
    empty.touch()
    text.write_text("<html>404</html>")
    for path, message in [
        (tmp_path / "none.jpg", "no such file"),
        (tmp_path, "is a folder"),
        (empty, "is empty"),
        (text, "not a photo of a known format; expected one of JPEG, PNG"),
    ]:
        with pytest.raises(ImageError, match=message) as caught:
            load(path)
        assert str(path) in str(caught.value)
    with pytest.raises(ImageError):
        load("null\0byte.jpg")
    with pytest.raises(ImageError, match="<bytes>: is empty"):
        load(b"")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX")
def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match="not a regular file"):
        load(tmp_path / "pipe.jpg")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "AVIF"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_cut_short(tmp_path: Path, kind: str, part: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    path = tmp_path / f"cut.{kind.lower()}"
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(ImageError) as caught:
        load(path)
    assert str(path) in str(caught.value)


def scene(width: int = 320, height: int = 240) -> Image.Image:
    """A picture with detail everywhere, so that any missing row is seen."""
    noise = np.random.default_rng(2).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


TRAILERS = [b"", b"\0\0\1\n\x0e\0\0\0Image_UTC_Data1400000000000", random.Random(0).randbytes(4000)]


@pytest.mark.parametrize(
    "options",
    [{}, {"subsampling": 0}, {"progressive": True}, {"restart_marker_blocks": 4}, {"quality": 30}],
    ids=str,
)
@pytest.mark.parametrize("trailer", TRAILERS, ids=["none", "samsung", "noise"])
def test_a_jpeg_without_its_end_marker_is_whole(options: dict[str, int], trailer: bytes) -> None:
    data = encoded(scene(), "JPEG", **options)
    for near in (None, 60):
        whole = load(data, min_side=near)
        for cut in (1, 2):
            mended = load(data[:-cut] + trailer, min_side=near) if cut == 2 or not trailer else whole
            assert (mended.pixels == whole.pixels).all()
            assert (mended.width, mended.height) == (320, 240)
        assert (load(data + trailer, min_side=near).pixels == whole.pixels).all()


@pytest.mark.parametrize("orientation", [1, 6, 8])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}], ids=str)
def test_a_jpeg_may_lack_a_few_bytes_but_not_a_part(orientation: int, options: dict[str, int]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(scene(), "JPEG", exif=exif, **options)
    whole = load(data).pixels.astype(int)
    for cut in (3, 6, 12):
        assert (np.abs(load(data[:-cut]).pixels - whole).max(2) > 0).mean() < 0.03
    for part in (0.5, 0.8, 0.9, 0.95):
        with pytest.raises(ImageError, match="truncated"):
            load(data[: int(len(data) * part)])
        with pytest.raises(ImageError, match="truncated"):
            load(data[: int(len(data) * part)], min_side=60)


def test_a_progressive_jpeg_without_its_last_scans_is_cut_short() -> None:
    data = encoded(scene(), "JPEG", progressive=True)
    scans = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xda"]
    for at in scans[1:]:
        with pytest.raises(ImageError):
            load(data[:at])
        with pytest.raises(ImageError):
            load(data[:at], min_side=30)


def test_a_multi_picture_jpeg_whose_second_picture_is_cut_off() -> None:
    data = encoded(scene(), "MPO", save_all=True, append_images=[scene().rotate(180)])
    second = data.index(b"\xff\xd8\xff", 4)
    for part in (data[:-2], data[: second + 500], data[:second], data[: second - 2]):
        assert (load(part).pixels == load(data).pixels).all()


def chunk(name: bytes, body: bytes, *, checksum: int = 0) -> bytes:
    check = struct.pack(">I", zlib.crc32(name + body) ^ checksum)
    return struct.pack(">I", len(body)) + name + body + check


CHUNKS = {
    "tEXt": b"workflow\0" + b"x" * 3_000_000,
    "zTXt": b"workflow\0\0" + zlib.compress(bytes(3_000_000)),
    "iTXt": b"workflow\0\1\0\0\0" + zlib.compress(bytes(3_000_000)),
    "iCCP": b"big\0\0" + zlib.compress(bytes(3_000_000)),
    "broken iCCP": b"odd\0\0nonsense",
    "empty iCCP": b"",
    "broken gAMA": b"x",
    "empty tRNS": b"",
    "eXIf": b"nonsense",
}


@pytest.mark.parametrize("name", CHUNKS)
@pytest.mark.parametrize("checksum", [0, 1])
@pytest.mark.parametrize("at", ["before", "behind"])
def test_chunks_beside_the_pixels_of_a_png_do_no_harm(name: str, checksum: int, at: str) -> None:
    data = turned(quarters(), 1 if name == "eXIf" else 6, "PNG")  # of two eXIf the last one holds
    extra = chunk(name[-4:].encode(), CHUNKS[name], checksum=checksum)
    where = data.index(b"IDAT") - 4 if at == "before" else len(data) - 12
    assert (load(data[:where] + extra + data[where:]).pixels == quarters()).all()


def test_unpacked_chunks_take_no_memory() -> None:
    import tracemalloc

    data = encoded(Image.fromarray(quarters()), "PNG")
    bomb = zlib.compress(bytes(200_000_000), 9)
    extra = b"".join(chunk(name, b"k\0\0" + bomb) for name in (b"zTXt", b"iCCP") for _ in range(3))
    tracemalloc.start()
    try:
        assert (load(data[:33] + extra + data[33:]).pixels == quarters()).all()
        assert tracemalloc.get_traced_memory()[1] < 40_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("interlaced", [False, True])
def test_a_png_may_lack_its_last_bytes(interlaced: bool) -> None:
    data = encoded(scene(), "PNG")
    if interlaced:  # by hand: seven passes of one pixel each row are enough to know the size
        pixels = quarters(1, 1)
        data = bytearray(png(pixels, colour=2))  # type: ignore[assignment]
        data[28] = 1  # type: ignore[index]
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))  # type: ignore[index]
        data = bytes(data)
    for cut in (1, 4, 12, 13, 16):
        assert (load(data[:-cut]).pixels == load(data).pixels).all()
    if not interlaced:
        assert (load(data[:-100]).pixels != load(data).pixels).any(2).mean() < 0.02
        with pytest.raises(ImageError):
            load(data[: int(len(data) * 0.95)])


def test_a_png_with_wrong_pixels_is_damaged() -> None:
    data = bytearray(encoded(scene(), "PNG"))
    data[len(data) // 2] ^= 1
    with pytest.raises(ImageError, match="cannot be decoded"):
        load(bytes(data))


@pytest.mark.parametrize(("kind", "cut"), [("BMP", 40), ("TIFF", 40), ("WEBP", 4), ("GIF", 2), ("AVIF", 2)])
def test_other_formats_may_lack_their_last_bytes(kind: str, cut: int) -> None:
    data = encoded(scene().quantize(64) if kind == "GIF" else scene(), kind)
    whole = load(data).pixels
    assert (load(data[:-cut]).pixels != whole).any(2).mean() < 0.02
    with pytest.raises(ImageError):
        load(data[: int(len(data) * 0.9)])


def test_a_bomb_is_refused_by_its_header() -> None:
    data = png(quarters(), colour=2, size=(60_000, 60_000))
    with pytest.raises(
        ImageError,
        match=r"60000×60000 is 3,600,000,000 pixels.*178,956,970.*max_pixels=3600000000 to Tagger.load",
    ):
        load(data)
    with pytest.raises(ImageError, match="is not a PNG that can be read"):
        load(png(quarters(), colour=2, size=(0, 5)))


def test_the_limit_is_inclusive_and_holds_for_every_source() -> None:
    pixels = quarters()
    for source in (pixels, Image.fromarray(pixels), encoded(Image.fromarray(pixels), "PNG")):
        assert load(source, max_pixels=48 * 32).width == 48
        with pytest.raises(ImageError, match="more than the limit"):
            load(source, max_pixels=48 * 32 - 1)


@pytest.mark.parametrize(
    "options", [{}, {"lossless": True}, {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"}]
)
def test_our_limit_holds_for_webp_and_not_pillows(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # VP8, VP8L and VP8X; Pillow's own limit is small here so that the photo need not be large
    data = encoded(scene(), "WEBP", **options)
    width, height = scene().size
    assert formats.webp_size(data[:30]) == (width, height)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for module in (formats, decode):
        monkeypatch.setattr(module, "MAX_PIXELS", 200)
    assert load(data, max_pixels=width * height).width == width
    assert Image.MAX_IMAGE_PIXELS == 100
    with pytest.raises(
        ImageError, match=f"more than the limit of {width * height - 1:,}; if you trust the file"
    ):
        load(data, max_pixels=width * height - 1)


def progressive(width: int, height: int) -> bytes:
    """A progressive JPEG whose header states another size than its few pixels have."""
    data = bytearray(encoded(Image.new("L", (8, 8)), "JPEG", progressive=True))
    at = data.index(b"\xff\xc2")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data) + bytes(10_000_000)


def test_a_jpeg_counts_as_it_is_decoded() -> None:
    data = encoded(Image.new("RGB", (1600, 1200), (90, 90, 90)), "JPEG")
    assert load(data, min_side=100, max_pixels=200 * 150).picture.size == (200, 150)
    with pytest.raises(ImageError, match=r"1600×1200 is 30,000 decoded pixels.*--max-pixels 30000,"):
        load(data, min_side=100, max_pixels=200 * 150 - 1)
    for options in ({"min_side": None}, {"min_side": 100, "exact": True}):
        with pytest.raises(
            ImageError, match=r"1600×1200 is 1,920,000 pixels.*max_pixels=1920000 to Tagger.load"
        ):
            load(data, max_pixels=200 * 150, **options)


def test_headers_that_promise_too_much_are_refused_at_once() -> None:
    with pytest.raises(ImageError, match="more than a JPEG of"):
        load(progressive(65_000, 65_000)[:2000], min_side=100)
    with pytest.raises(ImageError, match="decoded pixels"):
        load(progressive(65_000, 65_000), min_side=100)  # the coefficients of all scans take 12 GB


def test_a_large_photo_within_the_limit_brings_no_warning() -> None:
    data = encoded(
        Image.new("L", (10_000, 9_000)), "JPEG", quality=30
    )  # beyond Pillow's own warning, 89 megapixels
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        photo = load(data, min_side=224)
    assert (photo.width, photo.height) == (10_000, 9_000)
    assert photo.width * photo.height < MAX_PIXELS
    assert photo.picture.size == (1250, 1125)
    assert before == Image.MAX_IMAGE_PIXELS


def attempt(data: bytes) -> Photo | None:
    """A photo or an ImageError, no warning, nothing else."""
    with warnings.catch_warnings(record=True) as leaked:
        warnings.simplefilter("always")
        try:
            photo = load(data, min_side=16, max_pixels=1_000_000)
        except (ImageError, MissingExtraError) as error:
            assert "<bytes>" in str(error)
            photo = None
    assert [str(w.message) for w in leaked] == []
    if photo is not None:
        assert prepare(photo, size=4).shape == (3, 4, 4)
    return photo


@contextmanager
def stderr_of_the_process() -> Iterator[io.BytesIO]:
    """What is written to file descriptor 2, also by libraries in C."""
    caught, before = io.BytesIO(), os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield caught
        finally:
            os.dup2(before, 2)
            os.close(before)
            file.seek(0)
            caught.write(file.read())


def more_samples() -> dict[str, bytes]:
    """All that can be written here, with the extras that are installed."""
    small = Image.fromarray(quarters())
    wide = quarters().astype(np.uint16) * 257
    samples = dict(SAMPLES) | {
        "JPEG progressive": encoded(small, "JPEG", progressive=True),
        "MPO": encoded(small, "MPO", save_all=True, append_images=[small]),
        "GIF animated": encoded(Image.new("RGB", (16, 16)), "GIF", save_all=True, append_images=[small]),
        "TIFF planar": tiff(tiff_page(wide, photometric=2, planar=True, deflate=True)),
        "TIFF tiled": tiff(tiff_page(wide[..., :1], photometric=0, tile=16, order=">"), order=">"),
        "TIFF 12": tiff(tiff_page(wide[..., :1] >> 4, photometric=1, bits=12)),
        "TIFF pages": tiff(
            *[tiff_page(quarters(), photometric=2)] * 2, children=(tiff_page(wide, photometric=2),)
        ),
    }
    for name in ("tiff_adobe_deflate", "packbits", "jpeg", "group4"):
        samples[name] = encoded(small.convert("1") if name == "group4" else small, "TIFF", compression=name)
    try:
        import pillow_heif

        file = io.BytesIO()
        pillow_heif.from_pillow(Image.fromarray(quarters(96, 64))).save(file)
        samples["HEIC"] = file.getvalue()
    except ImportError:
        pass
    try:
        from pillow_jxl import JpegXLImagePlugin  # type: ignore[import-not-found, unused-ignore]  # noqa: F401

        samples["JXL"] = encoded(Image.fromarray(quarters(96, 64)), "JXL")
    except ImportError:
        pass
    return samples


def mutated(data: bytes, draws: random.Random) -> bytes:
    """A file with up to 30 other bytes, most of them in its header; some are cut or go on."""
    body = bytearray(data)
    for _ in range(draws.choice([0, 1, 2, 3, 8, 30])):
        reach = draws.choice([64, 300, len(body)])
        body[draws.randrange(min(reach, len(body)))] = draws.choice([0, 255, draws.randrange(256)])
    if draws.random() < 0.3:
        del body[draws.randrange(len(body)) :]
    return bytes(body) + (draws.randbytes(50) if draws.random() < 0.1 else b"")


def test_damaged_files_of_all_formats_are_a_photo_or_an_error_and_nothing_on_stderr() -> None:
    with stderr_of_the_process() as caught:
        for kind, data in more_samples().items():
            draws = random.Random(kind)
            photos = [attempt(mutated(data, draws)) for _ in range(120)]
            assert any(photos), kind
    assert caught.getvalue() == b""


def test_libtiff_speaks_again_afterwards() -> None:
    """Its handlers belong to the process, and to whoever else uses Pillow in it."""
    data = bytearray(SAMPLES["TIFF lzw"])
    at = bytes(data).index(struct.pack("<HHL", 273, 4, 1)) + 8
    (strip,) = struct.unpack_from("<L", data, at)
    data[strip : strip + 20] = b"\xff" * 20

    def words(read: Callable[[bytes], object]) -> bytes:
        with stderr_of_the_process() as caught, suppress(Exception):
            read(bytes(data))
        return caught.getvalue()

    before = words(lambda broken: Image.open(io.BytesIO(broken)).load())
    assert words(load) == b""
    assert words(lambda broken: Image.open(io.BytesIO(broken)).load()) == before


@given(st.binary(max_size=300))
@settings(max_examples=150, deadline=None)
def test_any_bytes(data: bytes) -> None:
    attempt(data)


HEADS = [data[:n] for data in SAMPLES.values() for n in (4, 8, 12, 40)] + [b"\0\0\0\x18ftypheic"]


@given(st.sampled_from(HEADS), st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_any_bytes_after_a_true_beginning(head: bytes, data: bytes) -> None:
    attempt(head + data)


@given(
    st.sampled_from(sorted(SAMPLES)),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    st.floats(0, 1),
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_damage(kind: str, changes: list[tuple[float, int]], kept: float) -> None:
    data = bytearray(SAMPLES[kind])
    for place, value in changes:
        data[int(place * len(data))] = value
    attempt(bytes(data[: round(len(data) * (kept if kept < 0.9 else 1))]))


def test_more_pixels_than_memory_are_an_error_of_the_photo(monkeypatch: pytest.MonkeyPatch) -> None:
    side = 2**31 - 1
    with pytest.raises(ImageError, match="cannot be decoded"):
        load(png(quarters(), colour=2, size=(side, side)), max_pixels=side**2)

    whole = encoded(scene(), "PNG")

    def exhausted(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "load", exhausted)
    monkeypatch.setattr(ImageFile.ImageFile, "load", exhausted)
    with pytest.raises(ImageError, match="needs more memory than is free"):
        load(whole)
