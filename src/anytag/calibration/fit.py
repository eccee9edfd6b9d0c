"""Fit each tag's calibration line and threshold to logits and labels.

The only implementation of calibration, used by `anytag calibrate`, `anytag finetune`, `anytag train` and the
release of `mini`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from anytag._typing import AnyFloats, Bools, Doubles, Ints
from anytag.errors import AnytagError, brief, is_number
from anytag.models.card import Platt
from anytag.scoring import propagate_to_broader, sigmoid

GRID = np.round(np.arange(0.05, 0.96, 0.01), 2)
PRIOR = 4.0
"""Weight of the labels expected from the calibrated scores, in photos of a tag."""
FOLDS = 4
_RIDGE = 1e-6
_MIN_SLOPE = 0.01
"""Keeps the slope positive: where labels and logits are unrelated, the order is never reversed."""
NO_PAIRS: Ints = np.zeros((0, 2), np.int64)


def probabilities(logits: AnyFloats, lines: Doubles, pairs: Ints = NO_PAIRS) -> Doubles:
    """Probabilities N×K from logits N×K and lines K×2; broader tags score at least as high as narrower ones.

    Args:
        pairs: E×2, pairs of a tag and a broader one.
    """
    scores = sigmoid(lines[:, 0] * logits + lines[:, 1]).astype(np.float64)
    propagate_to_broader(scores, pairs)
    return scores


def broader_pairs(broader: list[tuple[int, ...]]) -> Ints:
    """Convert the indices of each tag's broader tags to pairs of a tag and a broader one, E×2."""
    pairs = [(number, other) for number, above in enumerate(broader) for other in above]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


@dataclass(frozen=True)
class Goal:
    """The objective for thresholds: the best F1 of each tag, or a given precision of all predicted tags.

    The latter uses one threshold for all tags: the lowest that reaches the precision.

    Raises:
        AnytagError: `precision` is not between 0 and 1.
    """

    precision: float | None = None

    def __post_init__(self) -> None:
        if self.precision is not None and not (is_number(self.precision) and 0 < self.precision < 1):
            raise AnytagError(f"precision: expected a number between 0 and 1, got {brief(self.precision)}")

    @classmethod
    def parse(cls, text: str) -> Goal:
        """Parse "f1" or "precision=0.8".

        Raises:
            AnytagError: anything else.
        """
        name, _, number = text.partition("=")
        if text == "f1":
            return cls()
        try:
            precision = float(number)
        except ValueError:
            precision = 0.0
        if name != "precision" or not 0 < precision < 1:
            raise AnytagError(f"the goal {text!r} is unknown: give f1, or precision=0.8 (between 0 and 1)")
        return cls(precision)

    def __str__(self) -> str:
        return "best F1" if self.precision is None else f"precision of {self.precision:g}"

    def thresholds(
        self, scores: AnyFloats, truth: AnyFloats, *, weight: AnyFloats | Bools | None = None
    ) -> Doubles:
        """Fit K thresholds in [0.01, 0.99] to calibrated probabilities N×K and labels N×K in [0, 1].

        Args:
            weight: N×K, weight of each label; 1 by default.
        """
        if self.precision is None:
            return best_f1_thresholds(scores, truth, weight=weight)
        common = fit_common_threshold(scores, truth, precision=self.precision, weight=weight)
        return np.full(scores.shape[1], common)


def fit_tags(
    logits: AnyFloats,
    truth: AnyFloats,
    goal: Goal,
    *,
    pairs: Ints = NO_PAIRS,
    groups: npt.NDArray[Any] | None = None,
    weight: AnyFloats | Bools | None = None,
) -> tuple[Doubles, Doubles]:
    """Fit calibration lines and thresholds.

    For a goal of precision, the threshold is fitted to cross-validated scores, so that it holds for new
    photos.

    Args:
        logits: N×K, for photos that the tags were not trained on.
        truth: N×K, 0 or 1.
        pairs: E×2, pairs of a tag and a broader one.
        groups: K, tags whose logits have the same scale and share a slope; by default all.
        weight: N×K in [0, 1], confidence of the labels, 0 for unknown ones; 1 by default.

    Returns:
        slope and bias of each tag's logit, K×2, and K thresholds of the resulting probabilities.
    """
    weight = np.ones(logits.shape) if weight is None else weight
    lines = fit_lines(logits, truth, groups, weight=weight)
    if goal.precision is None:
        return lines, goal.thresholds(probabilities(logits, lines, pairs), truth, weight=weight)
    scores = np.zeros(logits.shape)
    fold = np.random.default_rng(1).permutation(len(scores)) % FOLDS
    for number in range(FOLDS):
        held_out = fold == number
        others = fit_lines(logits[~held_out], truth[~held_out], groups, weight=weight[~held_out])
        scores[held_out] = probabilities(logits[held_out], others, pairs)
    return lines, goal.thresholds(scores, truth, weight=weight)


def fit_lines(
    logits: AnyFloats,
    truth: AnyFloats,
    groups: npt.NDArray[Any] | None = None,
    *,
    weight: AnyFloats | Bools | None = None,
) -> Doubles:
    """Fit slope and bias of each tag's logit, K×2: one line per group, and an offset per tag.

    Labels are smoothed according to their number (Platt, 1999, section 2.2); otherwise a few perfectly
    separated photos would make every score 0 or 1.
    """
    weight = np.ones(logits.shape) if weight is None else weight.astype(np.float64)
    positives, negatives = (truth * weight).sum(), ((1 - truth) * weight).sum()
    truth = np.where(truth > 0.5, (positives + 1) / (positives + 2), 1 / (negatives + 2)).astype(np.float32)
    groups = np.zeros(logits.shape[1]) if groups is None else groups
    lines = np.zeros((len(groups), 2))
    for group in np.unique(groups):
        some = groups == group
        x, y, w = logits[:, some], truth[:, some], weight[:, some]
        line = fit_line(x, y, weight=w)
        offsets = fit_offsets(line.scale * x + line.bias, y, weight=w)
        lines[some, 0], lines[some, 1] = line.scale, line.bias + offsets
    return lines


def fit_line(
    logits: AnyFloats, truth: AnyFloats, *, weight: AnyFloats | None = None, steps: int = 30
) -> Platt:
    """Fit Platt scaling by Newton's method; a step that increases the loss is halved until it does not.

    Args:
        logits: any shape.
        truth: the same shape, in [0, 1]; soft labels if only a teacher's probability is known.
        weight: the same shape, weight of each entry; 1 by default.
    """
    x, y = logits.ravel().astype(np.float64), truth.ravel().astype(np.float64)
    counts = np.ones_like(x) if weight is None else weight.ravel().astype(np.float64)
    x, y, counts = x[counts > 0], y[counts > 0], counts[counts > 0]

    def loss(scale: float, bias: float) -> float:
        z = scale * x + bias
        return float((counts * (np.logaddexp(0, z) - y * z)).sum())

    a, b = 1.0, 0.0
    for _ in range(steps):
        p = sigmoid(a * x + b)
        w = counts * (p * (1 - p) + 1e-9)
        off = counts * (p - y)
        gradient = np.array([(off * x).sum(), off.sum()])
        hessian = np.array([[(w * x * x).sum(), (w * x).sum()], [(w * x).sum(), w.sum()]])
        hessian += np.diag([_RIDGE, _RIDGE])  # for equal logits, or a single one, the line is not unique
        change = np.linalg.solve(hessian, gradient)
        while loss(a - change[0], b - change[1]) > loss(a, b) and np.abs(change).max() > 1e-9:
            change /= 2
        a, b = a - change[0], b - change[1]
        if np.abs(change).max() < 1e-9:
            break
    return Platt(max(float(a), _MIN_SLOPE), float(b))


def fit_offsets(
    log_odds: AnyFloats,
    truth: AnyFloats,
    *,
    weight: AnyFloats | None = None,
    spread: float = 1.0,
    steps: int = 20,
) -> Doubles:
    """Fit an offset for the log-odds of each tag, by Newton's method, with a normal prior around 0.

    Args:
        log_odds: N×K.
        truth: N×K in [0, 1].
        weight: N×K, weight of each entry; 1 by default.
        spread: standard deviation of the prior; a tag with few photos stays close to its group.

    Returns:
        K offsets.
    """
    offsets = np.zeros(log_odds.shape[1])
    counts = np.ones_like(log_odds) if weight is None else weight
    for _ in range(steps):
        p = sigmoid(log_odds + offsets)
        gradient = (counts * (p - truth)).sum(0) + offsets / spread**2
        offsets -= np.clip(gradient / ((counts * p * (1 - p)).sum(0) + 1 / spread**2), -1, 1)
    return offsets


def best_f1_thresholds(
    scores: AnyFloats,
    truth: AnyFloats,
    *,
    weight: AnyFloats | Bools | None = None,
    prior: float = PRIOR,
) -> Doubles:
    """Find the threshold with the best estimated F1 for every tag.

    Correct tags are estimated as a mixture of counts and of those expected from the calibrated scores, the
    latter with the weight of `prior` positive photos, so that no threshold depends on a single photo. Of
    equally good thresholds the middle one is used.

    Args:
        scores: N×K calibrated probabilities.
        truth: N×K in [0, 1].
        weight: N×K, weight of each entry; 1 by default.
        prior: weight of the expected labels, in positive photos.

    Returns:
        K thresholds in [0.05, 0.95].
    """
    thresholds = np.full(scores.shape[1], 0.5)
    counts = np.ones(scores.shape) if weight is None else weight
    for tag in range(scores.shape[1]):
        order = np.argsort(-scores[:, tag])
        p, y, w = scores[order, tag], truth[order, tag], counts[order, tag]
        places = np.searchsorted(-p, -GRID, side="right")  # photos at or above each threshold
        share = prior / (prior + (w * y).sum())
        blend = np.concatenate([[0], (w * (share * p + (1 - share) * y)).cumsum()])
        predicted = np.concatenate([[0], w.cumsum()])[places]
        f1 = 2 * blend[places] / np.maximum(predicted + blend[-1], 1e-9)
        if f1.max() > 0:
            best = np.flatnonzero(f1 >= f1.max() - 1e-12)
            thresholds[tag] = GRID[best[len(best) // 2]]
    return thresholds


def fit_common_threshold(
    scores: AnyFloats, truth: AnyFloats, *, precision: float, weight: AnyFloats | Bools | None = None
) -> float:
    """Find the common threshold of all tags with the highest recall at a given precision of all predictions.

    For calibrated probabilities no set of thresholds per tag has a higher recall at the same precision
    (Neyman and Pearson), because at a common threshold the marginal prediction is equally likely correct for
    every tag. It depends on the photos of all tags, while a single tag has few.

    Args:
        scores: N×K calibrated probabilities, for photos that they were not fitted to.
        truth: N×K in [0, 1].
        precision: the goal.
        weight: N×K, weight of each entry; 1 by default.

    Returns:
        in [0.01, 0.99]; the threshold with the highest precision if none reaches the goal.
    """
    order = np.argsort(-scores, axis=None)
    p, w = scores.ravel()[order], (np.ones(scores.size) if weight is None else weight.ravel()[order])
    grid = np.round(np.arange(0.01, 0.995, 0.01), 2)
    places = np.searchsorted(-p, -grid, side="right")  # pairs at or above each threshold
    hits, predicted = (np.concatenate([[0], x.cumsum()])[places] for x in (w * truth.ravel()[order], w))
    grid, hits, predicted = (x[predicted > 0] for x in (grid, hits, predicted))
    if not len(grid):
        return 0.5
    reached = hits / predicted
    good = np.flatnonzero(reached >= precision)
    return float(grid[good[0]] if len(good) else grid[reached.argmax()])
