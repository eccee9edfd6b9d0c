"""Extract previews from RAW files: TIFFs (DNG, NEF, CR2, ARW, PEF, SRW) directly, others with exiftool."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from anytag.errors import MetadataError, MissingToolError
from anytag.images.damage import frame_of
from anytag.images.formats import has_raw_suffix, refused_raw
from anytag.images.tiff import Page

_COMPRESSION, _PHOTOMETRIC, _OFFSETS, _COUNTS, _JPEG_AT, _JPEG_BYTES = 259, 262, 273, 279, 513, 514
_DNG_VERSION = 50706
_SENSOR = {32803, 34892}  # photometric: colour filter array, linear RAW
_LEAST_SIDE = 640  # minimum longer side of a preview in pixels, unless it is as large as the RAW


def is_raw(data: bytes, pages: list[Page], name: str) -> bool:
    """Whether a TIFF is a RAW file, by its content or its suffix."""
    if data[8:10] == b"CR" or (pages and _DNG_VERSION in pages[0].tags):
        return True
    if any(page.number(_PHOTOMETRIC) in _SENSOR for page in pages):
        return True
    return has_raw_suffix(name)


def preview(data: bytes, pages: list[Page]) -> bytes | None:
    """The largest JPEG in a RAW file; None if there is none of useful size."""
    longest = max((max(page.size) for page in pages if page.is_full), default=0)
    best, area = None, 0
    for start, count in _streams(pages):
        jpeg = data[start : start + count]
        width, height = frame_of(jpeg) or (0, 0)
        if max(width, height) >= min(_LEAST_SIDE, max(1, 0.9 * longest)) and width * height > area:
            best, area = jpeg, width * height
    return best


def preview_by_exiftool(data: bytes, name: str, camera: str) -> tuple[bytes, int]:
    """A JPEG that exiftool finds in a RAW file, and the EXIF orientation of the RAW, 0 if unknown.

    Args:
        data: the file.
        name: of the photo.
        camera: RAW format, for the error.

    Raises:
        ImageError: there is none of useful size, or exiftool is not installed.
    """
    from anytag.metadata.exiftool import shared

    try:
        with TemporaryDirectory(prefix="anytag-") as folder:
            file = Path(folder, "photo" + os.path.splitext(name)[1][:8])  # noqa: PTH122  # any bytes are allowed
            file.write_bytes(data)
            for tag in ("-JpgFromRaw", "-PreviewImage", "-JpgFromRaw2", "-OtherImage"):
                jpeg = shared().run("-b", tag, os.fspath(file)).output
                if max(frame_of(jpeg) or (0, 0)) >= _LEAST_SIDE:
                    turned = shared().run("-s3", "-n", "-Orientation", os.fspath(file)).output.strip()
                    return jpeg, int(turned) if turned.isdigit() else 0
    except (MissingToolError, MetadataError) as error:
        raise refused_raw(name, camera, str(error)) from error
    raise refused_raw(name, camera)


def is_developed(page: Page, pages: list[Page]) -> bool:
    """Whether a page of a RAW file has the developed photo, not sensor data or a thumbnail."""
    finished = page.number(_PHOTOMETRIC, -1) in {0, 1, 2, 6} and page.number(_COMPRESSION, 1) not in {6, 7}
    has_thumbnail = any(not one.is_full for one in pages)
    return page.is_full and finished and (has_thumbnail or max(page.size) >= _LEAST_SIDE)


def _streams(pages: list[Page]) -> Iterator[tuple[int, int]]:
    """Offsets and sizes of possible JPEG streams."""
    for page in pages:
        if page.number(_JPEG_AT):
            yield page.number(_JPEG_AT), page.number(_JPEG_BYTES)
        if page.number(_COMPRESSION) in {6, 7} and len(page.numbers(_OFFSETS)) == 1:
            yield page.number(_OFFSETS), page.number(_COUNTS)
