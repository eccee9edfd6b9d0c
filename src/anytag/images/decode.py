"""Encoded bytes or a PIL image -> an upright picture in RGB."""

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

# EXIF tag 0x0112 -> what makes the stored picture upright; 1 (upright) and unknown values need nothing.
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
_JPEG_PIXELS_A_BYTE = 512  # at most: a block of 64 takes a bit or more
_COEFFICIENTS = 0.75  # of the memory of a picture is what a progressive JPEG of the same size takes besides
_ANIMATED = {"GIF", "PNG", "WEBP", "AVIF"}
_BLOCKS = {"WEBP": (16, 16), "AVIF": (64, 64), "HEIF": (64, 64)}  # by Pillow's names
_FRAMES = 64  # of an animation that are looked at
_BLANK = 4.0  # standard deviation of grey, of 255 levels: less shows nothing


class _Damage(Exception):
    """A parser failed on a file: what is told to the user if nothing helps."""


@dataclass(frozen=True, slots=True)
class Request:
    """How a photo is to be decoded: see `anytag.images.load`; `min_side` None is the full scale."""

    name: str
    min_side: int | None
    max_pixels: int
    exact: bool


@dataclass(frozen=True, slots=True)
class Decoded:
    """A picture and the size of its original in the same orientation."""

    picture: Image.Image
    width: int
    height: int


def decode_bytes(data: bytes, request: Request) -> Decoded:
    """An encoded photo, upright and in RGB.

    Raises:
        ImageError: of an unknown format, damaged, too large, or of a kind that would be shown wrong.
        MissingExtraError: a package for its format is not installed.
    """
    kind, plugin = sniff(data[:64], request.name)
    try:
        loaded = _loaded(data, kind, plugin, request)
    except _Damage as problem:
        mended = _mended(data, kind, plugin, request)
        if mended is None:
            raise ImageError(f"{request.name}: {problem}") from problem.__cause__
        loaded = mended
    return _finished(loaded, request)


def decode_picture(picture: Image.Image, request: Request) -> Decoded:
    """A PIL image, which is left as it is, upright and in RGB.

    Raises:
        ImageError: closed, too large, or of a kind that would be shown wrong.
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
    return f"cannot be decoded, it is damaged, cut short or of a rare kind ({error})"


def _loaded(data: bytes, kind: str, plugin: str, request: Request) -> Decoded:
    """A photo as it is stored: not upright yet, in any mode."""
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
            orientation(opened)  # read quietly now: load() turns a TIFF upright and would read it aloud
        if request.min_side is not None:
            opened.draft("RGB", (request.min_side, request.min_side))  # a no-op for all but JPEG
        _check_limit(opened.size, (width, height), request, data if opened.format in ("JPEG", "MPO") else b"")
        with _quiet_decoder(kind):
            opened.load()
        if kind in _ANIMATED and not request.exact:
            opened = _telling_frame(opened, request.name)
        return Decoded(opened, width, height)
    except AnytagError:
        raise
    except Exception as error:  # a broken file can raise anything from any parser
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
    """The photo where hardly anything is missing; None where too much is, or something else is wrong."""
    filled = damage.fill(kind, data, request.max_pixels)
    if filled is None:
        return None
    try:
        one, other = (_loaded(end, kind, plugin, request) for end in (filled.one, filled.other))
        pictures = [end.picture for end in (one, other)]
        if kind == "BMP":  # is stored from below
            pictures = [picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM) for picture in pictures]
        missing = damage.missing(pictures[0], pictures[1], _block(one))
    except (_Damage, AnytagError, ValueError):
        return None
    return one if missing <= filled.most else None


def _block(decoded: Decoded) -> tuple[int, int]:
    """Width and height of what is coded together, in pixels of the picture."""
    layers = getattr(decoded.picture, "layer", None)  # of a JPEG: name, sampling across and down, table
    if not layers:
        return _BLOCKS.get(decoded.picture.format or "", (1, 1))
    scale = max(1, round(decoded.width / decoded.picture.width))
    across, down = (max(1, 8 * max(layer[side] for layer in layers) // scale) for side in (1, 2))
    return across, down


def _open(data: bytes, kind: str, plugin: str, request: Request) -> Image.Image:
    """Parses the header. `Image.open` would warn of sizes that `max_pixels` allows, and try every parser."""
    if kind == "TIFF":
        return _open_tiff(data, request)
    if kind == "RAW":
        return _open_raw(data, plugin, request)
    if kind == "HEIC":
        return _open_with("pillow_heif", "HeifImageFile", "heic", "HEIC", data, request)
    if kind == "JXL":
        size = jxl_size(data)  # now: the plugin decodes when it opens
        _check_limit(size, size, request)
        return _open_with("pillow_jxl.JpegXLImagePlugin", "JXLImageFile", "jxl", "JPEG XL", data, request)
    import_module(f"PIL.{plugin}")
    factory: Any = Image.OPEN[kind][0]
    large: AbstractContextManager[None] = nullcontext()
    if kind == "WEBP":  # Pillow makes its canvas when it opens one, and holds it against a limit of its own
        width, height = webp_size(data[:30])
        if width * height > MAX_PIXELS:
            _check_limit((width, height), (width, height), request)
            large = without_pillows_limit()
    with quiet_pillow(), large:
        opened: Image.Image = factory(io.BytesIO(data), "")
    return opened


def _open_with(module: str, name: str, extra: str, kind: str, data: bytes, request: Request) -> Image.Image:
    """Opens a file by a package of an extra.

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
    """The photo of a TIFF: its largest page, or of a RAW file its full picture or preview."""
    from anytag.images import raw, tiff  # 5 ms that other photos need not wait for

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
        opened = opened.copy()  # Pillow would turn it by what it read, which is nothing
        opened.getexif()[_ORIENTATION_TAG] = turned
    return opened


def _open_raw(data: bytes, camera: str, request: Request) -> Image.Image:
    """The preview that exiftool finds in a RAW file.

    Raises:
        ImageError: it finds none of useful size, or is not installed.
    """
    from anytag.images import raw

    jpeg, turned = raw.preview_by_exiftool(data, request.name, camera)
    opened = _open(jpeg, "JPEG", "JpegImagePlugin", request)
    if turned and _ORIENTATION_TAG not in opened.getexif():
        opened.getexif()[_ORIENTATION_TAG] = turned
    return opened


def _check_opened_tiff(picture: Image.Image, name: str) -> None:
    """Holds a TIFF that a user opened against what Pillow reads right."""
    from PIL.TiffImagePlugin import TiffImageFile

    from anytag.images.tiff import check_opened

    orientation(picture)  # quietly, as above
    if isinstance(picture, TiffImageFile):
        check_opened(picture, name)


def _quiet_decoder(kind: str | None) -> AbstractContextManager[None]:
    return quiet_libtiff() if kind == "TIFF" else nullcontext()


def _check_limit(
    decoded: tuple[int, int], full: tuple[int, int], request: Request, jpeg: bytes = b""
) -> None:
    """Holds what a decoder will take in memory against the limit.

    Args:
        decoded: width and height at the scale of decoding.
        full: the same of the original.
        request: with the limit.
        jpeg: the file, if it is one: then `full` is no measure of the memory, but must not be absurd.

    Raises:
        ImageError: too large, or without pixels.
    """
    pixels, original = decoded[0] * decoded[1], full[0] * full[1]
    size = f"{full[0]}×{full[1]}"
    if original < 1:
        raise ImageError(f"{request.name}: has no pixels ({size})")
    if jpeg and original > request.max_pixels:
        if original > _JPEG_PIXELS_A_BYTE * len(jpeg):
            raise ImageError(f"{request.name}: {size} is more than a JPEG of {len(jpeg):,} bytes can hold")
        if damage.has_many_scans(jpeg):
            pixels = max(pixels, round(_COEFFICIENTS * original))
    if pixels > request.max_pixels:
        what = "pixels" if pixels == original else "pixels as it is decoded"
        raise ImageError(
            f"{request.name}: {size} is {pixels:,} {what}, more than the limit of {request.max_pixels:,}; "
            f"if you trust the file, give --max-pixels {pixels}, in Python max_pixels={pixels} to "
            "Tagger.load or images.load"
        )


def _telling_frame(opened: Image.Image, name: str) -> Image.Image:
    """The first frame; of an animation whose first is blank, as before a fade, the one of most contrast."""
    if not getattr(opened, "is_animated", False) or _contrast(opened, name) >= _BLANK:
        return opened
    best, most = opened.copy(), _BLANK
    try:
        for number in range(1, _FRAMES):
            opened.seek(number)
            contrast = _contrast(opened, name)
            if contrast > most:
                best, most = opened.copy(), contrast
    except Exception:  # after the last frame, or at a damaged one
        return best
    return best


def _contrast(picture: Image.Image, name: str) -> float:
    small = to_rgb(picture.copy(), name, exact=False).convert("L").resize((64, 64), Image.Resampling.BOX)
    return float(np.asarray(small).std())


def orientation(picture: Image.Image) -> int:
    """EXIF orientation; 1 when there is none or the EXIF block is damaged (the pixels are still good)."""
    try:
        with quiet_pillow():
            return int(picture.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:
        return 1
