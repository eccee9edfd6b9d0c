"""The runtime of the outer ring: a network in torch, asked as `anytag.models.onnx.OnnxRuntime` is asked."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from anytag.errors import DeviceError, ModelError

from .cross import CrossDecoder
from .network import TagNetwork

Floats = npt.NDArray[np.float32]

# Photos times tags that a cross decoder holds at once: 200 MB of its widest layer.
_AT_ONCE = 16384


class TorchRuntime:
    """Runs a network without gradients.

    A table of queries that is read-only and asked again stays on the device: RAM++'s is half a gigabyte.

    Args:
        network: set to evaluation mode, and moved to the device.
        device: torch's name of it, such as "cuda"; where the weights are when not given.
        half: multiply matrices in bfloat16; norms, softmax and sums stay in float32.

    Raises:
        DeviceError: the device is not there.
    """

    def __init__(self, network: TagNetwork, *, device: str | None = None, half: bool = False) -> None:
        self.network = network.eval()
        if device is not None:
            _require(device)
            self.network.to(device)
        self.half = half
        self._table: tuple[Floats, Tensor] | None = None

    @property
    def device(self) -> str:
        """torch's name of where the weights are, such as "cpu" or "cuda:0"."""
        return str(next(self.network.parameters()).device)

    def encode(self, pixels: npt.NDArray[np.uint8]) -> tuple[Floats, Floats]:
        """Image tokens of prepared photos.

        Args:
            pixels: uint8 N×3×S×S, RGB, S as the network's configuration says, N of at least 1.

        Returns:
            tokens float32 N×T×D and pooled float32 N×D.

        Raises:
            ModelError: another shape or type.
        """
        size = self.network.config.size
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (3, size, size) or not len(pixels):
            raise _wrong("pixels", pixels, f"uint8 N×3×{size}×{size} with N of at least 1")
        with torch.inference_mode(), self._precision():
            tokens, pooled = self.network.encoder(self._tensor(pixels))
        return _array(tokens), _array(pooled)

    def score(self, tokens: Floats, pooled: Floats, queries: Floats) -> Floats:
        """Logits of every tag in every photo.

        Args:
            tokens: float32 N×T×D from `encode`.
            pooled: float32 N×D from `encode`.
            queries: float32 Q×K×P×R, R as the decoder says, mostly D; Q is 1 (the same for all photos) or N
                (each photo its own). An all-zero row is padding and gets no weight.

        Returns:
            float32 N×K.

        Raises:
            ModelError: another shape or type.
        """
        self._check_asked(tokens, pooled, queries)
        if not queries.shape[1]:
            return np.zeros((len(tokens), 0), np.float32)
        decoder = self.network.decoder
        if isinstance(decoder, CrossDecoder):
            decoder.chunk = max(1, _AT_ONCE // len(tokens))
        with torch.inference_mode(), self._precision():
            return _array(decoder(self._tensor(tokens), self._tensor(pooled), self._queries(queries)))

    def where(self, tokens: Floats, pooled: Floats, queries: Floats) -> Floats:
        """What each token says for each tag; arguments and errors as for `score`, float32 N×K×T."""
        self._check_asked(tokens, pooled, queries)
        if not queries.shape[1]:
            return np.zeros((len(tokens), 0, tokens.shape[1]), np.float32)
        asked = self._tensor(tokens), self._tensor(pooled), self._queries(queries)
        with torch.inference_mode(), self._precision():
            return _array(self.network.decoder.located(*asked)[1])

    def _check_asked(self, tokens: Floats, pooled: Floats, queries: Floats) -> None:
        width, count, row_width = self.network.config.width, len(tokens), self.network.decoder.row_width
        if tokens.dtype != np.float32 or tokens.ndim != 3 or tokens.shape[2] != width or not tokens.size:
            raise _wrong("tokens", tokens, f"float32 N×T×{width}, not empty")
        if pooled.dtype != np.float32 or pooled.shape != (count, width):
            raise _wrong("pooled", pooled, f"float32 {count}×{width}")
        sets, _, descriptions, depth = queries.shape if queries.ndim == 4 else (0, 0, 0, 0)
        if queries.dtype != np.float32 or sets not in (1, count) or not descriptions or depth != row_width:
            expected = f"float32 Q×K×P×{row_width} with Q of 1 or {count} and P of at least 1"
            raise _wrong("queries", queries, expected)

    def _precision(self) -> torch.autocast:
        kind = self.device.partition(":")[0]
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=self.half)

    def _queries(self, queries: Floats) -> Tensor:
        """On the device; what may change is copied each time, what may not is remembered."""
        if queries.flags.writeable:
            return self._tensor(queries)
        if self._table is None or self._table[0] is not queries:
            self._table = (queries, self._tensor(queries))
        return self._table[1]

    def _tensor(self, array: npt.NDArray[Any]) -> Tensor:
        """On the device; on the CPU the same memory, which nothing here writes to."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the array may be read-only
            return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)


def _require(device: str) -> None:
    """Raises DeviceError if the device is not there."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        reason = str(error).partition("\n")[0]
        raise DeviceError(
            f"device {device!r} was asked for and is not there ({reason}); use 'cpu'"
        ) from error


def _array(tensor: Tensor) -> Floats:
    array: Floats = tensor.float().cpu().numpy()
    return array


def _wrong(name: str, given: npt.NDArray[Any], expected: str) -> ModelError:
    shape = "×".join(map(str, given.shape)) or "scalar"
    return ModelError(f"{name}: expected {expected}, got {given.dtype} {shape}")
