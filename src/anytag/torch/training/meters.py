"""Meters of a run: means of its figures, throughput, time spent waiting for data."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor


class Means:
    """Running means of figures, on their device and without synchronisation."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, figures: Mapping[str, Tensor]) -> None:
        """Add the figures of one step; all steps must have the same names."""
        self.count += 1
        for name, value in figures.items():
            value = value.detach().float()
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def take(self) -> dict[str, Tensor]:
        """Means of the figures added since the last call; {} if there are none."""
        means = {name: value / self.count for name, value in self.sums.items()}
        self.sums, self.count = {}, 0
        return means


class Clock:
    """Measures throughput and the time spent waiting for data."""

    def __init__(self, step: int) -> None:
        self.saved = self.begun = time.monotonic()
        self.step, self.waited = step, 0.0

    def next_batch(self, stream: Iterator[Any]) -> Any:
        """The next batch of the stream, None at its end; adds the waiting time."""
        start = time.monotonic()
        batch = next(stream, None)
        self.waited += time.monotonic() - start
        return batch

    def since_save(self) -> float:
        return time.monotonic() - self.saved

    def lap(self, step: int, batch_size: int) -> tuple[float, float]:
        """Photos per second, and the fraction of time spent waiting for data, since the last lap."""
        now = time.monotonic()
        took, steps, waited = max(now - self.begun, 1e-9), step - self.step, self.waited
        self.begun, self.step, self.waited = now, step, 0.0
        return steps * batch_size / took, waited / took
