"""Array type aliases."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Halves = npt.NDArray[np.float16]
AnyFloats = npt.NDArray[np.floating]
Rows = npt.NDArray[np.float32 | np.float16]
"""Queries as stored."""
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
"""Mostly pixels."""
