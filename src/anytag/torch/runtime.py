"""The runtime of layer 3: a network in torch."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cached_property
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anytag._typing import Array, Bytes, Floats, Rows
from anytag.errors import DeviceError, ModelError
from anytag.runtime.base import Precision, Runtime
from anytag.torch.captions import TorchCaptions
from anytag.torch.matching import TorchMatcher
from anytag.torch.nn.absorbed_attention import FoldedCross
from anytag.torch.nn.caption_head import CaptionHead
from anytag.torch.nn.cross_decoder import CrossDecoder
from anytag.torch.nn.network import TagNetwork

# Photos times tags that a cross decoder holds at once: 200 MB of its widest layer, on a CPU what caches hold.
_AT_ONCE, _AT_ONCE_ON_CPU = 16384, 512
# Tags whose descriptions are weighed at once: 50 of each, widened to float32, stay in a core's cache.
_WEIGHED, _WEIGHED_ON_CPU = 1024, 32


class TorchRuntime(Runtime):
    """Runs a network without gradients.

    A table of queries that is read-only and asked again stays on the device, in the type it is stored in:
    RAM++'s is a quarter of a gigabyte or half a one.

    Args:
        network: set to evaluation mode, and moved to the device.
        device: torch's name of it, such as "cuda"; where the weights are when not given.
        precision: of matrix products; norms, softmax and sums stay in float32. On a CPU only the MLPs
            of a cross decoder are quantised, four fifths of its work; int8 is for a CPU alone.
        load_head: gives the network its "captions" or "alignment", where they were left out till now.

    Raises:
        DeviceError: the device is not there, or does not multiply so.
    """

    caches_queries = True

    def __init__(
        self,
        network: TagNetwork,
        *,
        device: str | None = None,
        precision: Precision = "float32",
        load_head: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.network = network.eval()
        if device is not None:
            _require(device)
            self.network.to(device)
        if precision == "int8" and self._on_gpu:
            raise DeviceError("precision 'int8' is for a CPU: leave it out, or ask for 'bfloat16'")
        self.precision = precision
        self._table: tuple[Rows, Tensor] | None = None
        self._load_head, self._lock = load_head, Lock()

    @property
    def device(self) -> str:
        """torch's name of where the weights are, such as "cpu" or "cuda:0"."""
        return str(next(self.network.parameters()).device)

    @property
    def provider(self) -> str:
        """What runs the network."""
        return f"torch {torch.__version__}"

    def captions(self) -> TorchCaptions:
        """The caption head, in float32."""
        return TorchCaptions(self._caption_head())

    def matcher(self) -> TorchMatcher:
        """The alignment heads, in float32."""
        captions = self._caption_head()
        with self._lock:
            self._load_head("alignment")
        if self.network.alignment is None:
            raise ModelError(
                "this model has no alignment heads: make some with anytag train tag2text-retrieval"
            )
        return TorchMatcher(captions, self.network.alignment.to(self.device))

    def _caption_head(self) -> CaptionHead:
        with self._lock:
            self._load_head("captions")
        if self.network.captions is None:
            raise ModelError("this model was converted without its caption head; convert it again with it")
        return self.network.captions.to(self.device)

    @property
    def _size(self) -> int:
        return self.network.config.size

    @property
    def _width(self) -> int:
        return self.network.config.width

    @property
    def _row_width(self) -> int:
        return self.network.decoder.row_width

    def _encode(self, pixels: Bytes) -> tuple[Floats, Floats]:
        with torch.inference_mode(), self._autocast():
            tokens, pooled = self.network.encoder(self._tensor(pixels))
        return _array(tokens), _array(pooled)

    @property
    def is_approximate(self) -> bool:
        """Do logits differ from those that `exact` gives?"""
        fewer_bits = self._on_gpu or isinstance(self.network.decoder, CrossDecoder)
        return fewer_bits and self.precision != "float32"

    def _score(self, tokens: Floats, pooled: Floats, queries: Rows, *, exact: bool) -> Floats:
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
        module: Any = decoder
        if not tokens.is_cuda:
            module = FoldedCross(decoder) if exact else self._folded
        with self._autocast(exact=exact):
            memories = module.project_kv(tokens)
        logits = []
        for part in torch.split(rows, max(1, at_once // len(tokens)), dim=1):
            # in float32: the softmax's temperature makes small differences between descriptions large
            few = torch.split(part, weighed, dim=1)
            queries = torch.cat([decoder.embed(pooled, some.float()) for some in few], 1)
            with self._autocast(exact=exact):
                decoded = module.decode(queries, memories)
            logits.append(decoder.answer(decoded.float(), part))
        return torch.cat(logits, 1)

    @cached_property
    def _folded(self) -> FoldedCross:
        """The cross decoder as a CPU runs it; its weights are quantised once."""
        assert isinstance(self.network.decoder, CrossDecoder)
        return FoldedCross(
            self.network.decoder, rounding=None if self.precision == "float32" else self.precision
        )

    def _locate(self, tokens: Floats, pooled: Floats, queries: Rows) -> Floats:
        asked = self._tensor(tokens), self._tensor(pooled), self._queries(queries).float()
        with torch.inference_mode(), self._autocast():
            return _array(self.network.decoder.located(*asked)[1])

    def _autocast(self, *, exact: bool = False) -> torch.autocast:
        """bfloat16 on a GPU; a CPU quantises MLPs only."""
        enabled = self._on_gpu and self.precision != "float32" and not exact
        return torch.autocast("cuda", torch.bfloat16, enabled=enabled)

    @property
    def _on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    def _queries(self, queries: Rows) -> Tensor:
        """On the device; what may change is copied each time, what may not is cached."""
        if queries.flags.writeable:
            return self._tensor(queries)
        if self._table is None or not _same_memory(self._table[0], queries):
            self._table = (queries, self._tensor(queries))
        return self._table[1]

    def _tensor(self, array: Array) -> Tensor:
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
