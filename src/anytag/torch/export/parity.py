"""Compare the outputs of an ONNX graph with those of its network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from anytag._typing import Floats
from anytag.errors import ModelError
from anytag.runtime.onnx import open_session

TOLERANCE = 1e-4


def check_parity(
    module: nn.Module, file: Path, batches: Sequence[Sequence[Tensor]], *, tolerance: float = TOLERANCE
) -> float:
    """Compare a module with its ONNX graph, output by output.

    Differences are relative to max(1, largest magnitude of the output).

    Args:
        module: returns one tensor or a tuple of tensors.
        file: its graph, with inputs and outputs in the module's order; further outputs are ignored.
        batches: the module's arguments, one sequence per comparison.
        tolerance: the largest allowed difference.

    Returns:
        the largest difference found.

    Raises:
        ModelError: it is above `tolerance`, or shapes differ; the message names the output and input shapes.
    """
    session = open_session(file)
    inputs = [node.name for node in session.get_inputs()]
    outputs = [node.name for node in session.get_outputs()]
    worst = 0.0
    for batch in batches:
        with torch.inference_mode():
            expected = module(*batch)
        expected = expected if isinstance(expected, tuple) else (expected,)
        feeds = dict(zip(inputs, (x.numpy() for x in batch), strict=True))
        outputs_onnx = session.run(outputs[: len(expected)], feeds)
        shapes = ", ".join("×".join(map(str, x.shape)) for x in batch)
        for name, actual, reference in zip(outputs, outputs_onnx, expected, strict=False):
            where = f"{file}: {name} for inputs {shapes}"
            worst = max(worst, _difference(actual, reference.numpy(), where=where, tolerance=tolerance))
    return worst


def _difference(actual: Floats, expected: Floats, *, where: str, tolerance: float) -> float:
    if actual.shape != expected.shape:
        raise ModelError(f"{where}: the graph's shape is {actual.shape}, the network's {expected.shape}")
    difference = float(np.abs(actual - expected).max() / max(1.0, np.abs(expected).max()))
    if not difference <= tolerance:  # also true for NaN
        raise ModelError(f"{where}: graph and network differ by {difference:.2g} (tolerance {tolerance:g})")
    return difference
