"""Test pictures: plain quarters, in every format and by hand where Pillow cannot write them."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any, Literal

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


def tiff_page(
    pixels: npt.NDArray[Any],
    *,
    photometric: int,
    bits: int = 0,
    order: Literal["<", ">"] = "<",
    planar: bool = False,
    deflate: bool = False,
    predictor: bool = False,
    tile: int = 0,
    tags: dict[int, tuple[int, ...]] | None = None,
) -> tuple[dict[int, tuple[int, ...]], list[bytes]]:
    """A page by hand, for what Pillow cannot write: its tags and its strips (or tiles) of bytes.

    Args:
        pixels: unsigned integers H×W×S.
        bits: of a sample, packed, where its type has more.
        planar: strips of each sample after the other.
        predictor: rows as differences; their samples are of 16 or 32 bits.
        tile: side of tiles, a multiple of 16; 0 is strips of 5 rows.
        tags: besides, of type LONG.
    """
    height, width, samples = pixels.shape
    bits = bits or pixels.dtype.itemsize * 8

    def encode(piece: npt.NDArray[Any]) -> bytes:
        if predictor:
            piece = np.diff(piece, axis=1, prepend=piece.dtype.type(0))
        rows = piece.reshape(len(piece), -1)
        if bits in (8, 16, 32):
            body = rows.astype(rows.dtype.newbyteorder(order)).tobytes()
        else:
            split = (rows[..., None] >> np.arange(bits - 1, -1, -1).astype(rows.dtype)) & 1
            body = np.packbits(split.reshape(len(rows), -1).astype(np.uint8), axis=1).tobytes()
        return zlib.compress(body) if deflate else body

    padded = pixels
    if tile:
        padded = np.pad(pixels, ((0, -height % tile), (0, -width % tile), (0, 0)))
    down, across = tile or 5, tile or width
    planes = [padded[..., n : n + 1] for n in range(samples)] if planar else [padded]
    pieces = [
        encode(plane[y : y + down, x : x + across])
        for plane in planes
        for y in range(0, len(padded), down)
        for x in range(0, padded.shape[1], across)
    ]
    entries: dict[int, tuple[int, ...]] = {
        256: (width,), 257: (height,), 258: (bits,) * samples, 259: (8 if deflate else 1,),
        262: (photometric,), 277: (samples,), 284: (2 if planar else 1,),
    }  # fmt: skip
    entries |= {322: (tile,), 323: (tile,)} if tile else {278: (5,)}
    return entries | ({317: (2,)} if predictor else {}) | (tags or {}), pieces


def tiff(
    *pages: tuple[dict[int, tuple[int, ...]], list[bytes]],
    children: tuple[tuple[dict[int, tuple[int, ...]], list[bytes]], ...] = (),
    order: Literal["<", ">"] = "<",
) -> bytes:
    """A TIFF of such pages, `children` as SubIFDs of the first."""
    data = bytearray(b"II*\0" if order == "<" else b"MM\0*") + bytearray(4)

    def add(entries: dict[int, tuple[int, ...]], pieces: list[bytes]) -> int:
        """Appends a page; returns where its link to the next one is."""
        offsets = []
        for piece in pieces:
            offsets.append(len(data))
            data.extend(piece + bytes(len(piece) % 2))
        if pieces:
            where, counts = (324, 325) if 322 in entries else (273, 279)
            entries = entries | {where: tuple(offsets), counts: tuple(map(len, pieces))}
        at = len(data)
        data.extend(bytes(2 + 12 * len(entries) + 4))
        struct.pack_into(order + "H", data, at, len(entries))
        for number, (tag, values) in enumerate(sorted(entries.items())):
            packed = struct.pack(f"{order}{len(values)}L", *values)
            struct.pack_into(order + "HHL", data, at + 2 + 12 * number, tag, 4, len(values))
            if len(values) > 1:
                packed, more = struct.pack(order + "L", len(data)), packed
                data.extend(more)
            data[at + 10 + 12 * number : at + 14 + 12 * number] = packed
        return at

    below = tuple(add(*child) for child in children)
    link = 4
    for number, (entries, pieces) in enumerate(pages):
        at = add(entries | ({330: below} if below and not number else {}), pieces)
        struct.pack_into(order + "L", data, link, at)
        link = at + 2 + 12 * struct.unpack_from(order + "H", data, at)[0]
    return bytes(data)


def icc_profile(
    space: bytes, columns: tuple[tuple[float, float, float], ...] = (), *, gamma: float = 2.2
) -> bytes:
    """An ICC profile by hand: b"RGB " of three primaries (XYZ under D50), b"GRAY", or b"CMYK".

    The CMYK profile shows magenta ink as green, so that pictures tell whether it was applied.
    """

    def fixed(*values: float) -> bytes:
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    white = (0.9642, 1.0, 0.8249)
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 2) + b"x\0" + bytes(78) + bytes(2),
        b"cprt": b"text" + bytes(4) + b"x\0\0\0",
        b"wtpt": b"XYZ " + bytes(4) + fixed(*white),
    }
    if space == b"GRAY":
        tags[b"kTRC"] = curve
    for name, column in zip((b"r", b"g", b"b"), columns, strict=False):
        tags |= {name + b"XYZ": b"XYZ " + bytes(4) + fixed(*column), name + b"TRC": curve}
    if space == b"CMYK":
        identity = bytes(range(256))
        inks = [((n >> 3) & 1, (n >> 2) & 1, (n >> 1) & 1, n & 1) for n in range(16)]
        colours = [
            (0, 128, 128) if k or c or y else (200, 0, 128) if m else (255, 128, 128) for c, m, y, k in inks
        ]
        tags[b"A2B0"] = (
            b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
            + identity * 4 + bytes(value for colour in colours for value in colour) + identity * 3
        )  # fmt: skip
    at, table, body = 132 + 12 * len(tags), b"", b""
    for name, value in tags.items():
        table += name + struct.pack(">II", at + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    kind, between = (b"prtr", b"Lab ") if space == b"CMYK" else (b"mntr", b"XYZ ")
    head = bytes(4) + b"\x02\x10\0\0" + kind + space + between + bytes(12) + b"acsp" + bytes(28)
    head += fixed(*white) + bytes(48)
    return struct.pack(">I", at + len(body)) + head + struct.pack(">I", len(tags)) + table + body


PROPHOTO = ((0.7977, 0.2880, 0.0), (0.1352, 0.7119, 0.0), (0.0313, 0.0001, 0.8249))
ADOBE_RGB = ((0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446))
SRGB = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))


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
