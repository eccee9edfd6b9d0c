"""Chunked loss: forward and backward pass per chunk of tags, so activation memory is that of one chunk.

The backward pass of a chunk follows its forward pass. Unlike gradient checkpointing, nothing is computed
twice; the gradients are those of the whole sum. Terms of different chunks must be independent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

F = TypeVar("F", bound=Callable[..., Any])
Loss = Callable[..., Tensor]
"""(index of a chunk, the chunk, *shared tensors) -> a scalar."""


def chunked_sum(
    loss: Loss,
    pieces: Sequence[Tensor],
    shared: Sequence[Tensor],
    *,
    learned: Sequence[Tensor] = (),
    scale: float = 1.0,
) -> Tensor:
    """The sum of loss(index, chunk, *shared) over the chunks, a scalar in float32.

    Args:
        loss: a function without side effects.
        pieces, shared: the chunks, and the tensors that all of them use.
        learned: parameters that the loss uses.
        scale: factor of the gradients during the backward pass, against underflow in float16.
    """
    everything = (*shared, *pieces, *learned)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in everything):
        total: Tensor = _ChunkedSum.apply(loss, len(shared), len(pieces), scale, *everything)
        return total
    return torch.stack([loss(n, piece, *shared).float() for n, piece in enumerate(pieces)]).sum()


def _not_compiled(function: F) -> F:
    """Exclude a function, but not the loss it calls, from torch.compile, which cannot trace gradients."""
    excluded: F = torch.compiler.disable(function, recursive=False)  # type: ignore[no-untyped-call]
    return excluded


class _ChunkedSum(torch.autograd.Function):
    """Forward: the sum and its gradients. Backward: these gradients times the upstream gradient."""

    @staticmethod
    @_not_compiled
    def forward(ctx: Any, loss: Loss, shares: int, count: int, scale: float, *tensors: Tensor) -> Tensor:
        # Inputs are detached from the graph they come from; parameters are used directly.
        detached = [x.detach().requires_grad_(x.requires_grad) for x in tensors[: shares + count]]
        shared, learned = detached[:shares], range(shares + count, len(tensors))
        sums: dict[int, Tensor] = {}
        total = torch.zeros((), device=tensors[0].device)
        for number, piece in enumerate(detached[shares:]):
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


@_not_compiled
def _add(sums: dict[int, Tensor], at: int, gradient: Tensor | None) -> None:
    """Add a gradient to its sum, which is float32 under autocast too."""
    if gradient is None:
        return
    if at in sums:
        sums[at] += gradient
    else:
        sums[at] = gradient.to(torch.float32, copy=True)  # the gradient may share memory with another one
