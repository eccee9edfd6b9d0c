"""Learning rates as the published recipes let them fall, and the numbers of those recipes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

# Training normalises as CLIP does, inference as ImageNet's networks do (`anytag.nn.families`).
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class PublishedRecipe:
    """One published training run.

    Attributes:
        batch: photos a step and GPU; there were 8.
        warmup_steps: of the first epoch, in which the rate rises from `warmup_rate`.
        decay: factor after each epoch.
        fall: how the rate falls.
    """

    size: int
    batch: int
    epochs: int
    rate: float
    least: float
    fall: Literal["steps", "cosine"]
    warmup_steps: int = 0
    warmup_rate: float = 0.0
    decay: float = 1.0
    weight_decay: float = 0.05

    def learning_rate(self, epoch: int, step: int) -> float:
        """The rate at a step of an epoch; both count from 0."""
        if self.fall == "cosine":
            return cosine(epoch, epochs=self.epochs, first=self.rate, least=self.least)
        if epoch == 0 and self.warmup_steps:
            return warmup(step, steps=self.warmup_steps, start=self.warmup_rate, first=self.rate)
        return step_decay(epoch, first=self.rate, least=self.least, decay=self.decay)


def step_decay(epoch: int, *, first: float, least: float, decay: float) -> float:
    """`first`, times `decay` after each epoch, but `least` at least."""
    return max(least, first * decay**epoch)


def warmup(step: int, *, steps: int, start: float, first: float) -> float:
    """A straight line from `start` to `first` in `steps` steps, then `first`."""
    return min(first, start + (first - start) * step / steps)


def cosine(epoch: int, *, epochs: int, first: float, least: float) -> float:
    """Half a cosine from `first` at epoch 0 to `least` at `epochs`."""
    return least + (first - least) * 0.5 * (1 + math.cos(math.pi * epoch / epochs))


def _pretrain(batch: int) -> PublishedRecipe:
    return PublishedRecipe(
        size=224,
        batch=batch,
        epochs=5,
        rate=1e-4,
        least=5e-7,
        fall="steps",
        warmup_steps=3000,
        warmup_rate=5e-7,
        decay=0.9,
    )


def _finetune(batch: int) -> PublishedRecipe:
    return PublishedRecipe(size=384, batch=batch, epochs=2, rate=5e-6, least=0.0, fall="cosine")


PRETRAIN = {"tag2text": _pretrain(80), "ram": _pretrain(52), "ram-plus": _pretrain(52)}
FINETUNE = {"tag2text": _finetune(36), "ram": _finetune(26), "ram-plus": _finetune(26)}
