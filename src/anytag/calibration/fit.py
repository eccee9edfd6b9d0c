"""Logits and truth -> a line for each tag, which makes probabilities, and a threshold for each.

Everything that calibrates does it here: `anytag calibrate`, `anytag finetune`, a run of `anytag train` and
the release of `mini`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from anytag._typing import AnyFloats, Bools, Doubles, Ints
from anytag.errors import AnytagError
from anytag.models.card import Platt
from anytag.scoring import propagate_to_broader, sigmoid

GRID = np.round(np.arange(0.05, 0.96, 0.01), 2)
PRIOR = 4.0
"""What the calibrated scores promise counts as much as so many photos of a tag."""
FOLDS = 4
_RIDGE = 1e-6
_FLATTEST = 0.01
"""The least slope: where truth and logits have nothing to do with each other, no order is turned round."""
NO_PAIRS: Ints = np.zeros((0, 2), np.int64)


def probabilities(logits: AnyFloats, lines: Doubles, below: Ints = NO_PAIRS) -> Doubles:
    """N×K logits and K×2 slopes and biases -> N×K; no broader tag scores less than what it includes.

    Args:
        below: E×2, pairs of a tag and a broader one.
    """
    scores = sigmoid(lines[:, 0] * logits + lines[:, 1]).astype(np.float64)
    propagate_to_broader(scores, below)
    return scores


def pairs_below(broader: list[tuple[int, ...]]) -> Ints:
    """K tags' broader ones, by number -> E×2, pairs of a tag and a broader one."""
    pairs = [(number, other) for number, above in enumerate(broader) for other in above]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


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

    def thresholds(self, scores: AnyFloats, truth: AnyFloats) -> Doubles:
        """K in [0.01, 0.99], of calibrated probabilities N×K and truth N×K in [0, 1]."""
        if self.precision is None:
            return best_f1_thresholds(scores, truth)
        common = fit_common_threshold(scores, truth, precision=self.precision)
        return np.full(scores.shape[1], common)


def fit_tags(
    logits: AnyFloats,
    truth: AnyFloats,
    goal: Goal,
    *,
    below: Ints = NO_PAIRS,
    groups: npt.NDArray[Any] | None = None,
    known: Bools | None = None,
) -> tuple[Doubles, Doubles]:
    """What calibrates a model's tags.

    A precision is promised for other photos, so its threshold is fitted to scores by lines of other photos.

    Args:
        logits: N×K, of photos that the tags were not learned from.
        truth: N×K, 0 or 1.
        below: E×2, pairs of a tag and a broader one.
        groups: K, tags whose logits are of one kind and so share a slope; by default all.
        known: N×K, of which pairs the truth is known; the others count for nothing. By default of all.

    Returns:
        slope and bias of each tag's logit, K×2, and thresholds K of the probabilities that they give.
    """
    known = np.ones(logits.shape, np.bool_) if known is None else known
    lines = fit_lines(logits, truth, groups, known=known)
    if goal.precision is None:
        return lines, goal.thresholds(probabilities(logits, lines, below) * known, truth * known)
    scores = np.zeros(logits.shape)
    part = np.random.default_rng(1).permutation(len(scores)) % FOLDS
    for number in range(FOLDS):
        mine = part == number
        others = fit_lines(logits[~mine], truth[~mine], groups, known=known[~mine])
        scores[mine] = probabilities(logits[mine], others, below)
    return lines, goal.thresholds(scores * known, truth * known)


def fit_lines(
    logits: AnyFloats,
    truth: AnyFloats,
    groups: npt.NDArray[Any] | None = None,
    *,
    known: Bools | None = None,
) -> Doubles:
    """Slope and bias of each tag's logit, K×2: one line for each group, and an offset of each tag's own.

    Truth is softened by as much as its number deserves (Platt, 1999, section 2.2), or a few photos that are
    told apart without a mistake would make every score 0 or 1.
    """
    known = np.ones(logits.shape, np.bool_) if known is None else known
    there, away = (truth * known).sum(), ((1 - truth) * known).sum()
    truth = np.where(truth > 0.5, (there + 1) / (there + 2), 1 / (away + 2)).astype(np.float32)
    groups = np.zeros(logits.shape[1]) if groups is None else groups
    lines = np.zeros((len(groups), 2))
    for group in np.unique(groups):
        some = groups == group
        weight = known[:, some].astype(np.float64)
        line = fit_line(logits[:, some], truth[:, some], weight=weight)
        offsets = fit_offsets(line.scale * logits[:, some] + line.bias, truth[:, some], weight=weight)
        lines[some, 0], lines[some, 1] = line.scale, line.bias + offsets
    return lines


def fit_line(
    logits: AnyFloats, truth: AnyFloats, *, weight: AnyFloats | None = None, steps: int = 30
) -> Platt:
    """Platt scaling by Newton's method; a step that does not help is halved until it does.

    Args:
        logits: any shape.
        truth: the same shape, in [0, 1]; soft where only a teacher's probability is known.
        weight: the same shape, how much an entry counts; 1 when not given.
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
        hessian += np.diag([_RIDGE, _RIDGE])  # of equal logits, or of one, any line is as good
        change = np.linalg.solve(hessian, gradient)
        while loss(a - change[0], b - change[1]) > loss(a, b) and np.abs(change).max() > 1e-9:
            change /= 2
        a, b = a - change[0], b - change[1]
        if np.abs(change).max() < 1e-9:
            break
    return Platt(max(float(a), _FLATTEST), float(b))


def fit_offsets(
    log_odds: AnyFloats,
    truth: AnyFloats,
    *,
    weight: AnyFloats | None = None,
    spread: float = 1.0,
    steps: int = 20,
) -> Doubles:
    """What to add to the log-odds of each tag, by Newton's method, with a normal prior around 0.

    Args:
        log_odds: N×K.
        truth: N×K in [0, 1].
        weight: N×K, how much an entry counts; 1 when not given.
        spread: standard deviation of the prior; a tag with few photos stays near its group.

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


def best_f1_thresholds(scores: AnyFloats, truth: AnyFloats, *, prior: float = PRIOR) -> Doubles:
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
        predicted = np.searchsorted(-p, -GRID, side="right")  # photos at or above each threshold
        share = prior / (prior + y.sum())
        blend = np.concatenate([[0], (share * p + (1 - share) * y).cumsum()])
        f1 = 2 * blend[predicted] / np.maximum(predicted + blend[-1], 1e-9)
        if f1.max() > 0:
            best = np.flatnonzero(f1 >= f1.max() - 1e-12)
            thresholds[tag] = GRID[best[len(best) // 2]]
    return thresholds


def fit_common_threshold(scores: AnyFloats, truth: AnyFloats, *, precision: float) -> float:
    """The threshold for all tags that gives the most of what is there with a precision of all that is given.

    Of calibrated probabilities no set of thresholds, one for each tag, finds more at the same precision
    (Neyman and Pearson): what is given last is as likely right in every tag. It hangs on the photos of all
    tags, where a tag alone has a few.

    Args:
        scores: N×K calibrated probabilities, of photos that they were not fitted on.
        truth: N×K in [0, 1].

    Returns:
        in [0.01, 0.99]; the one with the highest precision where none suffices.
    """
    order = np.argsort(-scores, axis=None)
    p, hits = scores.ravel()[order], truth.ravel()[order].cumsum()
    grid = np.round(np.arange(0.01, 0.995, 0.01), 2)
    predicted = np.searchsorted(-p, -grid, side="right")  # pairs at or above each threshold
    grid, predicted = grid[predicted > 0], predicted[predicted > 0]
    if not len(grid):
        return 0.5
    reached = hits[predicted - 1] / predicted
    good = np.flatnonzero(reached >= precision)
    return float(grid[good[0]] if len(good) else grid[reached.argmax()])
