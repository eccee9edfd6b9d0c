"""What runs a model folder: onnxruntime where it has graphs, torch where it has weights."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from anytag._optional import outer
from anytag.errors import DeviceError, ModelError
from anytag.models.folder import ModelFolder
from anytag.runtime.onnx import IMAGE, Device, Floats, OnnxRuntime, Rows

WEIGHTS = "weights.safetensors"
Precision = Literal["float32", "bfloat16", "int8"]


class Runtime(Protocol):
    """Runs one model. All methods may be called from several threads at once.

    Attributes:
        keeps_rows: `score` takes a whole table of float queries as it is stored, and keeps it for later.
        rounds: logits of `score` may differ from those of `exact`.
        provider: what runs the model, for `anytag doctor`.
    """

    @property
    def keeps_rows(self) -> bool: ...

    @property
    def rounds(self) -> bool: ...

    @property
    def provider(self) -> str: ...

    @property
    def device(self) -> str: ...

    def encode(self, pixels: npt.NDArray[np.uint8]) -> tuple[Floats, Floats]: ...

    def score(self, tokens: Floats, pooled: Floats, queries: Rows, *, exact: bool = False) -> Floats: ...

    def where(self, tokens: Floats, pooled: Floats, queries: Rows) -> Floats: ...


def open_runtime(
    folder: ModelFolder,
    *,
    device: Device = "auto",
    threads: int | None = None,
    precision: Precision | None = None,
) -> Runtime:
    """A runtime on a device that is there.

    Graphs are run by onnxruntime. A folder without them is run by torch, and so is one with both when "cuda"
    or a precision is asked for.

    Args:
        folder: the model.
        device: "cuda" is an error where there is none; "auto" takes it where there is one.
        threads: of one run: 1 by default, in torch what torch is set to.
        precision: of torch's matrix products; by default bfloat16 on a GPU and float32 on a CPU, where int8
            is fastest.

    Raises:
        DeviceError: the device is not there, or does not multiply so.
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
        _ = runtime.device  # loads the image graph: a device fails here, not at the first photo
        return runtime
    if not has_weights:
        raise ModelError(f"{folder.path} has neither {IMAGE} nor {WEIGHTS}: get the model again")
    if device not in ("auto", "cpu", "cuda"):
        raise DeviceError(f"device {device!r}: expected 'auto', 'cpu' or 'cuda'")
    door: Any = outer(
        "torch.open", f"running {folder.card.name}, which has no ONNX graphs or is run in torch,"
    )
    made: Runtime = door.open_torch(folder, device=device, threads=threads, precision=precision)
    return made
