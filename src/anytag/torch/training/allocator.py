"""The C library's allocator, on which the speed of training on a CPU depends."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of malloc.h


def keep_freed_memory() -> None:
    """Keep freed memory for later tensors instead of returning it to the system; only glibc can.

    By default the activations of each step are mapped anew, and clearing their pages takes as long as the
    step itself. The process then keeps the memory of its largest step until it ends.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, TypeError):  # another C library; Windows
        return
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, -1)
