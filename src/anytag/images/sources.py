"""Read image sources (path, bytes, open file, PIL image, array) to bytes or a PIL image, and name them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from os import PathLike, fsdecode
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from anytag._typing import Bytes
from anytag.errors import AnytagError, ImageError
from anytag.images.formats import SIGNATURE_BYTES, sniff

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")  # at least two letters, unlike a Windows drive


class Readable(Protocol):
    """Any object whose `read` returns bytes, such as an open file."""

    def read(self, size: int = -1, /) -> bytes: ...


ImageSource = str | PathLike[str] | bytes | bytearray | memoryview | Readable | Image.Image | Bytes


def is_source(value: Any) -> bool:
    """Whether a value is a single image."""
    single = isinstance(value, str | bytes | bytearray | memoryview | PathLike | Image.Image)
    return single or _is_file(value) or (isinstance(value, np.ndarray) and value.ndim in (2, 3))


def check_many(images: Any) -> None:
    """Check that an argument for several images is not a single one.

    Raises:
        AnytagError: it is a single image, or not iterable.
    """
    if is_source(images):
        what = repr(images) if isinstance(images, str | bytes | Path) else f"a {type(images).__name__}"
        raise AnytagError(f"got one image, {what:.200}, for many: give a list, or use tag() or encode()")
    if not isinstance(images, Iterable):
        raise AnytagError(f"images is a {type(images).__name__}: give a list or another iterable of photos")


def path_of(source: Any) -> str | None:
    """The path of a source as text; None if it is not a valid path."""
    if not isinstance(source, str | PathLike):
        return None
    try:
        return fsdecode(source)
    except (TypeError, ValueError):
        return None


def _is_file(value: Any) -> bool:
    return callable(getattr(value, "read", None))


def read_source(source: Any) -> tuple[bytes | Image.Image, str]:
    """Read the bytes or the picture of a source, and its name.

    Raises:
        ImageError: it cannot be read, is of an unsupported type, or does not begin like a photo.
    """
    if isinstance(source, Image.Image):
        return source, "<image>"
    if isinstance(source, np.ndarray):
        return _from_array(source), "<array>"
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source), "<bytes>"
    if isinstance(source, str | PathLike):
        return _read_path(source)
    if _is_file(source):
        return _read_file(source)
    raise ImageError(
        f"an image cannot be a {type(source).__name__}: "
        "give a path, bytes, an open file, a PIL image or a uint8 H×W×3 array"
    )


def _read_path(source: str | PathLike[str]) -> tuple[bytes, str]:
    """Read a file if it begins like a photo (a video of 50 GB is refused unread)."""
    if source == "":
        raise ImageError("got an empty path: expected the path of a photo")
    try:
        path = Path(fsdecode(source))
        name = fsdecode(source)
        if path.is_dir():
            raise ImageError(f"{name}: is a folder; give a photo, or on the command line `anytag tag {name}`")
        if path.exists() and not path.is_file():
            raise ImageError(f"{name}: is not a regular file")
        with path.open("rb", buffering=0) as file:  # buffering would copy the data, 3 ms for 3 MB
            sniff(file.read(SIGNATURE_BYTES), name)
            file.seek(0)
            return file.readall(), name
    except FileNotFoundError as error:
        if _URL.match(name):
            hint = "URLs are not read; download the photo first, or give its bytes in Python"
            raise ImageError(f"{name}: {hint}") from error
        raise ImageError(f"{name}: no such file") from error
    except (OSError, TypeError, ValueError) as error:  # a null byte, or an invalid path object
        raise ImageError(f"{source!s}: cannot be read ({error})") from error


def _read_file(source: Readable) -> tuple[bytes, str]:
    """Read the rest of an open file, if it begins like a photo."""
    name = getattr(source, "name", None)
    name = name if isinstance(name, str) and name else "<file>"
    try:
        head: Any = _first(source)
        if not isinstance(head, bytes | bytearray | memoryview):
            kind = type(head).__name__
            raise ImageError(
                f"{name}: its read() returns {kind}, expected bytes; open the file with mode 'rb'"
            )
        parts = [bytes(head)]
        while 0 < sum(map(len, parts)) < SIGNATURE_BYTES and parts[-1]:  # sockets may return less
            parts.append(bytes(source.read(SIGNATURE_BYTES)))
        start = b"".join(parts)
        sniff(start, name)
        return (start if len(head) > SIGNATURE_BYTES else start + _rest(source)), name
    except AnytagError:
        raise
    except Exception as error:  # objects of users may raise anything
        raise ImageError(f"{name}: cannot be read ({error})") from error


def _first(source: Any) -> Any:
    try:
        return source.read(SIGNATURE_BYTES)
    except TypeError:  # an object whose read() takes no size
        return source.read()


def _rest(source: Readable) -> bytes:
    parts = []
    while part := source.read(1 << 20):
        parts.append(bytes(part))
    return b"".join(parts)


def _from_array(array: npt.NDArray[Any]) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise ImageError(
            f"an array of {array.dtype} with shape {array.shape} is not a photo: "
            "expected uint8 H×W×3, RGB, 0..255"
        )
    return Image.fromarray(np.ascontiguousarray(array))
