"""A caption head's graphs: caption_memory.onnx, run once a photo, and caption.onnx, run once a wordpiece."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from anytag.errors import ModelError
from anytag.runtime.onnx import CAPTION, MEMORY, open_session
from anytag.torch.captions import Head
from anytag.torch.export.dynamic_int8 import SMALL
from anytag.torch.export.onnx_graphs import export_graph
from anytag.torch.export.parity import check_parity
from anytag.torch.nn.quantized_linear import quantized
from anytag.torch.nn.small_caption_head import GuidedHead

INNER = 2e-3
"""What keys, values and logits may differ by, as a share of the largest. Float32 sums in another order differ
the more, the more layers and numbers there are: 2.3e-4 were seen of a correct Tag2Text."""
MARGIN = 0.05
"""Logits that differ by less than a twentieth of the usual distance change words in near ties only."""
WORDS = 8


class _Memory(nn.Module):
    """Tags and photo -> what every step looks at."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, tag_ids: Tensor, tag_mask: Tensor, tokens: Tensor) -> Tensor:
        return self.head.project_kv(self.head.encode_tags(tag_ids, tag_mask, tokens))


class _Step(nn.Module):
    """Some wordpieces more -> scores of the next one alone."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, ids: Tensor, memory: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        return self.head.go_on(ids, memory, past)


def export_caption_graphs(head: Head, folder: Path, *, tokens: tuple[int, int]) -> float:
    """Writes both graphs in float32 and compares them with the head.

    ``tag_ids`` and ``tag_mask`` int64 N×S, ``tokens`` N×T×D -> ``memory`` L×2×N×H×M×d; then ``ids`` int64
    N×I, ``memory``, ``past`` L×2×N×H×P×d -> ``logits`` N×V of what comes after the last id, ``grown``
    L×2×N×H×(P+I)×d, the next ``past``. N, S, I, P and M are free; P of 0 starts a text. T is free but for a
    `GuidedHead`, which knows each token by its place.

    Args:
        head: on the CPU, in evaluation mode.
        folder: where to write.
        tokens: T and D, of a photo; where T is free, any will do.

    Returns:
        the largest difference from the head, as `check_parity` gives it.

    Raises:
        ModelError: a graph and the head differ by more than rounding, or so much that words would.
    """
    memory, step, length = _Memory(head).eval(), _Step(head).eval(), head.config.tag_length
    axes = {"tag_ids": "NS", "tag_mask": "NS", "tokens": "NTD", "memory": "L2NHMd"}
    free = "NSM" if isinstance(head, GuidedHead) else "NSTM"
    export_graph(memory, folder / MEMORY, _example(head, 2, length, tokens), axes, free=free)
    examples = [_example(head, 1, length, tokens), _example(head, 3, length - 2, tokens)]
    worst = check_parity(memory, folder / MEMORY, examples, tolerance=INNER)
    axes = {"ids": "NI", "memory": "L2NHMd", "past": "L2NHPd", "logits": "NV", "grown": "L2NHGd"}
    export_graph(step, folder / CAPTION, _going_on(head, 2, read=3, more=4), axes, free="NIMPG")
    batches = [
        _going_on(head, n, read=read, more=more) for n, read, more in ((1, 0, 4), (3, 0, 1), (5, 6, 1))
    ]
    worst = max(worst, check_parity(step, folder / CAPTION, batches, tolerance=INNER))
    check_words(head, folder, examples)
    return worst


@torch.no_grad()
def check_words(head: Head, folder: Path, examples: Sequence[tuple[Tensor, ...]]) -> float:
    """Whether both graphs together choose the head's words: memory and logits, through a whole text.

    Args:
        examples: what memory is made of, once for every comparison.

    Returns:
        the largest difference of a logit, as a share of the usual distance of the best word from the next.

    Raises:
        ModelError: it is above MARGIN.
    """
    memory, step = (open_session(folder / name) for name in (MEMORY, CAPTION))
    apart, distances = [], []
    for arguments in examples:
        names = (node.name for node in memory.get_inputs())
        (memory_kv,) = memory.run(None, {name: x.numpy() for name, x in zip(names, arguments, strict=True)})
        expected = _Memory(head)(*arguments)
        past = torch.zeros(*expected.shape[:4], 0, expected.shape[-1])
        cache, ids = past.numpy(), arguments[0][:, :1]
        for _ in range(WORDS):
            fed = {"ids": ids.numpy(), "memory": memory_kv, "past": cache}
            actual, cache = step.run(None, fed)
            logits, past = head.go_on(ids, expected, past)
            best = logits.topk(2, dim=-1)
            apart.append((logits - torch.from_numpy(actual)).abs().max())
            distances.append(best.values[:, 0] - best.values[:, 1])
            ids = best.indices[:, :1]
    worst = float(torch.stack(apart).max() / torch.cat(distances).median().clamp_min(1e-12))
    if not worst <= MARGIN:  # not a number is a difference too
        raise ModelError(
            f"{folder}: logits of graph and network differ by {worst:.2g} of the usual distance of the best "
            f"word from the next, allowed are {MARGIN:g}: captions would differ"
        )
    return worst


def _example(head: Head, photos: int, length: int, tokens: tuple[int, int]) -> tuple[Tensor, ...]:
    """Random tags, the last half of them padding, and random photos."""
    random = torch.Generator().manual_seed(photos)
    ids = torch.randint(1, head.config.words, (photos, length), generator=random)
    mask = (torch.arange(length) < max(2, length // 2)).long().repeat(photos, 1)
    return ids * mask, mask, torch.randn(photos, *tokens, generator=random)


def _going_on(head: Head, texts: int, *, read: int, more: int) -> tuple[Tensor, ...]:
    """Random keys and values of `read` wordpieces, and `more` wordpieces."""
    c, random = head.config, torch.Generator().manual_seed(texts)
    shape = (c.layers, 2, texts, c.heads)
    memory, past = (
        torch.randn(*shape, n, c.width // c.heads, generator=random) for n in (c.tag_length + 3, read)
    )
    return torch.randint(1, c.words, (texts, more), generator=random), memory, past


@torch.no_grad()
def fake_quantize(head: Head) -> None:
    """Rounds every matrix of a head to what `quantize_weights` stores: 255 levels a row."""
    for parameter in head.parameters():
        if parameter.ndim == 2 and parameter.numel() >= SMALL:
            levels, scale = quantized(parameter)
            parameter.copy_(levels * scale)
