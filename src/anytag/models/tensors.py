"""Memory-mapped arrays of safetensors files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from anytag.errors import ModelError

_TYPES = {"I8": np.int8, "F16": np.float16, "F32": np.float32}


def map_tensors(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Map the int8, float16 and float32 tensors of a safetensors file by name, read-only.

    A file of hundreds of megabytes opens at once; only the parts that are used are read into memory, which
    processes share.

    Raises:
        ModelError: the file cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):  # checks the header against the file's size
            pass
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header: dict[str, Any] = json.loads(file.read(length))
        header.pop("__metadata__", None)
        return {
            name: _mapped(path, 8 + length, row) for name, row in header.items() if row["dtype"] in _TYPES
        }
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: cannot be read as safetensors ({error}); get the model again") from error


def _mapped(path: Path, start: int, row: dict[str, Any]) -> npt.NDArray[Any]:
    kind, shape = _TYPES[row["dtype"]], tuple(row["shape"])
    if 0 in shape:
        return np.zeros(shape, kind)
    # may be unaligned, depending on the header's length; numpy handles it, more slowly
    mapped = np.memmap(path, kind, "r", offset=start + row["data_offsets"][0], shape=shape)
    return np.asarray(mapped)
