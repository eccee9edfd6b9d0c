"""Calibrated scores -> thresholds, for a goal that a person can name: the best F1, or a precision."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anytag.errors import AnytagError
from anytag.torch.training.calibration import fit_common_threshold

Floats = npt.NDArray[np.floating]

GRID = np.round(np.arange(0.05, 0.96, 0.01), 2)
PRIOR = 4.0
"""What the calibrated scores promise counts as much as so many photos of a tag."""


@dataclass(frozen=True)
class Goal:
    """What thresholds are for: the best F1 of each tag, or a precision of all that is given.

    The latter has one threshold for all tags: the lowest with which, of all tags given, so many are right.
    """

    precision: float | None = None

    @classmethod
    def parse(cls, text: str) -> Goal:
        """ "f1" or "precision=0.8".

        Raises:
            AnytagError: anything else.
        """
        name, _, number = text.partition("=")
        if text == "f1":
            return cls()
        try:
            wanted = float(number)
        except ValueError:
            wanted = 0.0
        if name != "precision" or not 0 < wanted < 1:
            raise AnytagError(f"the goal {text!r} is unknown: give f1, or precision=0.8 (between 0 and 1)")
        return cls(wanted)

    def __str__(self) -> str:
        return "best F1" if self.precision is None else f"precision of {self.precision:g}"

    def fit(self, scores: Floats, truth: Floats) -> npt.NDArray[np.float64]:
        """Thresholds K in [0.01, 0.99] of calibrated probabilities N×K and truth N×K in [0, 1]."""
        if self.precision is None:
            return best_f1_thresholds(scores, truth)
        common = fit_common_threshold(scores, truth, precision=self.precision)
        return np.full(scores.shape[1], common)


def best_f1_thresholds(scores: Floats, truth: Floats, *, prior: float = PRIOR) -> npt.NDArray[np.float64]:
    """For every tag the threshold with the best estimated F1.

    Right tags are estimated as a mix of those counted and those that the calibrated scores promise, the
    latter worth `prior` present photos: a threshold is not hung on a single photo. Of equal ones the middle.

    Args:
        scores: N×K calibrated probabilities.
        truth: N×K in [0, 1].

    Returns:
        K thresholds in [0.05, 0.95].
    """
    thresholds = np.full(scores.shape[1], 0.5)
    for tag in range(scores.shape[1]):
        order = np.argsort(-scores[:, tag])
        p, y = scores[order, tag], truth[order, tag]
        given = np.searchsorted(-p, -GRID, side="right")  # photos at or above each threshold
        share = prior / (prior + y.sum())
        blend = np.concatenate([[0], (share * p + (1 - share) * y).cumsum()])
        f1 = 2 * blend[given] / np.maximum(given + blend[-1], 1e-9)
        if f1.max() > 0:
            best = np.flatnonzero(f1 >= f1.max() - 1e-12)
            thresholds[tag] = GRID[best[len(best) // 2]]
    return thresholds
