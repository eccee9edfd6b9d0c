"""The runtime of the outer ring: a network in torch, asked as `anytag.runtime.onnx.OnnxRuntime` is asked."""

from __future__ import annotations

import warnings
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from anytag.errors import DeviceError, ModelError
from anytag.runtime.open import Precision
from anytag.torch.nn.absorbed_attention import FoldedCross
from anytag.torch.nn.cross_decoder import CrossDecoder
from anytag.torch.nn.network import TagNetwork

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.float32 | np.float16]

# Photos times tags that a cross decoder holds at once: 200 MB of its widest layer, on a CPU what caches hold.
_AT_ONCE, _AT_ONCE_ON_CPU = 16384, 512
# Tags whose descriptions are weighed at once: 50 of each, widened to float32, stay in a core's cache.
_WEIGHED, _WEIGHED_ON_CPU = 1024, 32


class TorchRuntime:
    """Runs a network without gradients.

    A table of queries that is read-only and asked again stays on the device, in the type it is stored in:
    RAM++'s is a quarter of a gigabyte or half a one.

    Args:
        network: set to evaluation mode, and moved to the device.
        device: torch's name of it, such as "cuda"; where the weights are when not given.
        precision: of matrix products; norms, softmax and sums stay in float32. On a CPU only the perceptrons
            of a cross decoder have fewer bits, four fifths of its work; int8 is for a CPU alone.

    Raises:
        DeviceError: the device is not there, or does not multiply so.
    """

    keeps_rows = True

    def __init__(
        self, network: TagNetwork, *, device: str | None = None, precision: Precision = "float32"
    ) -> None:
        self.network = network.eval()
        if device is not None:
            _require(device)
            self.network.to(device)
        if precision == "int8" and self._on_gpu:
            raise DeviceError("precision 'int8' is for a CPU: leave it out, or ask for 'bfloat16'")
        self.precision = precision
        self._table: tuple[Rows, Tensor] | None = None

    @property
    def device(self) -> str:
        """torch's name of where the weights are, such as "cpu" or "cuda:0"."""
        return str(next(self.network.parameters()).device)

    @property
    def provider(self) -> str:
        """What runs the network."""
        return f"torch {torch.__version__}"

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
        with torch.inference_mode(), self._autocast():
            tokens, pooled = self.network.encoder(self._tensor(pixels))
        return _array(tokens), _array(pooled)

    @property
    def rounds(self) -> bool:
        """Do logits differ from those that `exact` gives?"""
        fewer_bits = self._on_gpu or isinstance(self.network.decoder, CrossDecoder)
        return fewer_bits and self.precision != "float32"

    def score(self, tokens: Floats, pooled: Floats, queries: Rows, *, exact: bool = False) -> Floats:
        """Logits of every tag in every photo.

        Args:
            tokens: float32 N×T×D from `encode`.
            pooled: float32 N×D from `encode`.
            queries: float32 or float16 Q×K×P×R, R as the decoder says, mostly D; Q is 1 (the same for all
                photos) or N (each photo its own). An all-zero row is padding and gets no weight.
            exact: in float32, whatever the precision is.

        Returns:
            float32 N×K.

        Raises:
            ModelError: another shape or type.
        """
        self._check_asked(tokens, pooled, queries)
        if not queries.shape[1]:
            return np.zeros((len(tokens), 0), np.float32)
        with torch.inference_mode():
            asked = self._tensor(tokens), self._tensor(pooled), self._queries(queries)
            decoder = self.network.decoder
            if isinstance(decoder, CrossDecoder):
                return _array(self._cross(decoder, *asked, exact=exact))
            with self._autocast(exact=exact):
                return _array(decoder(*asked[:2], asked[2].float()))

    def _cross(
        self, decoder: CrossDecoder, tokens: Tensor, pooled: Tensor, rows: Tensor, *, exact: bool
    ) -> Tensor:
        """Some tags at a time: N×K."""
        at_once, weighed = (_AT_ONCE, _WEIGHED) if tokens.is_cuda else (_AT_ONCE_ON_CPU, _WEIGHED_ON_CPU)
        asked: Any = decoder
        if not tokens.is_cuda:
            asked = FoldedCross(decoder) if exact else self._folded
        with self._autocast(exact=exact):
            memories = asked.remember(tokens)
        logits = []
        for part in torch.split(rows, max(1, at_once // len(tokens)), dim=1):
            # in float32: the softmax's temperature makes small differences between descriptions large
            few = torch.split(part, weighed, dim=1)
            queries = torch.cat([decoder.embed(pooled, some.float()) for some in few], 1)
            with self._autocast(exact=exact):
                decoded = asked.decode(queries, memories)
            logits.append(decoder.answer(decoded.float(), part))
        return torch.cat(logits, 1)

    @cached_property
    def _folded(self) -> FoldedCross:
        """The cross decoder as a CPU runs it; its weights in fewer bits are made once."""
        assert isinstance(self.network.decoder, CrossDecoder)
        return FoldedCross(
            self.network.decoder, rounding=None if self.precision == "float32" else self.precision
        )

    def where(self, tokens: Floats, pooled: Floats, queries: Rows) -> Floats:
        """What each token says for each tag; arguments and errors as for `score`, float32 N×K×T."""
        self._check_asked(tokens, pooled, queries)
        if not queries.shape[1]:
            return np.zeros((len(tokens), 0, tokens.shape[1]), np.float32)
        asked = self._tensor(tokens), self._tensor(pooled), self._queries(queries).float()
        with torch.inference_mode(), self._autocast():
            return _array(self.network.decoder.located(*asked)[1])

    def _check_asked(self, tokens: Floats, pooled: Floats, queries: Rows) -> None:
        width, count, row_width = self.network.config.width, len(tokens), self.network.decoder.row_width
        if tokens.dtype != np.float32 or tokens.ndim != 3 or tokens.shape[2] != width or not tokens.size:
            raise _wrong("tokens", tokens, f"float32 N×T×{width}, not empty")
        if pooled.dtype != np.float32 or pooled.shape != (count, width):
            raise _wrong("pooled", pooled, f"float32 {count}×{width}")
        sets, _, descriptions, depth = queries.shape if queries.ndim == 4 else (0, 0, 0, 0)
        known = queries.dtype in (np.float32, np.float16)
        if not known or sets not in (1, count) or not descriptions or depth != row_width:
            expected = f"float32 Q×K×P×{row_width} with Q of 1 or {count} and P of at least 1"
            raise _wrong("queries", queries, expected)

    def _autocast(self, *, exact: bool = False) -> torch.autocast:
        """bfloat16 on a GPU; a CPU takes fewer bits for perceptrons alone."""
        enabled = self._on_gpu and self.precision != "float32" and not exact
        return torch.autocast("cuda", torch.bfloat16, enabled=enabled)

    @property
    def _on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    def _queries(self, queries: Rows) -> Tensor:
        """On the device; what may change is copied each time, what may not is remembered."""
        if queries.flags.writeable:
            return self._tensor(queries)
        if self._table is None or not _same_memory(self._table[0], queries):
            self._table = (queries, self._tensor(queries))
        return self._table[1]

    def _tensor(self, array: npt.NDArray[Any]) -> Tensor:
        """On the device; on the CPU the same memory, which nothing here writes to."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the array may be read-only
            return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)


def _same_memory(one: Rows, other: Rows) -> bool:
    """Are they views of the same numbers?"""
    place, there = one.__array_interface__, other.__array_interface__
    return all(place[what] == there[what] for what in ("data", "shape", "typestr", "strides"))


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
