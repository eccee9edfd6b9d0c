"""A model folder with torch weights, run: what the inner ring asks for through its one door."""

from __future__ import annotations

import torch

from anytag.errors import ModelError
from anytag.models.folder import ModelFolder
from anytag.runtime.onnx import Device
from anytag.runtime.open import Precision
from anytag.torch.captions import TorchCaptions
from anytag.torch.checkpoints.load import load_network
from anytag.torch.matching import TorchMatcher
from anytag.torch.runtime import TorchRuntime


def open_torch(
    folder: ModelFolder,
    *,
    device: Device = "auto",
    threads: int | None = None,
    precision: Precision | None = None,
) -> TorchRuntime:
    """The folder's network without its heads; arguments as for `anytag.runtime.open.open_runtime`.

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
    network = load_network(folder, captions=False, alignment=False)
    return TorchRuntime(network, device=device, precision=precision)


def open_captions(folder: ModelFolder, *, device: str) -> TorchCaptions:
    """The folder's caption head, where torch calls it `device`.

    Raises:
        ModelError: the folder has none, or its weights do not fit its card.
    """
    head = load_network(folder, alignment=False).captions
    if head is None:
        raise ModelError(f"{folder.path} was converted without its caption head; convert it again with it")
    return TorchCaptions(head.to(device))


def open_alignment(folder: ModelFolder, *, device: str) -> TorchMatcher:
    """The folder's alignment heads, where torch calls it `device`.

    Raises:
        ModelError: the folder has none, or its weights do not fit its card.
    """
    network = load_network(folder)
    if network.alignment is None or network.captions is None:
        raise ModelError(
            f"{folder.path} has no alignment heads: make some with anytag train tag2text-retrieval"
        )
    return TorchMatcher(network.captions.to(device), network.alignment.to(device))
