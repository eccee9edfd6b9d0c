"""Metrics of taggers, in numpy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]


def average_precision(scores: Floats, present: Bools) -> npt.NDArray[np.float64]:
    """AP of every tag, mean precision at the ranks of its positives: N×K, N×K -> K; 0 without positives."""
    order = np.argsort(-scores, axis=0, kind="stable")
    hits = np.take_along_axis(present, order, axis=0)
    precision = hits.cumsum(0) / np.arange(1, len(scores) + 1)[:, None]
    return np.asarray((precision * hits).sum(0) / np.maximum(hits.sum(0), 1))


def mean_average_precision(scores: Floats, present: Bools, *, at_least: int = 1) -> tuple[float, int]:
    """Mean AP over tags with `at_least` positives, and how many those are."""
    counted = present.sum(0) >= at_least
    return float(average_precision(scores[:, counted], present[:, counted]).mean()), int(counted.sum())


def precision_at(scores: Floats, present: Bools, k: int) -> float:
    """Share of right tags among the k best of each photo."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return float(np.take_along_axis(present, best, axis=1).mean())


def top_k_accuracy(scores: Floats, answer: npt.NDArray[np.integer], k: int) -> float:
    """Share of photos whose class (N) is among the k best-scored columns; a tie is counted as a miss."""
    own = np.take_along_axis(scores, answer[:, None], axis=1)
    return float(((scores >= own).sum(1) <= k).mean())


def expected_calibration_error(scores: Floats, present: Bools, *, bins: int = 15) -> float:
    """Mean distance of score and frequency over `bins` equally wide bins, weighted by their entries."""
    flat, truth = scores.ravel(), present.ravel()
    at = np.minimum((flat * bins).astype(np.int64), bins - 1)
    count = np.bincount(at, minlength=bins)
    gap = np.abs(np.bincount(at, flat, minlength=bins) - np.bincount(at, truth, minlength=bins))
    return float(gap.sum() / count.sum())
