"""Logits -> probabilities -> default thresholds, fitted on photos that were not trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]

_RIDGE = 1e-6
GRID = np.round(np.arange(0.40, 0.96, 0.01), 2)


def sigmoid(x: Floats) -> Floats:
    """By the hyperbolic tangent, which does not overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))


@dataclass(frozen=True)
class Calibration:
    """probability = sigmoid(scale · logit + bias)."""

    scale: float
    bias: float

    def __call__(self, logits: Floats) -> Floats:
        """Logits of any shape -> probabilities of the same shape."""
        return sigmoid(self.scale * logits + self.bias)


def fit_calibration(
    logits: Floats, truth: Floats, *, weight: Floats | None = None, steps: int = 30
) -> Calibration:
    """Platt scaling by Newton's method; a step that does not help is halved until it does.

    Args:
        logits: any shape.
        truth: the same shape, in [0, 1]; soft where only a teacher's belief is known.
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
    return Calibration(float(a), float(b))


def fit_offsets(
    log_odds: Floats, truth: Floats, *, weight: Floats | None = None, spread: float = 1.0, steps: int = 20
) -> npt.NDArray[np.float64]:
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


def fit_thresholds(
    scores: Floats,
    truth: Floats,
    *,
    weight: Floats | None = None,
    precision: float | Floats = 0.65,
    default: float = 0.5,
    prior: float = 4.0,
) -> npt.NDArray[np.float64]:
    """For every tag the lowest threshold whose estimated precision reaches `precision`.

    The estimate mixes what was counted with what the calibrated scores promise, worth `prior` photos, so that
    a tag seen three times is not judged by three photos. A tag that no threshold of the grid satisfies gets
    the highest that still gives it anywhere, and 0.95 at most.

    Args:
        scores: N×K calibrated probabilities.
        truth: N×K in [0, 1].
        weight: N×K, how much an entry counts; 1 when not given.
        precision: of all tags, or K of them.
        default: of tags that never score above the lowest threshold of the grid.

    Returns:
        K thresholds in [0.4, 0.95].
    """
    thresholds = np.full(scores.shape[1], default)
    wanted = np.broadcast_to(precision, scores.shape[1])
    for tag in range(scores.shape[1]):
        p, y = scores[:, tag], truth[:, tag]
        order = np.argsort(-p)
        p, y = p[order], y[order]
        w = np.ones_like(p) if weight is None else weight[order, tag].astype(p.dtype)
        given = np.searchsorted(-p, -GRID, side="right")  # photos at or above each threshold
        if given[0] == 0:
            continue
        hits, promised, seen = (np.concatenate([[0], part.cumsum()]) for part in (w * y, p, w))
        mean_score = promised[given] / np.maximum(given, 1)
        estimate = (hits[given] + prior * mean_score) / np.maximum(seen[given] + prior, 1e-9)
        good = np.flatnonzero((estimate >= wanted[tag]) & (given > 0))
        thresholds[tag] = GRID[good[0]] if len(good) else GRID[np.flatnonzero(given > 0)[-1]]
    return thresholds


def fit_common_threshold(scores: Floats, truth: Floats, *, precision: float) -> float:
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
    given = np.searchsorted(-p, -grid, side="right")  # pairs at or above each threshold
    grid, given = grid[given > 0], given[given > 0]
    if not len(grid):
        return 0.5
    reached = hits[given - 1] / given
    good = np.flatnonzero(reached >= precision)
    return float(grid[good[0]] if len(good) else grid[reached.argmax()])
