"""Does a graph say what the network says?"""

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
    """Compares a module with its ONNX graph, output by output.

    Args:
        module: gives one tensor or a tuple of them.
        file: its graph, inputs and outputs in the module's order; further outputs are not looked at.
        batches: the module's arguments, once for every comparison.
        tolerance: the largest difference allowed, as a share of the output's largest magnitude.

    Returns:
        the largest difference found, as a share of max(1, the output's largest magnitude).

    Raises:
        ModelError: it is above `tolerance`, or shapes differ; says in which output, for which input shapes.
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
        for name, ours, reference in zip(outputs, outputs_onnx, expected, strict=False):
            where = f"{file}: {name} for inputs {shapes}"
            worst = max(worst, _difference(ours, reference.numpy(), where=where, tolerance=tolerance))
    return worst


def _difference(actual: Floats, expected: Floats, *, where: str, tolerance: float) -> float:
    if actual.shape != expected.shape:
        raise ModelError(f"{where}: the graph gives shape {actual.shape}, the network {expected.shape}")
    difference = float(np.abs(actual - expected).max() / max(1.0, np.abs(expected).max()))
    if not difference <= tolerance:  # not a number is a difference too
        raise ModelError(f"{where}: graph and network differ by {difference:.2g}, allowed are {tolerance:g}")
    return difference
