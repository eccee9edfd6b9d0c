"""Bytes, a path, a PIL image or an array -> an upright RGB photo -> the model's square.

There is one decoder, Pillow, for training and for serving, so that a model is asked with the pixels it was
trained on:

1. a JPEG is decoded at the DCT scale (1, 1/2, 1/4, 1/8) whose both sides stay at least `near`: Pillow's
   `draft`, measured on 12 megapixels: 37 ms instead of 86;
2. transparency is composited on white, every colour space becomes 8-bit RGB, EXIF orientation is applied;
3. the photo is squashed to the square, aspect ratio not kept, by Pillow's antialiased filter.
   A picture of six squares or more on a side (never a JPEG of common size, after 1.) is averaged over whole
   pixels first: 18 ms instead of 37 from 12 megapixels, at most 2 of 255 levels apart (`reducing_gap=3`).

Colour profiles are not applied. Nothing global is changed, neither in Pillow nor in its registry of formats.
"""

from __future__ import annotations

import io
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from anytag.errors import AnytagError, ImageError, MissingExtraError

MAX_PIXELS = 178_956_970
"""Default limit against decompression bombs: the size at which Pillow refuses too (a 512 MiB RGB picture)."""

FORMATS = ("JPEG", "PNG", "WebP", "TIFF", "BMP", "GIF", "AVIF", "HEIC")

ImageSource = str | PathLike[str] | bytes | Image.Image | npt.NDArray[np.uint8]
Resample = Literal["nearest", "bilinear", "bicubic", "lanczos"]

_FILTERS: dict[str, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_REDUCING_GAP = 3.0  # part of the numerics that models are trained with: do not change
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
# The first bytes of a file -> the Pillow plugin that reads it. Only these parsers ever see a user's bytes.
_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG", "JpegImagePlugin"),
    (b"\x89PNG\r\n\x1a\n", "PNG", "PngImagePlugin"),
    (b"GIF87a", "GIF", "GifImagePlugin"),
    (b"GIF89a", "GIF", "GifImagePlugin"),
    (b"II*\0", "TIFF", "TiffImagePlugin"),
    (b"MM\0*", "TIFF", "TiffImagePlugin"),
    (b"II+\0", "TIFF", "TiffImagePlugin"),
    (b"MM\0+", "TIFF", "TiffImagePlugin"),
    (b"BM", "BMP", "BmpImagePlugin"),
)
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
_SIGNATURE_BYTES = 64
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")  # two letters: a Windows drive has one


@dataclass(frozen=True, slots=True)
class Photo:
    """An upright RGB photo.

    Attributes:
        picture: Pillow image of mode RGB; smaller than `width` × `height` when decoded at a DCT scale.
        width: pixels of the upright original, before scaled decoding.
        height: the same.
        name: the path, or what stands for it in messages: "<bytes>", "<image>", "<array>".
    """

    picture: Image.Image
    width: int
    height: int
    name: str

    @property
    def pixels(self) -> npt.NDArray[np.uint8]:
        """The picture as a fresh uint8 array H×W×3, RGB, 0..255."""
        return np.array(self.picture)


def load(
    source: ImageSource, *, near: int | None = None, max_pixels: int = MAX_PIXELS, plain: bool = False
) -> Photo:
    """Reads one photo, upright and in RGB. The first frame, where there are several.

    Args:
        source: path, encoded bytes, PIL image (left as it is), or uint8 array H×W×3 in RGB.
        near: side of the model's square; JPEG files are decoded at the smallest scale that covers it.
        max_pixels: a larger photo (width × height, read before decoding) is refused.
        plain: as published models are given photos: decoded at full scale, and transparency dropped.

    Raises:
        ImageError: missing, not a photo, of an unknown format, truncated, too large; names the source.
        MissingExtraError: a HEIC photo, and `pillow-heif` is not installed.
    """
    if near is not None and near < 1:
        raise ImageError(f"near={near} is not a side of a square: expected 1 or more")
    if isinstance(source, Image.Image):
        name, opened = "<image>", source
    elif isinstance(source, np.ndarray):
        name, opened = "<array>", _from_array(source)
    elif isinstance(source, bytes):
        name = "<bytes>"
        opened = _open(source, name)
    elif isinstance(source, str | PathLike):
        name = _path_name(source)
        opened = _open(_read(Path(source)), name)
    else:
        raise ImageError(
            f"an image cannot be a {type(source).__name__}: "
            "give a path, bytes, a PIL image or a uint8 H×W×3 array"
        )
    _check_size(opened, name, max_pixels)
    try:
        return _decode(opened, name, near if opened is not source and not plain else None, plain=plain)
    except AnytagError:
        raise
    except Exception as error:  # a broken file can raise anything from any parser
        raise ImageError(
            f"{name}: cannot be decoded, it is damaged, cut short or of a rare kind ({error})"
        ) from error


def prepare(
    photo: Photo, *, size: int, resample: Resample = "bilinear", plain: bool = False
) -> npt.NDArray[np.uint8]:
    """Squashes a photo to the model's square: contiguous uint8 array 3×S×S, RGB, 0..255, not normalised.

    Args:
        photo: what `load` returned.
        size: S, the side of the square.
        resample: bilinear, bicubic, lanczos (antialiased as torchvision's `Resize` on PIL images) or nearest.
        plain: resized in one step, as published; else a large photo is first averaged down, which is fast.

    Raises:
        ImageError: `size` or `resample` is not one of those.
    """
    if resample not in _FILTERS:
        raise ImageError(f"resample {resample!r} is unknown: expected one of {', '.join(_FILTERS)}")
    if size < 1:
        raise ImageError(f"size {size} is not a side of a square: expected 1 or more")
    gap = None if plain else _REDUCING_GAP
    square = photo.picture.resize((size, size), _FILTERS[resample], reducing_gap=gap)
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))  # H×W×3 -> 3×H×W


def _path_name(source: str | PathLike[str]) -> str:
    """A path as it was given; neither an empty one, which would be the folder we are in, nor a URL."""
    name = fspath(source)
    if not name:
        raise ImageError("got an empty path: expected the path of a photo")
    if _URL.match(name) and not Path(name).exists():
        raise ImageError(f"{name}: URLs are not read; download the photo first, or give its bytes in Python")
    return name


def _read(path: Path) -> bytes:
    """The whole file, once its first bytes are those of a photo (a video of 50 GB is refused unread)."""
    try:
        if path.is_dir():
            raise ImageError(f"{path}: is a folder; give a photo, or on the command line `anytag tag {path}`")
        if path.exists() and not path.is_file():
            raise ImageError(f"{path}: is not a regular file")
        with path.open("rb", buffering=0) as file:  # a buffer would copy a photo of 3 MB twice: 3 ms
            _sniff(file.read(_SIGNATURE_BYTES), str(path))
            file.seek(0)
            return file.readall()
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        raise ImageError(f"{path}: cannot be read ({error})") from error


def _sniff(head: bytes, name: str) -> tuple[str, str]:
    """First bytes -> (format, Pillow plugin)."""
    for signature, kind, plugin in _SIGNATURES:
        if head.startswith(signature):
            return kind, plugin
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP", "WebPImagePlugin"
    if head[4:8] == b"ftyp":
        end = min(int.from_bytes(head[:4], "big"), len(head))
        brands = {head[i : i + 4] for i in range(8, end, 4)}
        if brands & {b"avif", b"avis"}:
            return "AVIF", "AvifImagePlugin"
        if brands & _HEIC_BRANDS:
            return "HEIC", ""
    what = "is empty" if not head else "is not a photo of a known format"
    raise ImageError(f"{name}: {what}; expected one of {', '.join(FORMATS)}")


def _open(data: bytes, name: str) -> Image.Image:
    """Parses the header. `Image.open` would warn of sizes that `max_pixels` allows, and try every parser."""
    kind, plugin = _sniff(data[:_SIGNATURE_BYTES], name)
    if kind == "HEIC":
        return _open_heic(data, name)
    try:
        import_module(f"PIL.{plugin}")
        factory: Any = Image.OPEN[kind][0]
        with _quiet():
            opened: Image.Image = factory(io.BytesIO(data), "")
    except Exception as error:
        raise ImageError(f"{name}: is not a {kind} that can be read ({error})") from error
    return opened


def _open_heic(data: bytes, name: str) -> Image.Image:
    try:
        heif: Any = import_module("pillow_heif")
    except ImportError as error:
        raise MissingExtraError(f"{name}: reading HEIC", "heic") from error
    try:
        opened: Image.Image = heif.HeifImageFile(io.BytesIO(data))
    except Exception as error:
        raise ImageError(f"{name}: is not a HEIC that can be read ({error})") from error
    return opened


def _from_array(array: npt.NDArray[Any]) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise ImageError(
            f"an array of {array.dtype} with shape {array.shape} is not a photo: "
            "expected uint8 H×W×3, RGB, 0..255"
        )
    return Image.fromarray(np.ascontiguousarray(array))


def _check_size(opened: Image.Image, name: str, max_pixels: int) -> None:
    width, height = opened.size
    if width < 1 or height < 1:
        raise ImageError(f"{name}: has no pixels ({width}×{height})")
    if width * height > max_pixels:
        raise ImageError(
            f"{name}: {width}×{height} is {width * height:,} pixels, more than the limit of {max_pixels:,}; "
            f"if you trust the file, load it with max_pixels={width * height}"
        )


def _decode(opened: Image.Image, name: str, near: int | None, *, plain: bool) -> Photo:
    width, height = opened.size
    if near is not None:
        opened.draft("RGB", (near, near))  # a no-op for all but JPEG
    if opened.format == "TIFF":
        _orientation(
            opened
        )  # read quietly now: load() turns a TIFF upright by itself and would read it aloud
    opened.load()
    turn = _UPRIGHT.get(_orientation(opened))
    picture = _to_rgb(opened, name, plain=plain)
    if turn is not None:
        picture = picture.transpose(turn)
        if turn not in (_UPRIGHT[2], _UPRIGHT[3], _UPRIGHT[4]):
            width, height = height, width
    return Photo(picture, width, height, name)


def _orientation(picture: Image.Image) -> int:
    """EXIF orientation; 1 when there is none or the EXIF block is damaged (the pixels are still good)."""
    try:
        with _quiet():
            return int(picture.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:
        return 1


def _to_rgb(picture: Image.Image, name: str, *, plain: bool) -> Image.Image:
    """Any Pillow mode -> RGB, transparency on white or, if `plain`, dropped."""
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture
    if picture.mode.startswith("I"):
        return _from_16_bit(picture, name).convert("RGB")
    if picture.mode in ("F", "LAB"):
        raise ImageError(
            f"{name}: its pixels are of mode {picture.mode}, whose range or colours are not known; "
            "save it as 8-bit RGB"
        )
    if picture.has_transparency_data and not plain:
        layer = picture.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return picture.convert("RGB")


def _from_16_bit(picture: Image.Image, name: str) -> Image.Image:
    """Grey of 16 bits (modes I;16, I) -> 8 bits by scale, where Pillow's own conversion may clip."""
    grey = np.asarray(picture)
    clear = picture.info.get("transparency")
    if isinstance(clear, int):
        grey = np.where(grey == clear, 65535, grey)  # transparency on white
    if grey.min() < 0 or grey.max() > 65535:
        raise ImageError(f"{name}: its grey values lie outside of 16 bits (0..65535); save it as 8-bit RGB")
    return Image.fromarray(((grey.astype(np.uint32) + 128) // 257).astype(np.uint8))


_filters_lock = threading.Lock()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Pillow's remarks on odd metadata from the user.

    `warnings.catch_warnings` swaps a process-wide list, hence the lock and the narrow filter: should another
    thread swap at the same moment, the worst that stays behind is a filter on Pillow. Only headers are parsed
    in here, so workers hardly wait.
    """
    with _filters_lock, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\b")
        yield
