"""Chunked loss: forward and backward per chunk of tags, so activation memory is that of one chunk.

Each chunk's backward pass follows its forward pass. Nothing is computed twice, unlike gradient checkpointing,
and the gradients are those of the whole sum. Terms of different chunks must be independent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

F = TypeVar("F", bound=Callable[..., Any])
Loss = Callable[..., Tensor]
"""(number of a piece, the piece, what all share...) -> a scalar."""


def chunked_sum(
    loss: Loss,
    pieces: Sequence[Tensor],
    shared: Sequence[Tensor],
    *,
    learned: Sequence[Tensor] = (),
    scale: float = 1.0,
) -> Tensor:
    """The sum of loss(number, piece, *shared) over the pieces, a scalar in float32.

    Args:
        loss: without side effects.
        pieces, shared: what it is computed from.
        learned: the parameters that it uses beside those.
        scale: what gradients are multiplied with on the way, against underflow in float16.
    """
    everything = (*shared, *pieces, *learned)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in everything):
        total: Tensor = _ChunkedSum.apply(loss, len(shared), len(pieces), scale, *everything)
        return total
    return torch.stack([loss(n, piece, *shared).float() for n, piece in enumerate(pieces)]).sum()


def _by_itself(function: F) -> F:
    """torch.compile leaves it alone, but not the loss that it calls: gradients cannot be traced."""
    left: F = torch.compiler.disable(function, recursive=False)  # type: ignore[no-untyped-call]
    return left


class _ChunkedSum(torch.autograd.Function):
    """Forward: the sum and its gradients. Backward: those times the upstream gradient."""

    @staticmethod
    @_by_itself
    def forward(ctx: Any, loss: Loss, shares: int, count: int, scale: float, *tensors: Tensor) -> Tensor:
        # Apart from the graph that the tensors come from; parameters are used where they lie.
        apart = [x.detach().requires_grad_(x.requires_grad) for x in tensors[: shares + count]]
        shared, learned = apart[:shares], range(shares + count, len(tensors))
        sums: dict[int, Tensor] = {}
        total = torch.zeros((), device=tensors[0].device)
        for number, piece in enumerate(apart[shares:]):
            used = dict(enumerate(shared)) | {shares + number: piece} | {at: tensors[at] for at in learned}
            used = {at: x for at, x in used.items() if x.requires_grad}
            with torch.enable_grad():
                part = loss(number, piece, *shared)
                found = torch.autograd.grad(part * scale, list(used.values()), allow_unused=True)
            for at, gradient in zip(used, found, strict=True):
                _add(sums, at, gradient)
            total += part.detach()
        ctx.scale = scale
        ctx.gradients = [sums[at].to(x.dtype) if at in sums else None for at, x in enumerate(tensors)]
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        factor = factor / ctx.scale
        return None, None, None, None, *(g if g is None else g.mul_(factor) for g in gradients)


@_by_itself
def _add(sums: dict[int, Tensor], at: int, gradient: Tensor | None) -> None:
    """Sums are kept in float32, whatever autocast computes with."""
    if gradient is None:
        return
    if at in sums:
        sums[at] += gradient
    else:
        sums[at] = gradient.to(torch.float32, copy=True)  # it may be another one's too
