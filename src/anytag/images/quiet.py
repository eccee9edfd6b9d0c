"""Suppress warnings of Pillow and libtiff about unusual files: errors are reported by exceptions."""

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
    """Suppress Pillow's warnings about metadata.

    `warnings.catch_warnings` changes global state, hence the lock and the narrow filter: if another thread
    interferes, at worst a filter for Pillow remains. Only headers are parsed in the block, so the lock is
    held briefly.
    """
    with _filters_lock, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\b")
        yield


@contextmanager
def without_pillows_limit() -> Iterator[None]:
    """Disable Pillow's size limit in the block, after ours has been checked.

    The limit is global: it is disabled for other threads too while a header is parsed in the block.
    """
    with _filters_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


_handlers_lock = threading.Lock()
_handlers: list[Any] = []  # libtiff's original handlers, while they are disabled
_inside = 0


@contextmanager
def quiet_libtiff() -> Iterator[None]:
    """Stop libtiff from writing to stderr; Pillow raises errors anyway.

    libtiff's handlers are global: they are restored when the last thread leaves the block. On Windows, where
    Pillow's libtiff is not accessible, nothing is changed.
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
    """Set libtiff's handler of errors or warnings; returns the previous one."""
    try:
        function = getattr(ctypes.CDLL(_imaging.__file__), f"TIFFSet{kind}Handler")
    except (AttributeError, OSError):
        return None
    function.restype, function.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    before: int | None = function(handler)
    return before
