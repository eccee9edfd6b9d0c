"""Test pictures: plain quarters, in every format and by hand where Pillow cannot write them."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]
RED, GREEN, BLUE, GREY = (250, 10, 20), (15, 200, 30), (10, 20, 240), (128, 128, 128)
WHITE = (255, 255, 255)
SIZE = (48, 32)  # width, height


def quarters(width: int = 48, height: int = 32) -> Pixels:
    """Four plain quarters, so that every flip and turn looks different and JPEG keeps the middles."""
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = RED
    pixels[: height // 2, width // 2 :] = GREEN
    pixels[height // 2 :, : width // 2] = BLUE
    pixels[height // 2 :, width // 2 :] = GREY
    return pixels


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def png(
    pixels: npt.NDArray[Any], *, colour: int, extra: bytes = b"", size: tuple[int, int] | None = None
) -> bytes:
    """A PNG by hand, for what Pillow cannot write: 16-bit colour, lies about the size."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    height, width = pixels.shape[:2]
    depth = pixels.dtype.itemsize * 8
    rows = b"".join(b"\0" + row.astype(row.dtype.newbyteorder(">")).tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", *(size or (width, height)), depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def transparent_grey(value: int) -> bytes:
    body = struct.pack(">H", value)
    return struct.pack(">I", 2) + b"tRNS" + body + struct.pack(">I", zlib.crc32(b"tRNS" + body))


def tiff_rgb16(pixels: npt.NDArray[np.uint16]) -> bytes:
    """A little-endian TIFF by hand: one strip of 16-bit RGB."""
    height, width = pixels.shape[:2]
    data = pixels.astype("<u2").tobytes()
    bits_at = 8 + len(data)
    entries = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 3, bits_at),
        (259, 3, 1, 1),
        (262, 3, 1, 2),
        (273, 4, 1, 8),
        (277, 3, 1, 3),
        (278, 4, 1, height),
        (279, 4, 1, len(data)),
    ]
    directory = (
        struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *e) for e in entries) + bytes(4)
    )
    return b"II*\0" + struct.pack("<I", bits_at + 6) + data + struct.pack("<HHH", 16, 16, 16) + directory


def raw(mode: str, pixels: Pixels) -> Image.Image:
    """An 8-bit picture of a mode that an array's shape does not say."""
    return Image.frombytes(mode, (pixels.shape[1], pixels.shape[0]), pixels.tobytes())


def middles(pixels: Pixels) -> list[tuple[int, ...]]:
    """The colours in the middle of the four quarters."""
    height, width = pixels.shape[:2]
    at = [(height // 4, width // 4), (height // 4, 3 * width // 4), (3 * height // 4, width // 4)]
    return [tuple(int(v) for v in pixels[y, x]) for y, x in [*at, (3 * height // 4, 3 * width // 4)]]


def assert_close(pixels: Pixels, expected: Pixels, tolerance: int) -> None:
    assert pixels.shape == expected.shape
    found, wanted = np.array(middles(pixels), int), np.array(middles(expected), int)
    assert np.abs(found - wanted).max() <= tolerance, (found, wanted)


# Orientation -> how an upright array is stored (EXIF 2.32, tag 0x0112: where row 0 and column 0 lie).
STORED: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a[:, ::-1].transpose(1, 0, 2),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: a[::-1].transpose(1, 0, 2),
}


def turned(upright: Pixels, orientation: int, kind: str, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(
        Image.fromarray(np.ascontiguousarray(STORED[orientation](upright))), kind, exif=exif, **options
    )
