"""Repair truncated photos, photos with trailing data, and PNGs with bad chunks.

A file that cannot be decoded is decoded again with padding for the missing end. Decoding it with two
different paddings shows from which pixel on they matter. If more than 2 % of the pixels are missing, it is an
error.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

MOST_MISSING = 0.02
"""Maximum share of missing pixels, with which a padded photo has the same tags as the whole one."""

MOST_UNREFINED = 0.1
"""The same for the last scan of a progressive JPEG, which only adds the lowest bits."""

_END = b"\xff\xd9"
_NOISE = bytes((number * 89 + 41) % 251 for number in range(256))
_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")  # the end of entropy-coded data
_SEGMENT = re.compile(rb"\xff+([^\x00\xff])")
_NO_BODY = {0x01, *range(0xD0, 0xD9)}
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_DECODED_FRAMES = {0xC0, 0xC1, 0xC2}  # baseline, extended, progressive
# Passes of an interlaced PNG: first column and row, steps across and down.
_ADAM7 = (
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)
)  # fmt: skip
_LAST_BYTES = {"AVIF": 16, "HEIC": 16}  # missing bytes that decoders tolerate
_MAX_TEXT = 1 << 20  # maximum of unpacked bytes of a PNG chunk in Pillow


class Filled(NamedTuple):
    """A file with its end padded in two ways, the better first, and the maximum share of missing pixels."""

    one: bytes
    other: bytes
    most: float = MOST_MISSING


def fill(kind: str, data: bytes, pixels: int) -> Filled | None:
    """Pad the end of a file; None if it cannot be repaired.

    Args:
        kind: format, as from `formats.sniff`.
        data: the file.
        pixels: maximum pixels of PNGs, which are unpacked for this.
    """
    if kind == "JPEG":
        return _jpeg(data)
    if kind == "PNG":
        return _png(data, pixels)
    if kind == "WEBP":
        missing = int.from_bytes(data[4:8], "little") + 8 - len(data)
        count = missing if 0 < missing <= max(16, len(data) // 100) else 0
    else:
        count = len(data) // 32 + 64 if kind in ("BMP", "GIF", "TIFF") else _LAST_BYTES.get(kind, 0)
    noise = _NOISE * (count // len(_NOISE) + 1)
    return Filled(data + bytes(count), data + noise[:count]) if count else None


def missing(one: Image.Image, other: Image.Image, block: tuple[int, int]) -> float:
    """Share of the pixels after the block in which two decoded pictures first differ.

    Args:
        one, other: of the same size and mode.
        block: width and height of a coding block in pixels.
    """
    differs = np.asarray(one) != np.asarray(other)
    differs = differs.any(2) if differs.ndim == 3 else differs
    if not differs.any():
        return 0.0
    height, width = differs.shape
    top = _start(int(differs.any(1).argmax()), block[1])
    band = differs[top : top + block[1]]
    left = _start(int(band.any(0).argmax()), block[0])
    below = max(0, height - top - block[1]) * width
    behind = below + len(band) * max(0, width - left - block[0])
    return float(behind / (height * width))


def _start(at: int, block: int) -> int:
    """Start of the block that affects pixel `at`: chroma upsampling reaches one pixel into its neighbours."""
    return (at + (block > 1)) // block * block


def frame_of(jpeg: bytes) -> tuple[int, int] | None:
    """Width and height of an 8-bit JPEG as embedded by cameras; None for others (lossless, damaged)."""
    for marker, _, body in segments(jpeg):
        if marker in _FRAMES:
            if marker not in _DECODED_FRAMES or len(body) < 6 or body[0] != 8:
                return None
            return int.from_bytes(body[3:5], "big"), int.from_bytes(body[1:3], "big")
    return None


def has_many_scans(jpeg: bytes) -> bool:
    """Whether a decoder must store the coefficients of the whole JPEG at any scale."""
    components = 0
    for marker, _, body in segments(jpeg):
        if marker in _FRAMES:
            components = body[5] if len(body) > 5 else 0
            if marker not in (0xC0, 0xC1, 0xC9):
                return True
        elif marker == 0xDA:
            return not body or body[0] < components
    return True


def segments(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The segments of a JPEG after its first marker: marker, offset of its data, its data."""
    at = 2
    while found := _SEGMENT.match(data, at):
        marker, at = found[1][0], found.end()
        if marker in _NO_BODY:
            continue
        length = int.from_bytes(data[at : at + 2], "big")
        if marker == 0xD9 or length < 2 or at + length > len(data):
            return
        yield marker, at, data[at + 2 : at + length]
        at += length
        if marker == 0xDA:
            after = _MARKER.search(data, at)
            if after is None:
                return
            at = after.start()


def _jpeg(data: bytes) -> Filled | None:
    """Pad a JPEG in its last scan; None if whole scans are missing, since the whole photo is then coarse."""
    needed: dict[int, np.ndarray[tuple[int], np.dtype[np.uint8]]] = {}
    progressive = False
    for marker, start, body in segments(data):
        if marker in _FRAMES and len(body) > 5:
            progressive = marker in (0xC2, 0xC6, 0xCA, 0xCE)
            needed = {ident: np.full(64, 255, np.uint8) for ident in body[6 : 6 + 3 * body[5] : 3]}
        elif marker == 0xDA and body and len(body) >= 4 + 2 * body[0]:
            first, last, low = (*body[-3:-1], body[-1] & 15) if progressive else (0, 63, 0)
            most = MOST_UNREFINED if progressive and body[-1] >> 4 else MOST_MISSING
            for ident in body[1 : 1 + 2 * body[0] : 2]:
                if ident in needed:
                    needed[ident][first : last + 1] = low  # bits that later scans add
            if needed and not any(left.any() for left in needed.values()):
                after = _MARKER.search(data, start + 2 + len(body))
                whole = data[: after.start() if after else len(data)].rstrip(b"\xff")
                return Filled(whole + _END, whole + _NOISE + _END, most)
    return None


def _png(data: bytes, pixels: int) -> Filled | None:
    """Rebuild a PNG from its critical chunks and those that affect pixels, with padded data."""
    chunks = list(_chunks(data))
    if not chunks or chunks[0][0] != b"IHDR" or len(chunks[0][1]) != 13:
        return None
    size = _unpacked_size(chunks[0][1])
    if size is None or size[0] > pixels:
        return None
    packed = b"".join(body for name, body, _ in chunks if name == b"IDAT")
    filled = _filled(packed, size[1])
    if filled is None:
        return None
    before = b"".join(_chunk(name, body) for name, body, good in chunks if _is_kept(name, body, good=good))
    whole = data[:8] + before + _chunk(b"IDAT", filled) + _chunk(b"IEND", b"")
    return Filled(whole, whole)  # the missing share has been checked


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """Name, body and whether the checksum is correct; the last chunk may be truncated."""
    at = 8
    while at + 8 <= len(data):
        length, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        body, check = data[at + 8 : at + 8 + length], data[at + 8 + length : at + 12 + length]
        yield name, body, zlib.crc32(name + body).to_bytes(4, "big") == check
        at += 12 + length


def _is_kept(name: bytes, body: bytes, *, good: bool) -> bool:
    if name in (b"IHDR", b"PLTE"):
        return True
    if not good:
        return False
    if name == b"iCCP":
        _, _, packed = body.partition(b"\0")
        return _small(packed[1:])
    is_xmp = name == b"iTXt" and body.startswith(b"XML:com.adobe.xmp\0\0") and len(body) < _MAX_TEXT
    return is_xmp or (name in (b"tRNS", b"eXIf") and len(body) > 0)


def _small(packed: bytes) -> bool:
    stream = zlib.decompressobj()
    try:
        return len(stream.decompress(packed, _MAX_TEXT)) < _MAX_TEXT and stream.eof
    except zlib.error:
        return False


def _unpacked_size(header: bytes) -> tuple[int, int] | None:
    """Number of pixels, and of bytes of the unpacked data, from an IHDR; None if it is invalid."""
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour)
    if channels is None or not width or not height:
        return None
    total = 0
    for x, y, across, down in _ADAM7 if interlaced else [(0, 0, 1, 1)]:
        columns, rows = -(-(width - x) // across), -(-(height - y) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + -(-columns * channels * depth // 8))
    return width * height, total


def _filled(packed: bytes, size: int) -> bytes | None:
    """Compressed data padded with zeros; None if it is damaged or too short."""
    stream = zlib.decompressobj()
    try:
        pixels = stream.decompress(packed, size)
        stream.decompress(stream.unconsumed_tail, 1)  # the checksum, if present
    except zlib.error:
        return None
    short = size - len(pixels)
    if stream.eof and not short:
        return packed
    return zlib.compress(pixels + bytes(short), 1) if short <= MOST_MISSING * size else None


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
