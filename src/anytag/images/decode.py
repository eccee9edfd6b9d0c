"""Decode bytes or a PIL image to an upright RGB picture."""

from __future__ import annotations

import io
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from PIL import Image

from anytag.errors import AnytagError, ImageError, MissingExtraError
from anytag.images import damage
from anytag.images.colour import to_rgb
from anytag.images.formats import MAX_PIXELS, sniff, webp_size
from anytag.images.jxl import jxl_size
from anytag.images.quiet import quiet_libtiff, quiet_pillow, without_pillows_limit

# EXIF tag 0x0112 -> transposition that makes the picture upright; 1 and unknown values need none.
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_JPEG_PIXELS_A_BYTE = 512  # maximum: a block of 64 pixels takes at least one bit
_COEFFICIENTS = 0.75  # extra memory for coefficients of a progressive JPEG, relative to its decoded picture
_ANIMATED = {"GIF", "PNG", "WEBP", "AVIF"}
_BLOCKS = {"WEBP": (16, 16), "AVIF": (64, 64), "HEIF": (64, 64)}  # coding blocks by Pillow's format names
_FRAMES = 64  # maximum number of frames of an animation to examine
_BLANK = 4.0  # standard deviation of grey, of 255 levels, below which a frame is blank


class _Damage(Exception):
    """A parser failed; the message is shown to the user if the file cannot be repaired."""


@dataclass(frozen=True, slots=True)
class Request:
    """How to decode a photo; see `anytag.images.load`. `min_side` None is full scale."""

    name: str
    min_side: int | None
    max_pixels: int
    exact: bool


@dataclass(frozen=True, slots=True)
class Decoded:
    """A picture, and the size of its original in the same orientation."""

    picture: Image.Image
    width: int
    height: int


def decode_bytes(data: bytes, request: Request) -> Decoded:
    """Decode an encoded photo, upright and in RGB.

    Raises:
        ImageError: of an unknown format, damaged, too large, or of a kind that would be decoded wrongly.
        MissingExtraError: the package for its format is not installed.
    """
    kind, plugin = sniff(data[:64], request.name)
    try:
        loaded = _loaded(data, kind, plugin, request)
    except _Damage as problem:
        mended = _mended(data, kind, plugin, request)
        if mended is None:
            raise ImageError(f"{request.name}: {problem}") from problem.__cause__
        loaded = mended
    except MemoryError as error:
        raise ImageError(f"{request.name}: {_undecoded(error)}") from error
    return _finished(loaded, request)


def decode_picture(picture: Image.Image, request: Request) -> Decoded:
    """Convert a PIL image, which is not modified, to upright RGB.

    Raises:
        ImageError: closed, too large, or of a kind that would be decoded wrongly.
    """
    try:
        width, height = picture.size
        _check_limit((width, height), (width, height), request)
        with _quiet_decoder(picture.format):
            if picture.format == "TIFF":
                _check_opened_tiff(picture, request.name)
            picture.load()
    except AnytagError:
        raise
    except Exception as error:
        raise ImageError(f"{request.name}: {_undecoded(error)}") from error
    return _finished(Decoded(picture, width, height), request)


def _undecoded(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "cannot be decoded: it needs more memory than is free"
    return f"cannot be decoded: it is damaged, truncated or of a rare kind ({error})"


def _loaded(data: bytes, kind: str, plugin: str, request: Request) -> Decoded:
    """Decode a photo as stored: in any orientation and mode."""
    try:
        with _quiet_decoder(kind):
            opened = _open(data, kind, plugin, request)
    except (AnytagError, MemoryError):
        raise
    except Exception as error:
        raise _Damage(f"is not a {kind} that can be read ({error})") from error
    try:
        width, height = opened.size
        if kind == "TIFF":
            orientation(opened)  # read now without warnings: load() applies the orientation of a TIFF
        if request.min_side is not None:
            opened.draft("RGB", (request.min_side, request.min_side))  # has an effect for JPEG only
        _check_limit(opened.size, (width, height), request, data if opened.format in ("JPEG", "MPO") else b"")
        with _quiet_decoder(kind):
            opened.load()
        if kind in _ANIMATED and not request.exact:
            opened = _telling_frame(opened, request.name)
        return Decoded(opened, width, height)
    except (AnytagError, MemoryError):
        raise
    except Exception as error:  # parsers may raise anything for a damaged file
        raise _Damage(_undecoded(error)) from error


def _finished(loaded: Decoded, request: Request) -> Decoded:
    try:
        turn = _UPRIGHT.get(orientation(loaded.picture))
        picture = to_rgb(loaded.picture, request.name, exact=request.exact)
        if turn is None:
            return Decoded(picture, loaded.width, loaded.height)
        sideways = turn not in (_UPRIGHT[2], _UPRIGHT[3], _UPRIGHT[4])
        width, height = (loaded.height, loaded.width) if sideways else (loaded.width, loaded.height)
        return Decoded(picture.transpose(turn), width, height)
    except AnytagError:
        raise
    except Exception as error:
        raise ImageError(f"{request.name}: {_undecoded(error)}") from error


def _mended(data: bytes, kind: str, plugin: str, request: Request) -> Decoded | None:
    """Decode a repaired file; None if too much is missing, or something else is wrong."""
    try:
        filled = damage.fill(kind, data, request.max_pixels)
        if filled is None:
            return None
        one, other = (_loaded(end, kind, plugin, request) for end in (filled.one, filled.other))
        pictures = [end.picture for end in (one, other)]
        if kind == "BMP":  # stored from bottom to top
            pictures = [picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM) for picture in pictures]
        missing = damage.missing(pictures[0], pictures[1], _block(one))
    except (_Damage, AnytagError, ValueError, OverflowError, MemoryError):
        return None
    return one if missing <= filled.most else None


def _block(decoded: Decoded) -> tuple[int, int]:
    """Width and height of a coding block in pixels of the picture."""
    layers = getattr(
        decoded.picture, "layer", None
    )  # of a JPEG: name, horizontal and vertical sampling, table
    if not layers:
        return _BLOCKS.get(decoded.picture.format or "", (1, 1))
    scale = max(1, round(decoded.width / decoded.picture.width))
    across, down = (max(1, 8 * max(layer[side] for layer in layers) // scale) for side in (1, 2))
    return across, down


def _open(data: bytes, kind: str, plugin: str, request: Request) -> Image.Image:
    """Parse the header. `Image.open` would warn about sizes that `max_pixels` allows, and try all parsers."""
    if kind == "TIFF":
        return _open_tiff(data, request)
    if kind == "RAW":
        return _open_raw(data, plugin, request)
    if kind == "HEIC":
        return _open_with("pillow_heif", "HeifImageFile", "heic", "HEIC", data, request)
    if kind == "JXL":
        size = jxl_size(data)  # checked first, since the plugin decodes on opening
        _check_limit(size, size, request)
        return _open_with("pillow_jxl.JpegXLImagePlugin", "JXLImageFile", "jxl", "JPEG XL", data, request)
    import_module(f"PIL.{plugin}")
    factory: Any = Image.OPEN[kind][0]
    large: AbstractContextManager[None] = nullcontext()
    if kind == "WEBP":  # Pillow allocates the canvas on opening, and applies its own limit
        width, height = webp_size(data[:30])
        if width * height > MAX_PIXELS:
            _check_limit((width, height), (width, height), request)
            large = without_pillows_limit()
    with quiet_pillow(), large:
        opened: Image.Image = factory(io.BytesIO(data), "")
    return opened


def _open_with(module: str, name: str, extra: str, kind: str, data: bytes, request: Request) -> Image.Image:
    """Open a file with the package of an extra.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        package: Any = import_module(module)
    except ImportError as error:
        raise MissingExtraError(f"{request.name}: reading {kind}", extra) from error
    opened: Image.Image = getattr(package, name)(io.BytesIO(data))
    return opened


def _open_tiff(data: bytes, request: Request) -> Image.Image:
    """Open the photo of a TIFF: its largest page, or for a RAW file a developed page or the preview."""
    from anytag.images import raw, tiff  # takes 5 ms, and only TIFFs need it

    pages = tiff.pages(data)
    page = tiff.photo_of(pages)
    if page is None:
        raise ValueError("it has no page")
    if raw.is_raw(data, pages, request.name) and not raw.is_developed(page, pages):
        jpeg = raw.preview(data, pages)
        if jpeg is None:
            return _open_raw(data, "", request)
        opened = _open(jpeg, "JPEG", "JpegImagePlugin", request)
        if turned := pages[0].number(_ORIENTATION_TAG):
            opened.getexif()[_ORIENTATION_TAG] = turned
        return opened

    def check(size: tuple[int, int]) -> None:
        _check_limit(size, size, request)

    opened = tiff.open_page(data, page, request.name, check)
    turned = pages[0].number(_ORIENTATION_TAG)
    if turned and page.offset in pages[0].numbers(tiff.CHILDREN) and _ORIENTATION_TAG not in page.tags:
        check(opened.size)
        opened.load()
        opened = opened.copy()  # so that Pillow does not apply its own orientation, which is missing
        opened.getexif()[_ORIENTATION_TAG] = turned
    return opened


def _open_raw(data: bytes, camera: str, request: Request) -> Image.Image:
    """Open the preview that exiftool finds in a RAW file.

    Raises:
        ImageError: there is none of useful size, or exiftool is not installed.
    """
    from anytag.images import raw

    jpeg, turned = raw.preview_by_exiftool(data, request.name, camera)
    opened = _open(jpeg, "JPEG", "JpegImagePlugin", request)
    if turned and _ORIENTATION_TAG not in opened.getexif():
        opened.getexif()[_ORIENTATION_TAG] = turned
    return opened


def _check_opened_tiff(picture: Image.Image, name: str) -> None:
    """Refuse a TIFF opened by the user if Pillow reads it wrongly."""
    from PIL.TiffImagePlugin import TiffImageFile

    from anytag.images.tiff import check_opened

    orientation(picture)  # without warnings, as above
    if isinstance(picture, TiffImageFile):
        check_opened(picture, name)


def _quiet_decoder(kind: str | None) -> AbstractContextManager[None]:
    return quiet_libtiff() if kind == "TIFF" else nullcontext()


def _check_limit(
    decoded: tuple[int, int], full: tuple[int, int], request: Request, jpeg: bytes = b""
) -> None:
    """Check the memory that a decoder will need against the limit.

    Args:
        decoded: width and height at the scale of decoding.
        full: width and height of the original.
        request: with the limit.
        jpeg: the file if it is a JPEG, whose `full` size may exceed the limit but must be plausible.

    Raises:
        ImageError: too large, or without pixels.
    """
    pixels, original = decoded[0] * decoded[1], full[0] * full[1]
    size = f"{full[0]}×{full[1]}"
    if original < 1:
        raise ImageError(f"{request.name}: has no pixels ({size})")
    if jpeg and original > request.max_pixels:
        if original > _JPEG_PIXELS_A_BYTE * len(jpeg):
            raise ImageError(f"{request.name}: {size} is more than a JPEG of {len(jpeg):,} bytes can contain")
        if damage.has_many_scans(jpeg):
            pixels = max(pixels, round(_COEFFICIENTS * original))
    if pixels > request.max_pixels:
        what = "pixels" if pixels == original else "decoded pixels"
        raise ImageError(
            f"{request.name}: {size} is {pixels:,} {what}, more than the limit of {request.max_pixels:,}; "
            f"if you trust the file, give --max-pixels {pixels}, in Python max_pixels={pixels} to "
            "Tagger.load or images.load"
        )


def _telling_frame(opened: Image.Image, name: str) -> Image.Image:
    """The first frame or, if it is blank, as before a fade, the frame with the most contrast."""
    if not getattr(opened, "is_animated", False) or _contrast(opened, name) >= _BLANK:
        return opened
    best, most = opened.copy(), _BLANK
    try:
        for number in range(1, _FRAMES):
            opened.seek(number)
            contrast = _contrast(opened, name)
            if contrast > most:
                best, most = opened.copy(), contrast
    except Exception:  # no more frames, or a damaged one
        return best
    return best


def _contrast(picture: Image.Image, name: str) -> float:
    small = to_rgb(picture.copy(), name, exact=False).convert("L").resize((64, 64), Image.Resampling.BOX)
    return float(np.asarray(small).std())


def orientation(picture: Image.Image) -> int:
    """EXIF orientation; 1 if there is none or the EXIF block is damaged."""
    try:
        with quiet_pillow():
            return int(picture.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:
        return 1
