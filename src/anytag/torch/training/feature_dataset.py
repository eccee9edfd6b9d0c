"""Dataset of cached features."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from torch import Tensor

from anytag._typing import Ints
from anytag.torch.training.batch import Batch
from anytag.torch.training.dataset import check_batch
from anytag.torch.training.report import Tally


class Samples(Protocol):
    """Samples from cached features: views with tags, or captions.

    Attributes:
        key: hash of rows and tags.
    """

    @property
    def key(self) -> str: ...

    def __len__(self) -> int: ...

    def order(self, draw: np.random.Generator, batch_size: int) -> Ints:
        """Indices of the samples of an epoch, steps×batch_size."""

    def batch(self, numbers: Ints, *, draw: np.random.Generator) -> Batch:
        """The batch of some samples."""


class FeatureDataset:
    """The batches of one process, from samples in memory or in mapped files.

    Args:
        batch_size: samples per step over all processes.
        parts: number of parts of a step, over processes and gradient accumulation.
    """

    truth = None
    tallies: tuple[Tally, ...] = ()

    def __init__(
        self, samples: Samples, *, batch_size: int, seed: int, rank: int = 0, world: int = 1, parts: int = 1
    ) -> None:
        self.samples, self.batch_size, self.seed = samples, batch_size, seed
        self.rank, self.world, self.parts = rank, world, parts

    @property
    def key(self) -> str:
        """Hash of rows and tags."""
        return self.samples.key

    def steps_per_epoch(self) -> int:
        """Number of full batches; raises an AnytagError if there is none."""
        check_batch(len(self.samples), self.batch_size, parts=self.parts)
        return len(self.samples) // self.batch_size

    def stream(self, first: int, last: int) -> Iterator[Batch]:
        """This process's share of the batches from step `first` to `last`, exclusive."""
        while first < last:
            epoch, start = divmod(first, self.steps_per_epoch())
            order = self.samples.order(np.random.default_rng([self.seed, epoch]), self.batch_size)
            for at, numbers in enumerate(order[start:][: last - first], start):
                draw = np.random.default_rng([self.seed, epoch, at])
                yield self.samples.batch(numbers, draw=draw).take(slice(self.rank, None, self.world))
                first += 1

    def held_out(self, *, batch_size: int) -> Iterator[Tensor]:
        """No batches, since there are no photos."""
        return iter(())
