"""Sums and gatherings over all processes of a run; of one process they are the thing itself."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def mean_over_ranks(x: Tensor) -> Tensor:
    """The mean of a tensor over all processes, without a gradient."""
    if processes() == 1:
        return x.detach()
    whole = x.detach().clone()
    dist.all_reduce(whole)
    return whole / processes()


class _Gather(torch.autograd.Function):
    """Forward: every process's rows. Backward: what all processes' losses say of this process's rows."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        whole = gradients[0].contiguous().clone()
        dist.all_reduce(whole)
        return whole.chunk(dist.get_world_size())[dist.get_rank()]


def gather(x: Tensor) -> Tensor:
    """The rows of all processes, in the order of their ranks, with the gradient: n×... -> world·n×...

    Every process must have as many rows. Where each process's loss is a mean over its own photos and
    gradients are averaged, as DDP does, the result is the gradient of the mean over all photos.
    """
    if processes() == 1:
        return x
    gathered: Tensor = _Gather.apply(x)
    return gathered
