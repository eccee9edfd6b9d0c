"""Golden cases: inputs with the outputs of the published code, one folder each."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

FOLDER = Path(os.environ.get("ANYTAG_GOLDEN") or Path(__file__).parent / "golden")
Arrays = dict[str, npt.NDArray[Any]]


def read_case(name: str) -> tuple[dict[str, Any], Arrays, Arrays]:
    """case.json, inputs (stored half floats as float32) and outputs."""
    case: dict[str, Any] = json.loads((FOLDER / name / "case.json").read_text(encoding="utf-8"))
    inputs = load_file(FOLDER / name / "inputs.safetensors")
    inputs = {k: v.astype(np.float32) if v.dtype == np.float16 else v for k, v in inputs.items()}
    return case, inputs, load_file(FOLDER / name / "outputs.safetensors")


def assert_close(case: dict[str, Any], name: str, *, ours: npt.ArrayLike, stored: npt.ArrayLike) -> None:
    """Within the case's own tolerance for the output `name`."""
    distance = np.abs(np.asarray(ours) - np.asarray(stored)).max()
    assert distance <= case["tolerance"]["max_abs"][name], f"{case['name']} {name}: {distance}"
