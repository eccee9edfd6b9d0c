"""Export a caption head: caption_memory.onnx, run per photo, and caption.onnx, run per wordpiece."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from anytag.errors import ModelError
from anytag.runtime.onnx import CAPTION, MEMORY, open_session
from anytag.torch.captions import Head
from anytag.torch.export.dynamic_int8 import MIN_QUANTIZED_SIZE
from anytag.torch.export.onnx_graphs import export_graph
from anytag.torch.export.parity import check_parity
from anytag.torch.nn.quantized_linear import quantized
from anytag.torch.nn.small_caption_head import GuidedHead

CACHE_TOLERANCE = 2e-3
"""Allowed difference of keys, values and logits, relative to the largest magnitude. Rounding differences of
float32 sums grow with layers and widths: a correct export of Tag2Text showed 2.3e-4."""
LOGIT_TOLERANCE = 0.05
"""Allowed difference of logits, relative to the median gap of the best two words: only near ties change."""
CHECKED_WORDS = 8


class _Memory(nn.Module):
    """Tags and photo -> keys and values of the decoder's memory."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, tag_ids: Tensor, tag_mask: Tensor, tokens: Tensor) -> Tensor:
        return self.head.project_kv(self.head.encode_tags(tag_ids, tag_mask, tokens))


class _Step(nn.Module):
    """Wordpieces and KV cache -> logits of the next wordpiece, and the extended cache."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, ids: Tensor, memory: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        return self.head.next_logits(ids, memory, past)


def export_caption_graphs(head: Head, folder: Path, *, tokens: tuple[int, int]) -> float:
    """Write both graphs in float32 and compare them with the head.

    ``tag_ids`` and ``tag_mask`` int64 N×S, ``tokens`` N×T×D -> ``memory`` L×2×N×H×M×d; then ``ids`` int64
    N×I, ``memory``, ``past`` L×2×N×H×P×d -> ``logits`` N×V after the last id, and ``grown``
    L×2×N×H×(P+I)×d, the next ``past``. N, S, I, P and M are dynamic; P = 0 starts a text. T is dynamic except
    for a `GuidedHead`, which has position embeddings for the image tokens.

    Args:
        head: the caption head, on the CPU, in evaluation mode.
        folder: the folder to write to.
        tokens: T and D; any T will do where T is dynamic.

    Returns:
        the largest difference from the head, as `check_parity` returns it.

    Raises:
        ModelError: a graph and the head differ by more than the tolerances.
    """
    memory, step, length = _Memory(head).eval(), _Step(head).eval(), head.config.tag_length
    axes = {"tag_ids": "NS", "tag_mask": "NS", "tokens": "NTD", "memory": "L2NHMd"}
    dynamic = "NSM" if isinstance(head, GuidedHead) else "NSTM"
    export_graph(memory, folder / MEMORY, _memory_inputs(head, 2, length, tokens), axes, dynamic=dynamic)
    examples = [_memory_inputs(head, 1, length, tokens), _memory_inputs(head, 3, length - 2, tokens)]
    worst = check_parity(memory, folder / MEMORY, examples, tolerance=CACHE_TOLERANCE)
    axes = {"ids": "NI", "memory": "L2NHMd", "past": "L2NHPd", "logits": "NV", "grown": "L2NHGd"}
    export_graph(step, folder / CAPTION, _step_inputs(head, 2, read=3, more=4), axes, dynamic="NIMPG")
    batches = [
        _step_inputs(head, n, read=read, more=more) for n, read, more in ((1, 0, 4), (3, 0, 1), (5, 6, 1))
    ]
    worst = max(worst, check_parity(step, folder / CAPTION, batches, tolerance=CACHE_TOLERANCE))
    check_words(head, folder, examples)
    return worst


@torch.no_grad()
def check_words(head: Head, folder: Path, examples: Sequence[tuple[Tensor, ...]]) -> float:
    """Check that the two graphs together predict the head's words, over `CHECKED_WORDS` steps.

    Args:
        examples: inputs of the memory graph, one tuple per comparison.

    Returns:
        the largest difference of a logit, relative to the median gap between the best word and the next.

    Raises:
        ModelError: it is above LOGIT_TOLERANCE.
    """
    memory, step = (open_session(folder / name) for name in (MEMORY, CAPTION))
    differences, gaps = [], []
    for arguments in examples:
        names = (node.name for node in memory.get_inputs())
        (memory_kv,) = memory.run(None, {name: x.numpy() for name, x in zip(names, arguments, strict=True)})
        expected = _Memory(head)(*arguments)
        past = torch.zeros(*expected.shape[:4], 0, expected.shape[-1])
        cache, ids = past.numpy(), arguments[0][:, :1]
        for _ in range(CHECKED_WORDS):
            feeds = {"ids": ids.numpy(), "memory": memory_kv, "past": cache}
            actual, cache = step.run(None, feeds)
            logits, past = head.next_logits(ids, expected, past)
            best = logits.topk(2, dim=-1)
            differences.append((logits - torch.from_numpy(actual)).abs().max())
            gaps.append(best.values[:, 0] - best.values[:, 1])
            ids = best.indices[:, :1]
    worst = float(torch.stack(differences).max() / torch.cat(gaps).median().clamp_min(1e-12))
    if not worst <= LOGIT_TOLERANCE:  # also true for NaN
        raise ModelError(
            f"{folder}: logits of graph and network differ by {worst:.2g} of the median gap between the best "
            f"word and the next (tolerance {LOGIT_TOLERANCE:g}): captions would differ"
        )
    return worst


def _memory_inputs(head: Head, photos: int, length: int, tokens: tuple[int, int]) -> tuple[Tensor, ...]:
    """Random tags, of which the second half is padding, and random image tokens."""
    random = torch.Generator().manual_seed(photos)
    ids = torch.randint(1, head.config.words, (photos, length), generator=random)
    mask = (torch.arange(length) < max(2, length // 2)).long().repeat(photos, 1)
    return ids * mask, mask, torch.randn(photos, *tokens, generator=random)


def _step_inputs(head: Head, texts: int, *, read: int, more: int) -> tuple[Tensor, ...]:
    """`more` random wordpieces, a random memory, and a random KV cache of `read` wordpieces."""
    c, random = head.config, torch.Generator().manual_seed(texts)
    shape = (c.layers, 2, texts, c.heads)
    memory, past = (
        torch.randn(*shape, n, c.width // c.heads, generator=random) for n in (c.tag_length + 3, read)
    )
    return torch.randint(1, c.words, (texts, more), generator=random), memory, past


@torch.no_grad()
def fake_quantize(head: Head) -> None:
    """Round every matrix of a head to the values that `quantize_weights` stores: 255 levels per row."""
    for parameter in head.parameters():
        if parameter.ndim == 2 and parameter.numel() >= MIN_QUANTIZED_SIZE:
            levels, scale = quantized(parameter)
            parameter.copy_(levels * scale)
