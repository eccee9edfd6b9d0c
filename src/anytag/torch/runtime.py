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

# Photos times tags per call of a cross decoder: 200 MB in its widest layer; on a CPU, what the caches hold.
_MAX_PAIRS, _MAX_PAIRS_ON_CPU = 16384, 512
# Tags whose descriptions are reweighted per call: 50 of each, in float32, fit into a core's cache.
_REWEIGHT_CHUNK, _REWEIGHT_CHUNK_ON_CPU = 1024, 32


class TorchRuntime(Runtime):
    """Run a network without gradients.

    A read-only table of queries that is used again stays on the device in its stored dtype: that of RAM++
    takes 0.25 GB or 0.5 GB.

    Args:
        network: the network; it is set to evaluation mode and moved to the device.
        device: torch's name of the device, such as "cuda"; that of the weights by default.
        precision: of matrix products; norms, softmax and sums stay in float32. On a CPU only the MLPs of a
            cross decoder are quantised, four fifths of its work; int8 is for CPUs only.
        load_head: loads the network's "captions" or "alignment" head if that has not been done yet.

    Raises:
        DeviceError: the device is not available, or does not support the precision.
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
            _require_device(device)
            self.network.to(device)
        if precision == "int8" and self._on_gpu:
            raise DeviceError("precision 'int8' is for CPUs only: leave it out, or give 'bfloat16'")
        self.precision = precision
        self._table: tuple[Rows, Tensor] | None = None
        self._load_head, self._lock = load_head, Lock()

    @property
    def device(self) -> str:
        """torch's name of the device of the weights, such as "cpu" or "cuda:0"."""
        return str(next(self.network.parameters()).device)

    @property
    def provider(self) -> str:
        """Name and version of the library that runs the network."""
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
                "this model has no alignment heads: train some with anytag train tag2text-retrieval"
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
        """Whether logits differ from those of `exact=True`."""
        fewer_bits = self._on_gpu or isinstance(self.network.decoder, CrossDecoder)
        return fewer_bits and self.precision != "float32"

    def _score(self, tokens: Floats, pooled: Floats, queries: Rows, *, exact: bool) -> Floats:
        with torch.inference_mode():
            image, rows = (self._tensor(tokens), self._tensor(pooled)), self._queries(queries)
            decoder = self.network.decoder
            if isinstance(decoder, CrossDecoder):
                return _array(self._cross(decoder, *image, rows, exact=exact))
            with self._autocast(exact=exact):
                return _array(decoder(*image, rows.float()))

    def _cross(
        self, decoder: CrossDecoder, tokens: Tensor, pooled: Tensor, rows: Tensor, *, exact: bool
    ) -> Tensor:
        """Logits N×K, computed in chunks of tags."""
        max_pairs, reweight_chunk = (
            (_MAX_PAIRS, _REWEIGHT_CHUNK) if tokens.is_cuda else (_MAX_PAIRS_ON_CPU, _REWEIGHT_CHUNK_ON_CPU)
        )
        module: Any = decoder
        if not tokens.is_cuda:
            module = FoldedCross(decoder) if exact else self._folded
        with self._autocast(exact=exact):
            memories = module.project_kv(tokens)
        logits = []
        for part in torch.split(rows, max(1, max_pairs // len(tokens)), dim=1):
            # in float32: the softmax's low temperature amplifies small differences between descriptions
            chunks = torch.split(part, reweight_chunk, dim=1)
            queries = torch.cat([decoder.embed(pooled, chunk.float()) for chunk in chunks], 1)
            with self._autocast(exact=exact):
                decoded = module.decode(queries, memories)
            logits.append(decoder.to_logits(decoded.float(), part))
        return torch.cat(logits, 1)

    @cached_property
    def _folded(self) -> FoldedCross:
        """The cross decoder in the form for CPUs; its weights are quantised once."""
        assert isinstance(self.network.decoder, CrossDecoder)
        return FoldedCross(
            self.network.decoder, rounding=None if self.precision == "float32" else self.precision
        )

    def _locate(self, tokens: Floats, pooled: Floats, queries: Rows) -> Floats:
        inputs = self._tensor(tokens), self._tensor(pooled), self._queries(queries).float()
        with torch.inference_mode(), self._autocast():
            return _array(self.network.decoder.localize(*inputs)[1])

    def _autocast(self, *, exact: bool = False) -> torch.autocast:
        """bfloat16 autocast on a GPU; on a CPU it is disabled, as only MLPs are quantised there."""
        enabled = self._on_gpu and self.precision != "float32" and not exact
        return torch.autocast("cuda", torch.bfloat16, enabled=enabled)

    @property
    def _on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    def _queries(self, queries: Rows) -> Tensor:
        """The queries on the device; a writable array is copied each time, a read-only one is cached."""
        if queries.flags.writeable:
            return self._tensor(queries)
        if self._table is None or not _same_memory(self._table[0], queries):
            self._table = (queries, self._tensor(queries))
        return self._table[1]

    def _tensor(self, array: Array) -> Tensor:
        """The array on the device; on the CPU it shares memory, which is never written to."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the array may be read-only
            return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)


def _same_memory(one: Rows, other: Rows) -> bool:
    """Whether both are the same view of the same memory."""
    first, second = one.__array_interface__, other.__array_interface__
    return all(first[key] == second[key] for key in ("data", "shape", "typestr", "strides"))


def _require_device(device: str) -> None:
    """Raise a DeviceError if the device is not available."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        reason = str(error).partition("\n")[0]
        raise DeviceError(
            f"device {device!r} was requested and is not available ({reason}); use 'cpu'"
        ) from error


def _array(tensor: Tensor) -> Floats:
    array: Floats = tensor.float().cpu().numpy()
    return array
