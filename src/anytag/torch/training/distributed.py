"""Sums and gatherings over all processes of a run; of one process they are the thing itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import gather_object, parse_flag_from_env
from torch import Tensor

from anytag.errors import AnytagError
from anytag.torch.training.report import Tally

T = TypeVar("T")


def processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def join() -> int:
    """Joins the processes that were launched together, as accelerate does later anyway; how many they are."""
    PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
    return processes()


def process_index() -> int:
    """Which of them this one is, from 0."""
    return dist.get_rank() if processes() > 1 else 0


def from_first(make: Callable[[], T]) -> T:
    """What `make` gives in the first process, in all of them: the others wait and get a copy.

    Whatever is made of data when a run begins is made so, as all processes must learn from the same.

    Args:
        make: gives something that can be pickled; what it writes, the first process writes alone.

    Raises:
        AnytagError: what the first process raised, in all.
    """
    if join() == 1:
        return make()
    outcome: list[tuple[T | None, AnytagError | None]] = [(None, None)]
    if process_index() == 0:
        try:
            outcome = [(make(), None)]
        except AnytagError as error:
            outcome = [(None, error)]
        except Exception as error:  # the others would wait for ever
            outcome = [(None, AnytagError(f"{type(error).__name__}: {error}"))]
            dist.broadcast_object_list(outcome)
            raise
    dist.broadcast_object_list(outcome)
    result, failed = outcome[0]
    if failed is not None:
        raise failed
    return result  # type: ignore[return-value]  # there is one where nothing failed


def everyones(mine: Tally) -> Tally:
    """What all processes passed over, in the first; the others have nothing to say."""
    if processes() == 1:
        return mine
    whole = Tally()
    for one in gather_object([mine]):
        if process_index() == 0:
            whole.join(one)
    return whole


def check_precision(precision: str) -> None:
    """Whether the device of this process can train so.

    Raises:
        AnytagError: it cannot; says what can.
    """
    join()
    if precision == "fp16" and PartialState().device.type == "cpu":
        raise AnytagError("precision=fp16 needs a GPU, and there is none: give precision=bf16, or no")


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
