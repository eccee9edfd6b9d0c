"""What a run measures of itself: means of its figures, and where the time goes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor


class Means:
    """Sums of figures on their device, without waiting for it."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, figures: Mapping[str, Tensor]) -> None:
        """One step's; every step has the same names."""
        self.count += 1
        for name, value in figures.items():
            value = value.detach().float()
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def take(self) -> dict[str, Tensor]:
        """Means of what was added since this was called; nothing where nothing was."""
        means = {name: value / self.count for name, value in self.sums.items()}
        self.sums, self.count = {}, 0
        return means


class Clock:
    """Where the time goes."""

    def __init__(self, step: int) -> None:
        self.saved = self.begun = time.monotonic()
        self.step, self.waited = step, 0.0

    def waiting(self, stream: Iterator[Any]) -> Any:
        """The next of the stream, None after the last, and how long that took."""
        start = time.monotonic()
        batch = next(stream, None)
        self.waited += time.monotonic() - start
        return batch

    def since_save(self) -> float:
        return time.monotonic() - self.saved

    def lap(self, step: int, batch_size: int) -> tuple[float, float]:
        """Photos a second, and the part of the time that was spent waiting for data, since the last lap."""
        now = time.monotonic()
        took, steps, waited = max(now - self.begun, 1e-9), step - self.step, self.waited
        self.begun, self.step, self.waited = now, step, 0.0
        return steps * batch_size / took, waited / took
