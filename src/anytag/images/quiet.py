"""What Pillow and libtiff say aloud of odd files: errors tell the user, nothing else should."""

from __future__ import annotations

import ctypes
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from PIL import Image, _imaging

_filters_lock = threading.RLock()


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Keeps Pillow's remarks on odd metadata from the user.

    `warnings.catch_warnings` swaps a process-wide list, hence the lock and the narrow filter: should another
    thread swap at the same moment, the worst that stays behind is a filter on Pillow. Only headers are parsed
    in here, so workers hardly wait.
    """
    with _filters_lock, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\b")
        yield


@contextmanager
def without_pillows_limit() -> Iterator[None]:
    """Has Pillow open what is larger than its own limit, once it was held against ours.

    The limit belongs to the process: other threads are without it as long as a header is parsed in here.
    """
    with _filters_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


_handlers_lock = threading.Lock()
_handlers: list[Any] = []  # libtiff's own, while ours are in place
_inside = 0


@contextmanager
def quiet_libtiff() -> Iterator[None]:
    """Keeps libtiff from writing to stderr what Pillow raises as an error anyhow.

    libtiff's handlers belong to the process: they are put back when the last decoding thread has left. Where
    Pillow hides its libtiff (Windows), nothing is changed.
    """
    global _inside
    with _handlers_lock:
        _inside += 1
        if _inside == 1:
            _handlers[:] = [_set_handler(kind, None) for kind in ("Error", "Warning")]
    try:
        yield
    finally:
        with _handlers_lock:
            _inside -= 1
            if not _inside:
                for kind, handler in zip(("Error", "Warning"), _handlers, strict=True):
                    _set_handler(kind, handler)


def _set_handler(kind: str, handler: int | None) -> int | None:
    """Sets libtiff's handler of errors or warnings; returns the one before."""
    try:
        function = getattr(ctypes.CDLL(_imaging.__file__), f"TIFFSet{kind}Handler")
    except (AttributeError, OSError):
        return None
    function.restype, function.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    before: int | None = function(handler)
    return before
