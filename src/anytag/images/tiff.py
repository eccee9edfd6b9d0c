"""Select the photo of a TIFF, and read kinds that Pillow refuses or reads wrongly.

A TIFF is a list of directories (pages, thumbnails, reduced copies, masks); many RAW formats are TIFFs too.
Pillow reads the first directory, so a copy of the header points to the right one. Samples of 9 to 32 bits
that Pillow does not support are read by declaring each row as bytes of an 8-bit picture: libtiff handles
strips, tiles and compression, and NumPy converts the bytes.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.TiffImagePlugin import MAX_SAMPLESPERPIXEL, TiffImageFile
from PIL.TiffImagePlugin import ImageFileDirectory_v2 as Directory

from anytag._typing import Bytes
from anytag.errors import ImageError
from anytag.images.colour import scaled
from anytag.images.quiet import quiet_pillow

_SUBFILE, _OLD_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 255, 256, 257, 258, 259, 262
_FILL_ORDER, _OFFSETS, _ORIENTATION, _SAMPLES, _ROWS, _COUNTS = 266, 273, 274, 277, 278, 279
_PLANAR, _PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_COUNTS = 284, 317, 322, 323, 324, 325
CHILDREN, _EXTRA, _FORMAT, _SUBSAMPLING, _PROFILE = 330, 338, 339, 530, 34675

_DIRECTORIES = 64  # maximum per file
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _INKS, _YCBCR = 0, 1, 2, 5, 6
_COLOURS = {_WHITE_IS_ZERO: "L", _BLACK_IS_ZERO: "L", _RGB: "RGB", _INKS: "CMYK"}
_LOSSLESS = {1, 5, 8, 32773, 32946, 34925, 50000}  # none, LZW, deflate, PackBits, LZMA, Zstandard
_ASSOCIATED, _UNASSOCIATED = 1, 2  # premultiplied and straight alpha


@dataclass(frozen=True, slots=True)
class Page:
    """A directory of a TIFF and its offset."""

    offset: int
    tags: Directory

    def number(self, tag: int, default: int = 0) -> int:
        """A tag as an integer, the first if it has several."""
        value = self.tags.get(tag, default)
        if isinstance(value, tuple):
            value = value[0] if value else default
        return int(value) if isinstance(value, int) else default

    def numbers(self, tag: int) -> tuple[int, ...]:
        value = self.tags.get(tag, ())
        return tuple(map(int, value)) if isinstance(value, tuple) else (int(value),)

    @property
    def size(self) -> tuple[int, int]:
        return self.number(_WIDTH), self.number(_HEIGHT)

    @property
    def is_full(self) -> bool:
        """Whether it is neither a reduced copy of another page nor a mask."""
        return not self.number(_SUBFILE) & 0b101 and self.number(_OLD_SUBFILE) != 2


def pages(data: bytes) -> list[Page]:
    """The directories of a file in order, with SubIFDs after their parents."""
    with quiet_pillow():
        return list(_pages(data))


def _pages(data: bytes) -> Iterator[Page]:
    header = data[: 16 if data[2:4] in (b"+\0", b"\0+") else 8]
    file, seen, waiting = io.BytesIO(data), set[int](), [Directory(header).next]
    while waiting and len(seen) < _DIRECTORIES:
        offset = waiting.pop(0)
        if 0 < offset < len(data) and offset not in seen:
            seen.add(offset)
            tags = Directory(header)
            file.seek(offset)
            tags.load(file)
            for tag in tags:  # parse the values now, without warnings
                with suppress(Exception):
                    tags[tag]
            page = Page(offset, tags)
            waiting = [*page.numbers(CHILDREN), *waiting, tags.next or 0]
            yield page


def photo_of(pages: list[Page]) -> Page | None:
    """The first largest page that is neither reduced nor a mask; None if there are no pages."""
    full = [page for page in pages if page.is_full] or pages
    return max(full, key=lambda page: page.size[0] * page.size[1], default=None)


def open_page(data: bytes, page: Page, name: str, check: Callable[[tuple[int, int]], None]) -> Image.Image:
    """Open a page as a picture, without decoding it if Pillow reads it correctly.

    Args:
        data: the file.
        page: one of its `pages`.
        name: of the photo, for messages.
        check: raises if a size exceeds the limit; called before decoding.

    Raises:
        ImageError: the kind of samples is not supported.
    """
    check_samples(page, name)
    if _needs_unpacking(page):
        check(page.size)
        check(_padded_size(page))
        return _unpacked(data, page)
    with quiet_pillow():
        return TiffImageFile(io.BytesIO(_pointed_to(data, page.offset)), "")


def check_opened(picture: TiffImageFile, name: str) -> None:
    """Refuse a TIFF that a user opened with Pillow, if Pillow reads it wrongly.

    Raises:
        ImageError: see `check_samples`; or a kind that must be read from the file.
    """
    page = Page(0, picture.tag_v2)
    check_samples(page, name)
    if _needs_unpacking(page):
        raise ImageError(f"{name}: Pillow reads this kind of TIFF wrongly; give its path or bytes")


def check_samples(page: Page, name: str) -> None:
    """Refuse samples that would be decoded wrongly.

    Raises:
        ImageError: too many samples per pixel, floating-point or signed samples, or subsampled YCbCr that is
            not JPEG.
    """
    bits, formats = page.number(_BITS, 1), set(page.numbers(_FORMAT))
    what = ""
    if page.number(_SAMPLES, 1) > MAX_SAMPLESPERPIXEL:
        what = f"{page.number(_SAMPLES)} per pixel, which are not all colours"
    elif formats & {3, 6}:
        what = f"floating-point numbers of {bits} bits (mode F), whose range is not known"
    elif 5 in formats or (2 in formats and bits < 32):
        what = f"signed numbers of {bits} bits, whose range is not known"
    elif (
        page.number(_PHOTOMETRIC) == _YCBCR
        and page.number(_COMPRESSION, 1) not in (6, 7)
        and (page.numbers(_SUBSAMPLING) or (2, 2)) != (1, 1)
    ):
        what = "YCbCr with subsampling that is not JPEG"
    if what:
        raise ImageError(f"{name}: the samples of this TIFF are {what}; save it as 8-bit RGB")


def _pointed_to(data: bytes, offset: int) -> bytes:
    """The file with the page at `offset` as its first."""
    order = "<" if data[:1] == b"I" else ">"
    if data[2:4] in (b"+\0", b"\0+"):
        return data[:8] + struct.pack(order + "Q", offset) + data[16:]
    return data[:4] + struct.pack(order + "L", offset) + data[8:]


def _needs_unpacking(page: Page) -> bool:
    """Whether a page has unsigned samples of more than 8 bits that Pillow refuses or reads wrongly."""
    bits, samples, photometric = page.number(_BITS, 1), page.number(_SAMPLES, 1), page.number(_PHOTOMETRIC)
    if not 8 < bits <= 32 or set(page.numbers(_BITS)) != {bits} or set(page.numbers(_FORMAT)) - {1}:
        return False
    if photometric not in _COLOURS or page.number(_COMPRESSION, 1) not in _LOSSLESS:
        return False
    whole = bits == 16 and (samples == 1 or page.number(_PLANAR, 1) == 1)
    known = (photometric, samples) in {(_BLACK_IS_ZERO, 1), (_RGB, 3), (_RGB, 4), (_INKS, 4)}
    return page.number(_PREDICTOR, 1) in (1, 2) and not (whole and known)


def _padded_size(page: Page) -> tuple[int, int]:
    """The size with complete tiles, which are decoded."""
    (width, height), across, down = page.size, page.number(_TILE_WIDTH), page.number(_TILE_HEIGHT)
    return (width + across, height + down) if across or down else page.size


def _unpacked(data: bytes, page: Page) -> Image.Image:
    """Decode a page of 9 to 32 bits per sample to 8 bits, with its orientation and profile."""
    bits, samples = page.number(_BITS), page.number(_SAMPLES, 1)
    planes = samples if page.number(_PLANAR, 1) == 2 else 1
    parts = [_plane(data, page, plane, samples // planes) for plane in range(planes)]
    levels = np.concatenate([scaled(part, bits) for part in parts], axis=2)
    photometric = page.number(_PHOTOMETRIC)
    picture = _picture(levels, photometric, page.number(_EXTRA))
    picture.info["icc_profile"] = page.tags.get(_PROFILE)
    picture.getexif()[_ORIENTATION] = page.number(_ORIENTATION, 1)
    return picture


def _picture(levels: Bytes, photometric: int, extra: int) -> Image.Image:
    """Convert samples, uint8 H×W×S, to a picture, with alpha if there is one."""
    mode = _COLOURS[photometric]
    colours = len(mode)
    if photometric == _WHITE_IS_ZERO:
        levels[..., 0] = 255 - levels[..., 0]
    if levels.shape[2] > colours and mode != "CMYK" and extra in (_ASSOCIATED, _UNASSOCIATED):
        mode += "a" if extra == _ASSOCIATED else "A"
    pixels = np.ascontiguousarray(levels[..., : len(mode)])
    picture = Image.frombytes(mode, (pixels.shape[1], pixels.shape[0]), pixels.tobytes())
    return picture.convert(mode[:-1] + "A") if mode.endswith("a") else picture


def _plane(data: bytes, page: Page, plane: int, samples: int) -> npt.NDArray[Any]:
    """The samples of a plane as unsigned integers H×W×`samples`."""
    bits, (width, height) = page.number(_BITS), page.size
    tile = page.number(_TILE_WIDTH)
    across = -(-width // tile) if tile else 1
    run = tile or width  # contiguous pixels of a row
    bytes_of_run = -(-run * samples * bits // 8)
    view = _as_bytes(data, page, plane, across * bytes_of_run, bytes_of_run)
    rows = np.asarray(view).reshape(height, across, bytes_of_run)
    order = "<" if data[:1] == b"I" else ">"
    values = _integers(rows, bits, order, run * samples).reshape(height, across, run, samples)
    if page.number(_PREDICTOR, 1) == 2:
        values = np.cumsum(values, axis=2, dtype=values.dtype)
    return values.reshape(height, across * run, samples)[:, :width]


def _integers(rows: Bytes, bits: int, order: str, count: int) -> npt.NDArray[Any]:
    """Unpack `count` integers of `bits` bits from each run of bytes: H×A×B to H×A×`count`."""
    if bits in (16, 32):
        values = rows.view(f"{order}u{bits // 8}")
        return values.astype(f"u{bits // 8}")
    out = np.empty((*rows.shape[:2], count), np.uint32)
    weights = 2 ** np.arange(bits - 1, -1, -1, dtype=np.uint32)
    for number, row in enumerate(rows):  # row by row, since an unpacked bit takes a byte
        split = np.unpackbits(row, axis=1)[:, : count * bits]
        out[number] = split.reshape(len(row), count, bits) @ weights
    return out


def _as_bytes(data: bytes, page: Page, plane: int, width: int, tile_width: int) -> Image.Image:
    """The page's uncompressed bytes as an 8-bit picture of `width` bytes per row."""
    height, tiled = page.size[1], page.number(_TILE_WIDTH) > 0
    rows = page.number(_TILE_HEIGHT) if tiled else min(page.number(_ROWS, height), height)
    pieces = -(-height // rows) * (width // tile_width if tiled else 1)
    which = slice(plane * pieces, (plane + 1) * pieces)
    offsets = page.numbers(_TILE_OFFSETS if tiled else _OFFSETS)[which]
    counts = page.numbers(_TILE_COUNTS if tiled else _COUNTS)[which]
    tags: dict[int, tuple[int, ...]] = {
        _WIDTH: (width,),
        _HEIGHT: (height,),
        _BITS: (8,),
        _COMPRESSION: (page.number(_COMPRESSION, 1),),
        _PHOTOMETRIC: (_BLACK_IS_ZERO,),
        _FILL_ORDER: (page.number(_FILL_ORDER, 1),),
        _SAMPLES: (1,),
        _PLANAR: (1,),
    }
    if tiled:
        tags |= {_TILE_WIDTH: (tile_width,), _TILE_HEIGHT: (rows,)}
        tags |= {_TILE_OFFSETS: offsets, _TILE_COUNTS: counts}
    else:
        tags |= {_ROWS: (rows,), _OFFSETS: offsets, _COUNTS: counts}
    view = TiffImageFile(io.BytesIO(_with_page(data, tags)), "")
    view.load()
    return view


def _with_page(data: bytes, tags: dict[int, tuple[int, ...]]) -> bytes:
    """The file with an additional first directory of numbers, always little-endian."""
    at = len(data) + len(data) % 2
    end = at + 2 + 12 * len(tags) + 4
    entries, values = b"", b""
    for tag, numbers in sorted(tags.items()):
        packed = struct.pack(f"<{len(numbers)}L", *numbers)
        entries += struct.pack("<HHL", tag, 4, len(numbers))
        entries += packed if len(packed) == 4 else struct.pack("<L", end + len(values))
        values += packed if len(packed) != 4 else b""
    directory = struct.pack("<H", len(tags)) + entries + bytes(4) + values
    return b"II*\0" + struct.pack("<L", at) + data[8:] + bytes(at - len(data)) + directory
