"""A model folder with torch weights, run: what `anytag.runtime.torch_fallback` asks for."""

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
    """The folder's network, its heads loaded when they are used.

    Arguments as for `anytag.runtime.open.open_runtime`.

    Raises:
        DeviceError: the device is not there, or does not multiply so.
        ModelError: the folder's weights do not fit its card.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if threads is not None:
        torch.set_num_threads(threads)  # torch has one number for the whole process
    if precision is None:
        precision = "bfloat16" if device == "cuda" else "float32"
    stored = StoredNetwork(folder)
    return TorchRuntime(stored.network, load_head=stored.load_head, device=device, precision=precision)
