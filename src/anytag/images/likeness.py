"""Perceptual hashes of pictures, robust to resizing and compression."""

from __future__ import annotations

import numpy as np
from PIL import Image

from anytag._typing import Bytes

HASH_BYTES = 32


def difference_hash(picture: Image.Image) -> Bytes:
    """Difference hash (dHash), uint8 32: whether each cell of a 16×17 grey thumbnail exceeds its left one."""
    grey = np.asarray(picture.convert("L").resize((17, 16), Image.Resampling.BILINEAR), dtype=np.int16)
    return np.packbits(grey[:, 1:] > grey[:, :-1])
