"""Open a model folder with torch weights as a runtime, for `anytag.runtime.torch_fallback`."""

from __future__ import annotations

import torch

from anytag.models.folder import ModelFolder
from anytag.runtime.base import Device, Precision
from anytag.torch.checkpoints.load import StoredNetwork
from anytag.torch.runtime import TorchRuntime


def open_torch(
    folder: ModelFolder,
    *,
    device: Device = "auto",
    threads: int | None = None,
    precision: Precision | None = None,
) -> TorchRuntime:
    """A runtime for the folder's network; heads are loaded when they are first used.

    Arguments as for `anytag.runtime.open.open_runtime`.

    Raises:
        DeviceError: the device is not available, or does not support the precision.
        ModelError: the folder's weights do not fit its card.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if threads is not None:
        torch.set_num_threads(threads)  # applies to the whole process
    if precision is None:
        precision = "bfloat16" if device == "cuda" else "float32"
    stored = StoredNetwork(folder)
    return TorchRuntime(stored.network, load_head=stored.load_head, device=device, precision=precision)
