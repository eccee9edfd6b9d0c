"""Metrics of taggers, in numpy: scores N×K of N photos and K tags against labels N×K.

No figure depends on the order of photos or tags: equal scores share a rank, or count as a miss. NaN scores
rank last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from anytag._typing import AnyFloats, Bools, Doubles, Floats, Ints

KS = (1, 5, 10)
BINS = 20
_CHUNK = 64  # resamples processed at once, to bound memory
_ENTRIES = 1 << 22  # scores processed at once, likewise


def average_precision(scores: AnyFloats, present: Bools) -> Doubles:
    """AP of every tag, mean precision at the ranks of its positives: N×K, N×K -> K; 0 without positives.

    As in the published code, whose mAP is the plain mean, including tags without positives. Photos with equal
    scores share the last of their ranks, as in scikit-learn; the order of ties in the published code is not
    specified.
    """
    step = max(1, _ENTRIES // max(1, len(scores)))
    parts = [slice(start, start + step) for start in range(0, scores.shape[1], step)]
    return np.concatenate(
        [np.zeros(0), *(_average_precision(scores[:, part], present[:, part]) for part in parts)]
    )


def _average_precision(scores: AnyFloats, present: Bools) -> Doubles:
    order = np.argsort(-scores, axis=0, kind="stable")
    hits = np.take_along_axis(present, order, axis=0)
    shared = _shared_ranks(np.take_along_axis(scores, order, axis=0))
    precision = np.take_along_axis(hits.cumsum(0), shared, axis=0) / (shared + 1)
    return np.asarray((precision * hits).sum(0) / np.maximum(hits.sum(0), 1))


def _shared_ranks(ranked: AnyFloats) -> npt.NDArray[np.intp]:
    """Index, from 0, of the last entry with the same score: descending scores N×… -> N×…."""
    places = np.arange(len(ranked)).reshape(-1, *[1] * (ranked.ndim - 1))
    last = np.ones(ranked.shape, dtype=bool)
    last[:-1] = ranked[:-1] != ranked[1:]
    ends = np.where(last, places, len(ranked))
    return np.asarray(np.minimum.accumulate(ends[::-1], axis=0)[::-1])


def mean_average_precision(scores: AnyFloats, present: Bools, *, at_least: int = 1) -> tuple[float, int]:
    """Mean AP over tags with `at_least` positives, and their number; 0 gives the published mAP."""
    counted = present.sum(0) >= at_least
    return float(average_precision(scores[:, counted], present[:, counted]).mean()), int(counted.sum())


def micro_average_precision(scores: AnyFloats, present: Bools) -> float:
    """AP of all pairs of photo and tag in a single ranking."""
    return float(average_precision(scores.reshape(-1, 1), present.reshape(-1, 1))[0])


def precision_at(scores: AnyFloats, present: Bools, k: int) -> float:
    """Mean over photos of the share of correct tags among the k best."""
    return float(np.nanmean(precisions_at(scores, present, k)))


def precisions_at(scores: AnyFloats, present: Bools, k: int) -> Doubles:
    """Share of correct tags among the k best of each photo, N.

    Ties at rank k count in proportion. Minus infinity means no prediction: with fewer than k predictions the
    share is of those, and NaN if there are none.
    """
    ranked = -np.sort(-scores, axis=1)
    depth = np.minimum(np.isfinite(scores).sum(1), k)
    last = np.take_along_axis(ranked, np.maximum(depth - 1, 0)[:, None], axis=1)
    above, level = scores > last, scores == last
    left = depth - above.sum(1)
    hits = (above & present).sum(1) + left * (level & present).sum(1) / np.maximum(level.sum(1), 1)
    return np.asarray(np.divide(hits, depth, where=depth > 0, out=np.full(len(scores), np.nan)))


def top_k_accuracy(scores: AnyFloats, answer: npt.NDArray[np.integer], k: int) -> float:
    """Share of photos whose class (N) is among the k best columns; ties count as misses."""
    return float(top_k_hits(scores, answer, k).mean())


def top_k_hits(scores: AnyFloats, answer: npt.NDArray[np.integer], k: int) -> Bools:
    """Whether each photo's class (N) is among its k best columns, N; ties count as misses."""
    own = np.take_along_axis(scores, answer[:, None], axis=1)
    return np.asarray((~(scores < own)).sum(1) <= k)


@dataclass(frozen=True, eq=False)
class Counts:
    """Counts of K tags (in the last axis): correctly predicted, predicted, present."""

    right: Doubles
    predicted: Doubles
    present: Doubles

    @classmethod
    def of(cls, predicted: Bools, present: Bools) -> Counts:
        """N×K, N×K -> K."""
        parts = (predicted & present, predicted, present)
        return cls(*(part.sum(0).astype(np.float64) for part in parts))

    @property
    def precision(self) -> Doubles:
        """K; 0 for a tag that is never predicted, as in the published code."""
        return self.right / np.maximum(self.predicted, 1e-9)

    @property
    def recall(self) -> Doubles:
        """K; 0 for a tag that is never present, as in the published code."""
        return self.right / np.maximum(self.present, 1e-9)

    @property
    def f1(self) -> Doubles:
        """K."""
        return 2 * self.right / np.maximum(self.predicted + self.present, 1e-9)

    def part(self, tags: npt.NDArray[np.intp]) -> Counts:
        """Select some of the tags."""
        return Counts(*(of[..., tags] for of in (self.right, self.predicted, self.present)))

    def macro(self) -> dict[str, Doubles]:
        """Unweighted means over tags; the first two are the published CP and CR."""
        return {name: np.asarray(values.mean(-1)) for name, values in self._shares().items()}

    def micro(self) -> dict[str, Doubles]:
        """Micro averages; NaN where nothing is predicted or present."""
        right, predicted, present = (part.sum(-1) for part in (self.right, self.predicted, self.present))
        whole = {"precision": predicted, "recall": present, "F1": (predicted + present) / 2}
        return {name: _share(right, of) for name, of in whole.items()}

    def _shares(self) -> dict[str, Doubles]:
        return {"precision": self.precision, "recall": self.recall, "F1": self.f1}


def _share(part: Doubles, whole: Doubles) -> Doubles:
    """Ratio; NaN where the denominator is 0."""
    part, whole = np.broadcast_arrays(part, whole)
    return np.asarray(np.divide(part, whole, where=whole > 0, out=np.full(whole.shape, np.nan)))


def counts_at(scores: AnyFloats, present: Bools, thresholds: Doubles) -> Counts:
    """Counts T×K for predictions with a score of at least each threshold.

    Args:
        scores: N×K.
        present: N×K.
        thresholds: T, ascending.
    """
    times, tags = len(thresholds) + 1, scores.shape[1]
    passed = np.searchsorted(thresholds, scores, side="right")  # N×K: how many thresholds it reaches
    place = (passed * tags + np.arange(tags)).ravel()
    predicted, right = (
        np.bincount(place, weights, minlength=times * tags).reshape(times, tags)[::-1].cumsum(0)[::-1][1:]
        for weights in (None, present.ravel())
    )
    whole = np.broadcast_to(present.sum(0).astype(np.float64), right.shape)
    return Counts(right.astype(np.float64), predicted.astype(np.float64), whole)


def precision_recall_curve(
    scores: AnyFloats, present: Bools, *, points: int = 101
) -> tuple[Doubles, Doubles]:
    """(recall, precision), `points` each, of all pairs of photo and tag in a single ranking."""
    hits, shared = _one_ranking(scores, present)
    recalls = np.linspace(0, 1, points)
    at = np.searchsorted(hits, np.maximum(1, np.ceil(recalls * hits[-1]))).clip(max=len(hits) - 1)
    return recalls, hits[shared[at]] / (shared[at] + 1)


def best_f1(scores: AnyFloats, present: Bools) -> float:
    """The highest F1 with one threshold for all tags; 0 if nothing is present."""
    hits, shared = _one_ranking(scores, present)
    return float((2 * hits[shared] / (shared + 1 + hits[-1])).max())


def _one_ranking(scores: AnyFloats, present: Bools) -> tuple[Ints, npt.NDArray[np.intp]]:
    """Of all pairs, best first: cumulative positives, and the index shared by equal scores."""
    order = np.argsort(-scores.ravel(), kind="stable")
    return present.ravel()[order].cumsum(), _shared_ranks(scores.ravel()[order])


@dataclass(frozen=True, eq=False)
class Reliability:
    """Sums over pairs of photo and tag, by bins of equal width of their score (in the last axis).

    Attributes:
        pairs: number of pairs.
        score: sum of their scores.
        right: number that are present.
    """

    pairs: Doubles
    score: Doubles
    right: Doubles

    @classmethod
    def of(
        cls, scores: AnyFloats, present: Bools, mask: Bools | None = None, *, bins: int = BINS
    ) -> Reliability:
        """Per photo: probabilities N×K, labels N×K, mask of the pairs N×K (None: all) -> N×bins."""
        counted = np.ones_like(present) if mask is None else mask
        step = max(1, _ENTRIES // max(1, scores.shape[1]))
        rows = [slice(start, start + step) for start in range(0, len(scores), step)]
        parts = [cls._of(scores[some], present[some], counted[some], bins) for some in rows]
        sums = zip(*((part.pairs, part.score, part.right) for part in parts), strict=True)
        return cls(*map(np.concatenate, sums))

    @classmethod
    def _of(cls, scores: AnyFloats, present: Bools, counted: Bools, bins: int) -> Reliability:
        photo = np.nonzero(counted)[0]
        score = scores[counted].astype(np.float64)
        at = (score * bins + 1e-5).astype(np.int64)  # 0.9 in float32 is slightly less than 0.9
        place = photo * bins + np.clip(at, 0, bins - 1)
        length = len(scores) * bins
        parts = (np.bincount(place, weights, length) for weights in (None, score, present[counted]))
        return cls(*(part.reshape(len(scores), bins).astype(np.float64) for part in parts))

    def total(self) -> Reliability:
        """Sum over photos: N×bins -> bins."""
        return Reliability(self.pairs.sum(0), self.score.sum(0), self.right.sum(0))

    def resampled(self, weights: Floats) -> Reliability:
        """Sum over the photos of each resample: N×bins, B×N -> B×bins."""
        return Reliability(*(weights @ part for part in (self.pairs, self.score, self.right)))

    def error(self) -> Doubles:
        """Expected calibration error: mean difference of score and share of positives; NaN without pairs."""
        return _share(np.abs(self.score - self.right).sum(-1), self.pairs.sum(-1))

    def mean_score(self) -> Doubles:
        """Mean score of all pairs; NaN without pairs."""
        return _share(self.score.sum(-1), self.pairs.sum(-1))


def calibration_curve(
    scores: AnyFloats, present: Bools, mask: Bools | None = None, *, bins: int = BINS
) -> tuple[Doubles, Doubles, Doubles]:
    """(mean score, share of positives, pairs) of `bins` equally wide bins of the masked N×K scores."""
    reliability = Reliability.of(scores, present, mask, bins=bins).total()
    filled = np.maximum(reliability.pairs, 1)
    return reliability.score / filled, reliability.right / filled, reliability.pairs


def expected_calibration_error(scores: AnyFloats, present: Bools, *, bins: int = BINS) -> float:
    """Mean difference of score and frequency over `bins` equally wide bins, weighted by their size.

    Over all pairs of photo and tag this is hardly informative: nearly all of them score close to 0.
    """
    return float(Reliability.of(scores, present, bins=bins).total().error())


def wilson(right: float, total: float, *, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share, `right` of `total`; (0, 1) if total is 0."""
    if total == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, shrink = right / total, 1 + z * z / total
    middle = (share + z * z / (2 * total)) / shrink
    half = z / shrink * float(np.sqrt(share * (1 - share) / total + z * z / (4 * total * total)))
    return max(0.0, min(middle - half, share)), min(1.0, max(middle + half, share))


def ranks(similar: AnyFloats, right: Bools) -> Ints:
    """Rank, from 1, of each query's best correct answer: N×M, N×M -> N; ties count as worse."""
    best = np.where(right, similar, -np.inf).max(1, keepdims=True)
    return np.asarray(1 + (~(similar < best) & ~right).sum(1))


def recall_at(ranks: Ints, ks: Sequence[int] = KS) -> dict[str, float]:
    """Share of queries with a rank of at most k."""
    return {f"R@{k}": float((ranks <= k).mean()) for k in ks}


def resamples(photos: int, times: int, *, seed: int = 0) -> Floats:
    """Number of times each photo is drawn in samples with replacement: times×N."""
    share = np.full(photos, 1 / photos)
    return np.random.default_rng(seed).multinomial(photos, share, times).astype(np.float32)


def resampled_average_precision(scores: AnyFloats, present: Bools, weights: Floats) -> Doubles:
    """`average_precision` of every resample: N×K, N×K, B×N -> B×K; NaN for tags without positives."""
    out = np.full((len(weights), scores.shape[1]), np.nan)
    for tag in range(scores.shape[1]):
        order = np.argsort(-scores[:, tag], kind="stable")
        at = np.flatnonzero(present[order, tag])
        shared = _shared_ranks(scores[order, tag])[at]
        for start in range(0, len(weights), _CHUNK):
            multiplicity = weights[start : start + _CHUNK, order]  # b×N, best first
            hits = multiplicity[:, at]
            retrieved = multiplicity.cumsum(1)[:, shared]
            through = np.searchsorted(at, shared, side="right") - 1  # the last positive with the same score
            precision = hits.cumsum(1)[:, through] / np.maximum(retrieved, 1)
            total = hits.sum(1)
            at_hits = np.divide(
                (precision * hits).sum(1), total, where=total > 0, out=np.full(len(hits), np.nan)
            )
            out[start : start + _CHUNK, tag] = at_hits
    return out


def resampled_counts(predicted: Bools, present: Bools, weights: Floats) -> Counts:
    """`Counts.of` for every resample: N×K, N×K, B×N -> B×K."""
    parts = (predicted & present, predicted, present)
    return Counts(*((weights @ part.astype(np.float32)).astype(np.float64) for part in parts))


def interval(
    value: float, resampled: Doubles, *, level: float = 0.95, within: tuple[float, float] = (0, 1)
) -> tuple[float, float]:
    """Percentile interval of B resampled values, shifted to contain `value`.

    A photo drawn twice is adjacent to itself in the ranking, so the AP of resamples is slightly too high.
    Therefore each side of their median is rescaled to the corresponding side of `value`: the interval
    contains `value` and lies in `within`, the possible range of the figure. NaN in `resampled` is ignored.
    """
    tail = 100 * (1 - level) / 2
    low, middle, high = np.nanpercentile(resampled, [tail, 50, 100 - tail]).tolist()
    return (
        _rescale(low, middle, value, end=within[0]),
        _rescale(high, middle, value, end=within[1]),
    )


def _rescale(x: float, middle: float, value: float, *, end: float) -> float:
    """Map x linearly from the interval `end` to `middle` onto that from `end` to `value`."""
    return end if x == end else end + (value - end) * ((x - end) / (middle - end))  # at most 1
