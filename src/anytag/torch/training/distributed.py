"""Collective operations over all processes of a run; with one process they return their argument."""

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
    """Number of processes of the run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def join() -> int:
    """Initialise the process group, as accelerate would do later, and return the number of processes."""
    PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
    return processes()


def process_index() -> int:
    """Rank of this process, from 0."""
    return dist.get_rank() if processes() > 1 else 0


def from_main_process(make: Callable[[], T]) -> T:
    """Call `make` in the main process and return its result in all processes.

    It is used for everything that is computed from data at the start of a run, so that all processes agree.

    Args:
        make: returns something that can be pickled; it runs, and writes, in the main process only.

    Raises:
        AnytagError: `make` raised one in the main process; it is raised in all.
    """
    if join() == 1:
        return make()
    outcome: list[tuple[T | None, AnytagError | None]] = [(None, None)]
    if process_index() == 0:
        try:
            outcome = [(make(), None)]
        except AnytagError as error:
            outcome = [(None, error)]
        except Exception as error:  # otherwise the other processes would wait forever
            outcome = [(None, AnytagError(f"{type(error).__name__}: {error}"))]
            dist.broadcast_object_list(outcome)
            raise
    dist.broadcast_object_list(outcome)
    result, failed = outcome[0]
    if failed is not None:
        raise failed
    return result  # type: ignore[return-value]  # not None without an error


def gather_tally(tally: Tally) -> Tally:
    """The joined tally of all processes in the main process, an empty one in the others."""
    if processes() == 1:
        return tally
    joined = Tally()
    for one in gather_object([tally]):
        if process_index() == 0:
            joined.join(one)
    return joined


def check_precision(precision: str) -> None:
    """Check that the device of this process supports the precision.

    Raises:
        AnytagError: it does not.
    """
    join()
    if precision == "fp16" and PartialState().device.type == "cpu":
        raise AnytagError(
            "precision=fp16 needs a GPU, but there is none: give precision=bf16 or precision=no"
        )


def mean_over_ranks(x: Tensor) -> Tensor:
    """The mean of a tensor over all processes, without a gradient."""
    if processes() == 1:
        return x.detach()
    total = x.detach().clone()
    dist.all_reduce(total)
    return total / processes()


class _Gather(torch.autograd.Function):
    """Forward: rows of all processes. Backward: sum of all processes' gradients of this process's rows."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]


def gather(x: Tensor) -> Tensor:
    """Gather the rows of all processes by rank, differentiably: n×... -> world·n×...

    All processes must have equally many rows. If each process's loss is a mean over its own photos and
    gradients are averaged, as in DDP, the result is the gradient of the mean over all photos.
    """
    if processes() == 1:
        return x
    gathered: Tensor = _Gather.apply(x)
    return gathered
