"""Choose the runtime of a model folder: onnxruntime for graphs, torch for weights."""

from __future__ import annotations

from anytag.errors import ModelError
from anytag.models.folder import WEIGHTS, ModelFolder
from anytag.runtime.base import Device, Precision, Runtime, check_device
from anytag.runtime.onnx import IMAGE, OnnxRuntime
from anytag.runtime.torch_fallback import open_in_torch


def open_runtime(
    folder: ModelFolder,
    *,
    device: Device = "auto",
    threads: int | None = None,
    precision: Precision | None = None,
) -> Runtime:
    """Open a runtime on an available device.

    Graphs are run by onnxruntime. A folder without them is run by torch, and so is one with both when "cuda"
    or a precision is requested.

    Args:
        folder: the model.
        device: "cuda" raises an error if it is not available; "auto" uses it if it is.
        threads: per run: 1 by default; in torch, torch's default.
        precision: of torch's matrix products; by default bfloat16 on a GPU and float32 on a CPU, where int8
            is fastest.

    Raises:
        DeviceError: the device is not available, or does not support the precision.
        MissingExtraError: torch is needed and not installed.
        ModelError: the folder has neither graphs nor weights.
    """
    has_graphs, has_weights = IMAGE in folder, WEIGHTS in folder
    if has_graphs and not (has_weights and (device == "cuda" or precision)):
        if precision not in (None, "float32"):
            raise ModelError(
                f"{folder.path} has no {WEIGHTS}, so torch cannot run it in {precision}; leave precision out"
            )
        runtime = OnnxRuntime(folder, device=device, threads=1 if threads is None else threads)
        _ = runtime.device  # loads the image graph, so that a device fails here and not at the first photo
        return runtime
    if not has_weights:
        raise ModelError(f"{folder.path} has neither {IMAGE} nor {WEIGHTS}: get the model again")
    check_device(device)
    what = f"running {folder.card.name} in torch"
    return open_in_torch(folder, what, device=device, threads=threads, precision=precision)
