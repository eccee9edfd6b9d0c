"""Split a photo's file into picture data and EXIF.

Programs that write metadata rewrite other parts of the file and may move the picture data, but do not change
its bytes. So its hash identifies the picture whatever metadata is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from anytag.images.damage import segments
from anytag.images.tiff import pages

_STRIPS, _TILES, _JPEG = (273, 279), (324, 325), (513, 514)  # TIFF tags of offsets and byte counts
_FACTS = (256, 257, 258, 259, 262)  # width, height, bits, compression, photometric
_METADATA_ITEMS = {b"Exif", b"mime", b"uri "}
_EXIF = b"Exif\0\0"


class Parts(NamedTuple):
    """The parts of a file.

    Attributes:
        picture: picture data, in an order that does not depend on the metadata.
        exif: the EXIF block, a TIFF; empty if there is none.
    """

    picture: list[bytes | memoryview]
    exif: bytes | memoryview = b""


def parts_of(data: bytes) -> Parts:
    """Split a photo; unknown and damaged files count as picture data as a whole."""
    with suppress(Exception):  # damaged files may raise anything
        for signature, read in _READERS:
            if data.startswith(signature):
                found = read(data)
                if found.picture:
                    return found
    return Parts([data])


def _jpeg(data: bytes) -> Parts:
    """All segments except APPn and comments, and everything from the first scan on."""
    picture: list[bytes | memoryview] = []
    exif = b""
    for marker, at, body in segments(data):
        if marker == 0xDA:
            return Parts([*picture, memoryview(data)[at:]], exif)
        if 0xE0 <= marker <= 0xEF or marker == 0xFE:
            exif = exif or (body[6:] if marker == 0xE1 and body.startswith(_EXIF) else b"")
        else:
            picture += [bytes([marker]), body]
    return Parts([], exif)


def _png(data: bytes) -> Parts:
    """Critical chunks (names beginning with a capital), and those of transparency and animations."""
    picture: list[bytes | memoryview] = []
    exif: bytes | memoryview = b""
    view, at = memoryview(data), 8
    while at + 8 <= len(data):
        end, name = at + 12 + int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if name[:1].isupper() or name in (b"tRNS", b"acTL", b"fcTL", b"fdAT"):
            picture += [name, view[at + 8 : end - 4]]
        elif name == b"eXIf":
            exif = view[at + 8 : end - 4]
        at = end
    return Parts(picture, exif)


def _riff(data: bytes) -> Parts:
    """Bitstreams, alpha and frames of a WebP; not VP8X, whose flags depend on the metadata."""
    picture: list[bytes | memoryview] = []
    exif: bytes | memoryview = b""
    view, at = memoryview(data), 12
    while data[8:12] == b"WEBP" and at + 8 <= len(data):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        body = view[at + 8 : at + 8 + size]
        if name in (b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF"):
            picture += [name, body]
        elif name == b"EXIF":
            exif = body[6:] if bytes(body[:6]) == _EXIF else body
        at += 8 + size + size % 2
    return Parts(picture, exif)


def _tiff(data: bytes) -> Parts:
    """Size, samples, and the strips, tiles or JPEG stream of each directory."""
    picture: list[bytes | memoryview] = []
    view = memoryview(data)
    for page in pages(data):
        places = [
            place
            for starts, counts in (_STRIPS, _TILES, _JPEG)
            for place in zip(page.numbers(starts), page.numbers(counts), strict=False)
        ]
        if places:
            picture.append(repr([page.numbers(tag) for tag in _FACTS]).encode())
            picture += [view[start : start + count] for start, count in places]
    return Parts(picture, data)


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Boxes of an ISO media file between two offsets: type, start and end of the content."""
    while start + 8 <= end:
        size, kind, at = (
            int.from_bytes(data[start : start + 4], "big"),
            data[start + 4 : start + 8],
            start + 8,
        )
        if size == 1:
            size, at = int.from_bytes(data[at : at + 8], "big"), at + 8
        stop = end if size == 0 else min(start + size, end)
        if stop < at:
            return
        yield kind, at, stop
        start = stop


def _media(data: bytes) -> Parts:
    """HEIC and AVIF: all items except metadata; JPEG XL: the codestream; CR3: the `mdat` boxes."""
    top = list(_boxes(data, 0, len(data)))
    view = memoryview(data)
    exif: bytes | memoryview = b""
    if data[4:8] == b"JXL ":
        streams = [(at + 4 * (kind == b"jxlp"), end) for kind, at, end in top if kind in (b"jxlc", b"jxlp")]
        exif = next((view[at + 4 :] for kind, at, end in top if kind == b"Exif"), b"")
        return Parts([b"".join(view[at:end] for at, end in streams)] if streams else [], exif)
    meta = next(((at + 4, end) for kind, at, end in top if kind == b"meta"), None)
    if data[8:12] == b"crx " or meta is None:
        return Parts([view[at:end] for kind, at, end in top if kind == b"mdat"])
    inner = {kind: (at, end) for kind, at, end in _boxes(data, *meta)}
    kinds = dict(_kinds(data, *inner[b"iinf"]))
    picture: list[bytes | memoryview] = []
    for item, extents in sorted(_places(data, inner[b"iloc"][0], inner.get(b"idat", (0, 0))[0])):
        bodies = [view[at : at + size] for at, size in extents]
        if kinds.get(item) == b"Exif":
            block = b"".join(bodies)
            exif = block[4 + int.from_bytes(block[:4], "big") :]
        elif kinds.get(item) not in _METADATA_ITEMS:
            picture += [kinds.get(item, b""), *bodies]
    return Parts(picture, exif)


def _kinds(data: bytes, at: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Id and type of each item, from the `iinf` box."""
    for kind, start, _ in _boxes(data, at + (6 if data[at] == 0 else 8), end):
        if kind == b"infe":
            wide = 4 if data[start] >= 3 else 2
            name = start + 4 + wide + 2
            yield int.from_bytes(data[start + 4 : start + 4 + wide], "big"), data[name : name + 4]


def _places(data: bytes, at: int, idat: int) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Id and extents (start, bytes) of each item, from the `iloc` box."""
    version = data[at]
    wide = 4 if version == 2 else 2
    of_offset, of_length, of_base = data[at + 4] >> 4, data[at + 4] & 15, data[at + 5] >> 4
    of_index = data[at + 5] & 15 if version else 0
    at += 6

    def number(size: int) -> int:
        nonlocal at
        at += size
        return int.from_bytes(data[at - size : at], "big")

    for _ in range(number(wide)):
        item, method = number(wide), number(2) & 15 if version else 0
        number(2)
        base = number(of_base) + (idat if method == 1 else 0)
        extents = []
        for _ in range(number(2)):
            number(of_index)
            start = base + number(of_offset)
            extents.append((start, number(of_length)))
        yield item, extents


_READERS = (
    (b"\xff\xd8\xff", _jpeg),
    (b"\x89PNG\r\n\x1a\n", _png),
    (b"RIFF", _riff),
    (b"II*\0", _tiff),
    (b"MM\0*", _tiff),
    (b"II+\0", _tiff),
    (b"MM\0+", _tiff),
    (b"\0\0\0", _media),
)
