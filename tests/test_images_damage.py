"""`anytag.images`: whatever the bytes, a photo or an `ImageError` that names its source."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from anytag.errors import ImageError, MissingExtraError
from anytag.images import MAX_PIXELS, Photo, load, prepare
from tests.pictures import encoded, png, quarters, turned

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


def test_a_bomb_is_refused_by_its_header() -> None:
    data = png(quarters(), colour=2, size=(60_000, 60_000))
    with pytest.raises(
        ImageError, match=r"60000×60000 is 3,600,000,000 pixels.*178,956,970.*max_pixels=3600000000"
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


def test_a_large_photo_within_the_limit_brings_no_warning() -> None:
    data = encoded(
        Image.new("L", (10_000, 9_000)), "JPEG", quality=30
    )  # beyond Pillow's own warning, 89 megapixels
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        photo = load(data, near=224)
    assert (photo.width, photo.height) == (10_000, 9_000)
    assert photo.width * photo.height < MAX_PIXELS
    assert photo.picture.size == (1250, 1125)
    assert before == Image.MAX_IMAGE_PIXELS


def attempt(data: bytes) -> Photo | None:
    """A photo or an ImageError, no warning, nothing else."""
    with warnings.catch_warnings(record=True) as leaked:
        warnings.simplefilter("always")
        try:
            photo = load(data, near=16, max_pixels=1_000_000)
        except (ImageError, MissingExtraError) as error:
            assert "<bytes>" in str(error)
            photo = None
    assert [str(w.message) for w in leaked] == []
    if photo is not None:
        assert prepare(photo, size=4).shape == (3, 4, 4)
    return photo


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
