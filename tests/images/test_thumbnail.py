from __future__ import annotations

import io

import pytest
from PIL import Image

from anytag.images import load
from anytag.images.thumbnail import thumbnail


def jpeg(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("size", "min_side", "expected"),
    [
        ((640, 480), None, (320, 240)),
        ((640, 480), 224, (320, 240)),  # decoded at half
        ((480, 640), 224, (240, 320)),
        ((4000, 500), 224, (320, 40)),
        ((2000, 1), None, (320, 1)),
        ((512, 512), 224, (256, 256)),  # not enlarged
        ((100, 80), None, (100, 80)),
    ],
)
def test_a_photo_fits_into_the_square_and_is_not_enlarged(
    size: tuple[int, int], min_side: int | None, expected: tuple[int, int]
) -> None:
    small = Image.open(io.BytesIO(thumbnail(load(jpeg(*size), min_side=min_side), 320)))
    assert (small.format, small.mode, small.size) == ("JPEG", "RGB", expected)


def test_a_photo_that_was_decoded_too_small_has_none() -> None:
    assert thumbnail(load(jpeg(640, 480), min_side=16), 320) == b""


def test_a_thumbnail_shows_the_photo() -> None:
    photo = load(jpeg(600, 300))
    small = load(thumbnail(photo, 320)).picture
    expected = photo.picture.resize(small.size)
    assert max(abs(one - other) for one, other in zip(small.tobytes(), expected.tobytes(), strict=True)) < 12
