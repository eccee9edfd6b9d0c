"""Metrics of taggers, in numpy: scores N×K of N photos and K tags against what is present, N×K."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

KS = (1, 5, 10)
_CHUNK = 64  # resamples that are worked on at once: bounds memory


def average_precision(scores: Floats, present: Bools) -> Doubles:
    """AP of every tag, mean precision at the ranks of its positives: N×K, N×K -> K; 0 without positives.

    This is what the published code computes (its mAP is the plain mean, tags without positives included).
    Equal scores keep the order of the photos; the published order of ties is not specified.
    """
    order = np.argsort(-scores, axis=0, kind="stable")
    hits = np.take_along_axis(present, order, axis=0)
    precision = hits.cumsum(0) / np.arange(1, len(scores) + 1)[:, None]
    return np.asarray((precision * hits).sum(0) / np.maximum(hits.sum(0), 1))


def mean_average_precision(scores: Floats, present: Bools, *, at_least: int = 1) -> tuple[float, int]:
    """Mean AP over tags with `at_least` positives, and how many those are; 0 makes it the published mAP."""
    counted = present.sum(0) >= at_least
    return float(average_precision(scores[:, counted], present[:, counted]).mean()), int(counted.sum())


def micro_average_precision(scores: Floats, present: Bools) -> float:
    """AP of all pairs of photo and tag in one ranking."""
    return float(average_precision(scores.reshape(-1, 1), present.reshape(-1, 1))[0])


def precision_at(scores: Floats, present: Bools, k: int) -> float:
    """Share of right tags among the k best of each photo."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return float(np.take_along_axis(present, best, axis=1).mean())


def top_k_accuracy(scores: Floats, answer: npt.NDArray[np.integer], k: int) -> float:
    """Share of photos whose class (N) is among the k best-scored columns; a tie is counted as a miss."""
    own = np.take_along_axis(scores, answer[:, None], axis=1)
    return float(((scores >= own).sum(1) <= k).mean())


@dataclass(frozen=True, eq=False)
class Counts:
    """Of K tags (in the last axis): how often each was given and right, was given, was present."""

    right: Doubles
    given: Doubles
    present: Doubles

    @classmethod
    def of(cls, given: Bools, present: Bools) -> Counts:
        """N×K, N×K -> K."""
        parts = (given & present, given, present)
        return cls(*(part.sum(0).astype(np.float64) for part in parts))

    @property
    def precision(self) -> Doubles:
        """K; 0 for a tag that was never given, as in the published code."""
        return self.right / np.maximum(self.given, 1e-9)

    @property
    def recall(self) -> Doubles:
        """K; 0 for a tag that is never present, as in the published code."""
        return self.right / np.maximum(self.present, 1e-9)

    @property
    def f1(self) -> Doubles:
        """K."""
        return 2 * self.right / np.maximum(self.given + self.present, 1e-9)

    def macro(self) -> dict[str, Doubles]:
        """Plain means over tags; the published CP and CR are the first two."""
        return {name: np.asarray(values.mean(-1)) for name, values in self._shares().items()}

    def micro(self) -> dict[str, Doubles]:
        """All tags counted together."""
        return Counts(*(part.sum(-1) for part in (self.right, self.given, self.present)))._shares()

    def _shares(self) -> dict[str, Doubles]:
        return {"precision": self.precision, "recall": self.recall, "F1": self.f1}


def counts_at(scores: Floats, present: Bools, thresholds: Doubles) -> Counts:
    """Counts T×K when every tag with a score of at least the threshold is given.

    Args:
        scores: N×K.
        present: N×K.
        thresholds: T, rising.
    """
    times, tags = len(thresholds) + 1, scores.shape[1]
    passed = np.searchsorted(thresholds, scores, side="right")  # N×K: how many thresholds it reaches
    place = (passed * tags + np.arange(tags)).ravel()
    given, right = (
        np.bincount(place, weights, minlength=times * tags).reshape(times, tags)[::-1].cumsum(0)[::-1][1:]
        for weights in (None, present.ravel())
    )
    whole = np.broadcast_to(present.sum(0).astype(np.float64), right.shape)
    return Counts(right.astype(np.float64), given.astype(np.float64), whole)


def precision_recall_curve(scores: Floats, present: Bools, *, points: int = 101) -> tuple[Doubles, Doubles]:
    """(recall, precision), `points` each, of all pairs of photo and tag in one ranking."""
    order = np.argsort(-scores.ravel(), kind="stable")
    hits = present.ravel()[order].cumsum()
    wanted = np.linspace(0, 1, points)
    at = np.searchsorted(hits, np.maximum(1, np.ceil(wanted * hits[-1]))).clip(max=len(hits) - 1)
    return wanted, hits[at] / (at + 1)


def calibration_curve(scores: Floats, present: Bools, *, bins: int = 15) -> tuple[Doubles, Doubles, Doubles]:
    """(mean score, share that is present, entries) of `bins` equally wide bins of the scores."""
    flat, truth = scores.ravel(), present.ravel()
    at = np.minimum((flat * bins).astype(np.int64), bins - 1)
    count = np.bincount(at, minlength=bins).astype(np.float64)
    filled = np.maximum(count, 1)
    return (
        np.bincount(at, flat, minlength=bins) / filled,
        np.bincount(at, truth, minlength=bins) / filled,
        count,
    )


def expected_calibration_error(scores: Floats, present: Bools, *, bins: int = 15) -> float:
    """Mean distance of score and frequency over `bins` equally wide bins, weighted by their entries."""
    score, share, count = calibration_curve(scores, present, bins=bins)
    return float((np.abs(score - share) * count).sum() / count.sum())


def ranks(similar: Floats, right: Bools) -> npt.NDArray[np.int64]:
    """Rank, from 1, of each query's best right answer: N×M, N×M -> N; a tie is counted as worse."""
    best = np.where(right, similar, -np.inf).max(1, keepdims=True)
    return np.asarray(1 + ((similar >= best) & ~right).sum(1))


def recall_at(found: npt.NDArray[np.int64], ks: Sequence[int] = KS) -> dict[str, float]:
    """Share of queries whose `ranks` are among the k best."""
    return {f"R@{k}": float((found <= k).mean()) for k in ks}


def resamples(photos: int, times: int, *, seed: int = 0) -> npt.NDArray[np.float32]:
    """How often each photo is drawn when so many are drawn with replacement: times×N."""
    share = np.full(photos, 1 / photos)
    return np.random.default_rng(seed).multinomial(photos, share, times).astype(np.float32)


def resampled_average_precision(scores: Floats, present: Bools, weights: npt.NDArray[np.float32]) -> Doubles:
    """`average_precision` of every resample: N×K, N×K, B×N -> B×K; a tag that it misses has NaN."""
    out = np.full((len(weights), scores.shape[1]), np.nan)
    for tag in range(scores.shape[1]):
        order = np.argsort(-scores[:, tag], kind="stable")
        at = np.flatnonzero(present[order, tag])
        for start in range(0, len(weights), _CHUNK):
            drawn = weights[start : start + _CHUNK, order]  # b×N, best first
            hits = drawn[:, at]
            seen = drawn.cumsum(1)[:, at]
            precision = hits.cumsum(1) / np.maximum(seen, 1)
            total = hits.sum(1)
            found = np.divide(
                (precision * hits).sum(1), total, where=total > 0, out=np.full(len(hits), np.nan)
            )
            out[start : start + _CHUNK, tag] = found
    return out


def resampled_counts(given: Bools, present: Bools, weights: npt.NDArray[np.float32]) -> Counts:
    """`Counts.of` every resample: N×K, N×K, B×N -> B×K."""
    parts = (given & present, given, present)
    return Counts(*((weights @ part.astype(np.float32)).astype(np.float64) for part in parts))


def interval(value: float, resampled: Doubles, *, level: float = 0.95) -> tuple[float, float]:
    """The interval around `value` that holds `level` of the resampled values, B.

    A photo drawn twice sits beside itself in the ranking, which makes the AP of resamples a little too high:
    only their spread is used.
    """
    spread = resampled - np.nanmean(resampled)
    low, high = np.nanquantile(spread, [(1 - level) / 2, (1 + level) / 2])
    return value + float(low), value + float(high)
