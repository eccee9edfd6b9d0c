"""How learning rates rise and fall."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Fall = Literal["cosine", "epoch-cosine", "epoch-decay"]


@dataclass(frozen=True)
class Schedule:
    """How the rate goes; its peak, the steps of its rise and the epochs are the recipe's own.

    Attributes:
        fall: "cosine" falls with every step, "epoch-cosine" after each epoch (the published fine-tunes);
            "epoch-decay" multiplies by `decay` after each epoch (the published pretraining).
        least: the rate does not fall below.
        warmup_rate: where the rise starts.
    """

    fall: Fall = "cosine"
    least: float = 0.0
    warmup_rate: float = 0.0
    decay: float = 0.9

    def learning_rate(self, step: int, *, rate: float, warmup: int, total: int, per_epoch: int) -> float:
        """The rate at a step, counted from 0.

        Args:
            rate: its peak.
            warmup: steps of its rise.
            total, per_epoch: steps of the run, and of an epoch.
        """
        if self.fall == "cosine":  # its rise has a value for every step: the first is not for nothing
            part = min(1.0, (step + 1) / max(1, warmup))
            fallen = cosine(step, last=total, first=rate, least=self.least)
            return self.warmup_rate + (fallen - self.warmup_rate) * part
        epoch = step // per_epoch
        if self.fall == "epoch-cosine":
            fallen = cosine(epoch, last=-(-total // per_epoch), first=rate, least=self.least)
        else:
            fallen = step_decay(epoch, first=rate, least=self.least, decay=self.decay)
        if not warmup:
            return fallen
        return min(fallen, warmup_line(step, steps=warmup, start=self.warmup_rate, first=rate))


def step_decay(epoch: int, *, first: float, least: float, decay: float) -> float:
    """`first`, times `decay` after each epoch, but `least` at least."""
    return max(least, first * decay**epoch)


def warmup_line(step: int, *, steps: int, start: float, first: float) -> float:
    """A straight line from `start` to `first` in `steps` steps, then `first`."""
    return min(first, start + (first - start) * step / steps)


def cosine(at: int, *, last: int, first: float, least: float) -> float:
    """Half a cosine from `first` at 0 to `least` at `last`, and from there on."""
    return least + (first - least) * 0.5 * (1 + math.cos(math.pi * min(at, last) / last))
