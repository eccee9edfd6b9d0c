"""`anytag.images.sources`: whatever is given for an image, a photo or an `ImageError`."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from anytag.errors import ImageError
from anytag.images import load
from tests.pictures import SIZE, encoded, quarters


def test_array() -> None:
    photo = load(quarters())
    assert (photo.width, photo.height, photo.name) == (*SIZE, "<array>")
    assert (photo.pixels == quarters()).all()
    assert (load(quarters()[::-1, ::2]).pixels == quarters()[::-1, ::2]).all()  # strides of any kind


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 1), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros((3, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 3), np.int64),
        np.zeros((4, 4, 3), bool),
    ],
)
def test_array_of_the_wrong_kind(array: npt.NDArray[Any]) -> None:
    with pytest.raises(ImageError, match=r"shape .*expected uint8 H×W×3"):
        load(array)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "I", "I;16"]
)
def test_pil_modes(mode: str) -> None:
    photo = load(Image.new(mode, (5, 4)))
    assert photo.picture.mode == "RGB"
    assert photo.pixels.shape == (4, 5, 3)


def test_pil_mode_f_has_no_known_range() -> None:
    with pytest.raises(ImageError, match=r"<image>.*mode F"):
        load(Image.new("F", (5, 4)))


def test_a_photo_cannot_be_changed() -> None:
    photo = load(quarters())
    with pytest.raises(AttributeError):
        photo.width = 3  # type: ignore[misc]
    photo.pixels[:] = 0
    assert (photo.pixels == quarters()).all()


class Endless:
    """A stream that gives as much as is asked for, and never ends."""

    def read(self, size: int = -1, /) -> bytes:
        assert 0 < size < 10_000
        return b"no photo" * size


class Trickle:
    """A stream that gives a few bytes at a time, as sockets do."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def read(self, size: int = -1, /) -> bytes:
        part, self.data = self.data[:7], self.data[7:]
        return part


class AllAtOnce:
    """An object whose `read` takes no size."""

    def read(self) -> bytes:
        return encoded(Image.fromarray(quarters()), "PNG")


class BadPath:
    def __fspath__(self) -> int:
        return 3


def test_open_files_and_other_bytes(tmp_path: Path) -> None:
    data = encoded(Image.fromarray(quarters()), "PNG")
    path = tmp_path / "photo.png"
    path.write_bytes(data)
    with path.open("rb") as file:
        assert load(file).name == str(path)
    for source in (io.BytesIO(data), Trickle(data), AllAtOnce(), bytearray(data), memoryview(data)):
        assert (load(source).pixels == quarters()).all()  # type: ignore[arg-type, unused-ignore]
    after = io.BytesIO(b"header" + data)
    after.seek(6)
    assert load(after).name == "<file>"
    with (
        path.open(encoding="latin-1") as text,
        pytest.raises(ImageError, match=r"returns str, expected bytes.*rb"),
    ):
        load(text)  # type: ignore[arg-type]
    with pytest.raises(ImageError, match="not a photo"):
        load(Endless())
    closed = io.BytesIO(data)
    closed.close()
    with pytest.raises(ImageError, match="<file>: cannot be read"):
        load(closed)


def test_paths_as_bytes_objects_and_addresses(tmp_path: Path) -> None:
    class AsBytes:
        def __fspath__(self) -> bytes:
            return bytes(tmp_path / "photo.png")

    Image.fromarray(quarters()).save(tmp_path / "photo.png")
    assert load(AsBytes()).width == 48  # type: ignore[arg-type]
    for source, message in [
        ("", "empty path"),
        (BadPath(), "cannot be read"),
        ("https://example.com/cat.jpg", r"https://example.com/cat.jpg: URLs are not read; download"),
    ]:
        with pytest.raises(ImageError, match=message):
            load(source)  # type: ignore[arg-type]


def test_a_closed_picture_is_an_error(tmp_path: Path) -> None:
    Image.fromarray(quarters()).save(tmp_path / "photo.png")
    picture = Image.open(tmp_path / "photo.png")
    picture.close()
    with pytest.raises(ImageError, match="<image>: cannot be decoded"):
        load(picture)


def test_other_types() -> None:
    wrong: Any
    for wrong in (None, 3, [1, 2], {"a": 1}, object(), np.float32(3)):
        with pytest.raises(ImageError, match=f"cannot be a {type(wrong).__name__}"):
            load(wrong)
