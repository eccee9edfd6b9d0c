"""Learning rate schedules."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Fall = Literal["cosine", "epoch-cosine", "epoch-decay"]


@dataclass(frozen=True)
class Schedule:
    """A learning rate schedule; peak rate, warmup steps and epochs are fields of the recipe.

    Attributes:
        fall: "cosine" decays at every step, "epoch-cosine" after each epoch (the published fine-tunes);
            "epoch-decay" multiplies by `decay` after each epoch (the published pretraining).
        least: minimum rate.
        warmup_rate: rate at the start of the warmup.
        decay: factor per epoch of "epoch-decay".
    """

    fall: Fall = "cosine"
    least: float = 0.0
    warmup_rate: float = 0.0
    decay: float = 0.9

    def learning_rate(self, step: int, *, rate: float, warmup: int, total: int, per_epoch: int) -> float:
        """The rate at a step, counted from 0.

        Args:
            rate: peak rate.
            warmup: number of warmup steps.
            total, per_epoch: number of steps of the run, and of an epoch.
        """
        if self.fall == "cosine":  # the warmup starts at step + 1, so the first step is not wasted at rate 0
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
        return min(fallen, linear_warmup(step, steps=warmup, start=self.warmup_rate, first=rate))


def step_decay(epoch: int, *, first: float, least: float, decay: float) -> float:
    """`first` times `decay` per epoch, with the lower bound `least`."""
    return max(least, first * decay**epoch)


def linear_warmup(step: int, *, steps: int, start: float, first: float) -> float:
    """Linear from `start` to `first` in `steps` steps, then constant."""
    return min(first, start + (first - start) * step / steps)


def cosine(at: int, *, last: int, first: float, least: float) -> float:
    """Half a cosine from `first` at 0 to `least` at `last`, then constant."""
    return least + (first - least) * 0.5 * (1 + math.cos(math.pi * min(at, last) / last))
