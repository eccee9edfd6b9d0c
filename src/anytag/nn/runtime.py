"""The runtime of the outer ring: a network in torch, asked as `anytag.models.onnx.OnnxRuntime` is asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from anytag.errors import ModelError

from .network import TagNetwork

Floats = npt.NDArray[np.float32]


class TorchRuntime:
    """Runs a network where its weights are, without gradients.

    Args:
        network: set to evaluation mode.
    """

    def __init__(self, network: TagNetwork) -> None:
        self.network = network.eval()

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
        with torch.inference_mode():
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
        width, count, row_width = self.network.config.width, len(tokens), self.network.decoder.row_width
        if tokens.dtype != np.float32 or tokens.ndim != 3 or tokens.shape[2] != width or not tokens.size:
            raise _wrong("tokens", tokens, f"float32 N×T×{width}, not empty")
        if pooled.dtype != np.float32 or pooled.shape != (count, width):
            raise _wrong("pooled", pooled, f"float32 {count}×{width}")
        sets, _, descriptions, depth = queries.shape if queries.ndim == 4 else (0, 0, 0, 0)
        if queries.dtype != np.float32 or sets not in (1, count) or not descriptions or depth != row_width:
            expected = f"float32 Q×K×P×{row_width} with Q of 1 or {count} and P of at least 1"
            raise _wrong("queries", queries, expected)
        if not queries.shape[1]:
            return np.zeros((count, 0), np.float32)
        with torch.inference_mode():
            asked = (self._tensor(array) for array in (tokens, pooled, queries))
            return _array(self.network.decoder(*asked))

    def where(self, tokens: Floats, pooled: Floats, queries: Floats) -> Floats:
        """What each token says for each tag; arguments and errors as for `score`, float32 N×K×T."""
        with torch.inference_mode():
            asked = (self._tensor(array) for array in (tokens, pooled, queries))
            return _array(self.network.decoder.located(*asked)[1])

    def _tensor(self, array: npt.NDArray[Any]) -> Tensor:
        """A copy where the weights are; torch takes no negative strides and no read-only memory."""
        return torch.tensor(np.ascontiguousarray(array), device=self.device)


def _array(tensor: Tensor) -> Floats:
    array: Floats = tensor.cpu().numpy()
    return array


def _wrong(name: str, given: npt.NDArray[Any], expected: str) -> ModelError:
    shape = "×".join(map(str, given.shape)) or "scalar"
    return ModelError(f"{name}: expected {expected}, got {given.dtype} {shape}")
