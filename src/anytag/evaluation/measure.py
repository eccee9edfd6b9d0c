"""Compute figures with intervals, reliability, per-tag results, curves and mistakes from predictions.

Means over tags include the tags with enough photos. All other figures include every pair of photo and tag
with a known label: a tag that is predicted but on no photo lowers the precision.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from anytag._typing import AnyFloats, Bools, Doubles, Floats
from anytag.evaluation import metrics
from anytag.evaluation.adapters import Predictions
from anytag.evaluation.tasks import TagTask

Weights = Floats
Curve = list[tuple[float, float]]

GRID = np.round(np.arange(0.02, 1.0, 0.02), 2)
KS = (1, 5)
ABOVE = 0.5


@dataclass(frozen=True, slots=True)
class Figure:
    """One value, in percent unless its name says otherwise, with its 95 % bootstrap interval."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class TagLine:
    """One tag of one model, in percent; precision, recall and F1 at `threshold`, if there is one.

    Attributes:
        photos: number of positive photos.
        trained: whether a trained query was used, rather than one made from words.
        predicted: number of photos for which it is predicted.
        score: its mean score where it is predicted, to be compared with `precision`.
    """

    name: str
    photos: int
    AP: float
    trained: bool | None = None
    threshold: float | None = None
    precision: float | None = None
    recall: float | None = None
    F1: float | None = None
    predicted: int | None = None
    score: float | None = None


@dataclass(frozen=True, slots=True)
class ScoreBin:
    """Predicted tags with scores in one bin, in percent.

    Attributes:
        low, high: of the scores; the upper end belongs to the next bin.
        pairs: number of predicted pairs of photo and tag.
        score: their mean score.
        right: share that is correct, with Wilson's 95 % interval.
    """

    low: float
    high: float
    pairs: int
    score: float
    right: float
    right_low: float
    right_high: float


@dataclass(frozen=True, slots=True)
class Measured:
    """Results of one model on one task.

    Attributes:
        figures: by name.
        tags: results per tag.
        curves: points of "precision-recall" and "calibration"; of "precision", "recall", "F1" and their
            macro means by threshold.
        reliability: of the predicted tags, by score; empty for models that only rank.
        trained_on: training data, if known, which a fair comparison needs.
    """

    name: str
    figures: dict[str, Figure]
    tags: list[TagLine] = field(default_factory=list)
    curves: dict[str, Curve] = field(default_factory=dict)
    reliability: list[ScoreBin] = field(default_factory=list)
    trained_on: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """A photo in a report, by its path, with a text."""

    photo: str
    text: str


@dataclass(frozen=True, slots=True)
class Mistakes:
    """Photos with one kind of mistake, in labelled rows."""

    title: str
    rows: dict[str, list[Picture]]


@dataclass(frozen=True, eq=False)
class _TagResults:
    """Intermediate results from which the figures of one model are computed.

    Attributes:
        scores: N×K; minus infinity where the label is unknown, which ranks last and is never predicted.
        counted: columns with enough photos.
        ap: K.
        resampled: B×K, NaN where a resample has no positive photo; columns outside `counted` are not filled.
    """

    task: TagTask
    predictions: Predictions
    scores: AnyFloats
    counted: npt.NDArray[np.intp]
    ap: Doubles
    resampled: Doubles
    weights: Weights

    @classmethod
    def of(cls, task: TagTask, predictions: Predictions, *, at_least: int, weights: Weights) -> _TagResults:
        scores = _masked(task, predictions)
        counted = np.flatnonzero(task.present.sum(0) >= at_least)
        resampled = metrics.resampled_average_precision(scores[:, counted], task.present[:, counted], weights)
        return cls(
            task,
            predictions,
            scores,
            counted,
            metrics.average_precision(scores, task.present),
            resampled,
            weights,
        )

    @cached_property
    def known(self) -> Bools:
        """N×K, whether the label is known."""
        return np.isfinite(self.scores)

    @cached_property
    def pairs(self) -> tuple[AnyFloats, Bools]:
        """Scores and labels of all M pairs of photo and tag with a known label."""
        return self.scores[self.known], self.task.present[self.known]

    @cached_property
    def predicted(self) -> Bools | None:
        """N×K, at the model's own thresholds."""
        thresholds = self.predictions.thresholds
        return None if thresholds is None else self.scores >= thresholds.astype(np.float32)


def measure(
    task: TagTask, predictions: Predictions, *, name: str, at_least: int = 1, weights: Weights
) -> tuple[Measured, Doubles]:
    """Compute all figures of one model, and its mAP in each resample, B.

    Args:
        task: N photos, all readable.
        predictions: for the same photos.
        at_least: number of photos that a tag needs for means over tags.
        weights: B×N from `metrics.resamples`; B may be 0.
    """
    sheet = _TagResults.of(task, predictions, at_least=at_least, weights=weights)
    figures = _ranking(sheet) | _top_k(sheet) | _at_own_thresholds(sheet) | _at_best_threshold(sheet)
    figures |= _calibration(sheet)
    measured = Measured(name, figures, _lines(sheet), _curves(sheet), _reliability(sheet))
    return measured, _means(sheet.resampled)


def spread(value: float, resampled: AnyFloats, *, within: tuple[float, float] = (0, 100)) -> Figure:
    """A figure with the interval of its B resampled values; without one if B is 0 or all are NaN."""
    if len(resampled) == 0 or np.isnan(resampled).all():
        return Figure(value)
    return Figure(value, *metrics.interval(value, resampled.astype(np.float64), within=within))


def _figure(value: float, resampled: AnyFloats) -> Figure:
    """Convert shares to percent."""
    return spread(100 * value, 100 * resampled)


def _mean_figure(values: AnyFloats, weights: Weights) -> Figure:
    """Mean of shares N of photos, ignoring NaN, in percent; resampled with weights B×N."""
    some = ~np.isnan(values)
    draws, whole = weights @ np.where(some, values, 0), weights @ some
    resampled = np.divide(draws, whole, where=whole > 0, out=np.full(len(weights), np.nan))
    return _figure(float(values[some].mean()), resampled)


def _means(resampled: Doubles) -> Doubles:
    """B×K -> B, ignoring the tags without positives in a resample; NaN if there are none."""
    some = ~np.isnan(resampled)
    count = some.sum(1)
    total = np.where(some, resampled, 0).sum(1)
    return np.asarray(np.divide(total, count, where=count > 0, out=np.full(len(resampled), np.nan)))


def _ranking(sheet: _TagResults) -> dict[str, Figure]:
    """Figures that need no thresholds."""
    out = {
        "mAP": _figure(float(sheet.ap[sheet.counted].mean()), _means(sheet.resampled)),
        "mAP as published": Figure(100 * float(sheet.ap.mean())),
        "micro AP": Figure(100 * metrics.micro_average_precision(*sheet.pairs)),
    }
    out |= _by_query(sheet)
    for k in KS:
        precisions = metrics.precisions_at(sheet.scores, sheet.task.present, k)
        out[f"P@{k}"] = _mean_figure(precisions, sheet.weights)
    return out


def _by_query(sheet: _TagResults) -> dict[str, Figure]:
    """mAP of tags with trained queries and of those with queries made from words, if there are both."""
    if sheet.predictions.trained is None:
        return {}
    trained = np.array(sheet.predictions.trained)[sheet.counted]
    if trained.all() or not trained.any():
        return {}
    parts = dict(zip(sheet.task.halves, (trained, ~trained), strict=True))
    ap = sheet.ap[sheet.counted]
    return {
        name: _figure(float(ap[part].mean()), _means(sheet.resampled[:, part]))
        for name, part in parts.items()
    }


def _top_k(sheet: _TagResults) -> dict[str, Figure]:
    """Top-k accuracy, if every photo has exactly one tag and all labels are known."""
    if sheet.task.known is not None or (sheet.task.present.sum(1) != 1).any():
        return {}
    answer = sheet.task.present.argmax(1)
    hits = {k: metrics.top_k_hits(sheet.scores, answer, k).astype(np.float64) for k in KS}
    return {f"top-{k}": _mean_figure(hit, sheet.weights) for k, hit in hits.items()}


def _at_own_thresholds(sheet: _TagResults) -> dict[str, Figure]:
    """Figures at the model's own thresholds, which are the defaults for users."""
    if (predicted := sheet.predicted) is None:
        return {}
    counts = metrics.Counts.of(predicted, sheet.task.present)
    draws = metrics.resampled_counts(predicted, sheet.task.present, sheet.weights)
    micro, resampled = counts.micro(), draws.micro()
    out = {key: _figure(float(micro[key]), resampled[key]) for key in micro if not np.isnan(micro[key])}
    macro, resampled = (some.part(sheet.counted).macro() for some in (counts, draws))
    out |= {f"macro {key}": _figure(float(macro[key]), resampled[key]) for key in macro}
    return out | {
        "tags a photo": Figure(float(predicted.sum(1).mean())),
        "different tags given": Figure(float(predicted.any(0).sum())),
    }


def _at_best_threshold(sheet: _TagResults) -> dict[str, Figure]:
    """The best F1 with one threshold for all tags, chosen on the same photos; needs no calibration."""
    return {"best F1": Figure(100 * metrics.best_f1(*sheet.pairs))}


def _calibration(sheet: _TagResults) -> dict[str, Figure]:
    """Calibration errors: of predicted tags, of high scores, and of all pairs."""
    if (predicted := sheet.predicted) is None:
        return {}
    masks = {"given tags": predicted, f"scores from {ABOVE}": sheet.scores >= ABOVE, "all pairs": sheet.known}
    out = {}
    for name, mask in masks.items():
        reliability = metrics.Reliability.of(sheet.scores, sheet.task.present, mask)
        if mask.any():
            resampled = reliability.resampled(sheet.weights)
            if name == "given tags":
                score = float(reliability.total().mean_score())
                out["mean score of given tags"] = _figure(score, resampled.mean_score())
            out[f"ECE of {name}"] = _figure(float(reliability.total().error()), resampled.error())
    return out


def _reliability(sheet: _TagResults) -> list[ScoreBin]:
    """Non-empty bins of the predicted tags, by ascending score."""
    if (predicted := sheet.predicted) is None:
        return []
    return score_bins(metrics.Reliability.of(sheet.scores, sheet.task.present, predicted).total())


def score_bins(reliability: metrics.Reliability) -> list[ScoreBin]:
    """The non-empty bins, over all photos."""
    out, edges = [], np.linspace(0, 100, len(reliability.pairs) + 1)
    for place in np.flatnonzero(reliability.pairs):
        pairs, right = float(reliability.pairs[place]), float(reliability.right[place])
        low, high = metrics.wilson(right, pairs)
        score = 100 * float(reliability.score[place]) / pairs
        edge = (round(float(edges[place]), 4), round(float(edges[place + 1]), 4))
        out.append(ScoreBin(*edge, int(pairs), score, 100 * right / pairs, 100 * low, 100 * high))
    return out


def _lines(sheet: _TagResults) -> list[TagLine]:
    positives = sheet.task.present.sum(0)
    lines = [
        TagLine(tag.name, int(positives[k]), 100 * float(sheet.ap[k]))
        for k, tag in enumerate(sheet.task.tags)
    ]
    if sheet.predictions.trained is not None:
        lines = [replace(line, trained=it) for line, it in zip(lines, sheet.predictions.trained, strict=True)]
    return lines if sheet.predicted is None else _lines_at_thresholds(sheet, lines, sheet.predicted)


def _lines_at_thresholds(sheet: _TagResults, lines: list[TagLine], predicted: Bools) -> list[TagLine]:
    """Add results at the thresholds."""
    counts = metrics.Counts.of(predicted, sheet.task.present)
    total = np.where(predicted, sheet.scores, 0).sum(0, dtype=np.float64)
    assert sheet.predictions.thresholds is not None
    return [
        replace(
            line,
            threshold=float(sheet.predictions.thresholds[k]),
            precision=100 * float(counts.precision[k]),
            recall=100 * float(counts.recall[k]),
            F1=100 * float(counts.f1[k]),
            predicted=int(counts.predicted[k]),
            score=100 * float(total[k] / counts.predicted[k]) if counts.predicted[k] else None,
        )
        for k, line in enumerate(lines)
    ]


def _curves(sheet: _TagResults) -> dict[str, Curve]:
    recall, precision = metrics.precision_recall_curve(*sheet.pairs)
    curves = {"precision-recall": _points(recall, precision)}
    if sheet.predictions.are_probabilities:
        score, share, count = metrics.calibration_curve(sheet.scores, sheet.task.present, sheet.known)
        curves["calibration"] = _points(score[count > 0], share[count > 0])
        counts = metrics.counts_at(sheet.scores, sheet.task.present, GRID)
        curves |= {name: _points(GRID, values) for name, values in counts.micro().items()}
        macro = counts.part(sheet.counted).macro()
        curves |= {f"macro {name}": _points(GRID, values) for name, values in macro.items()}
    return curves


def _points(x: AnyFloats, y: AnyFloats) -> Curve:
    """Points without NaN, such as precision where nothing is predicted."""
    both = zip(x.tolist(), y.tolist(), strict=True)
    return [(round(a, 4), round(b, 4)) for a, b in both if not np.isnan(b)]


def worst(
    task: TagTask, predictions: Predictions, *, at_least: int, tags: int = 8, photos: int = 4
) -> list[Mistakes]:
    """The tags with the lowest AP: negative photos with the highest scores, positive ones with the lowest."""
    scores = _masked(task, predictions)
    ap = metrics.average_precision(scores, task.present)
    counted = np.flatnonzero(task.present.sum(0) >= max(1, at_least))
    out = []
    for tag in counted[np.argsort(ap[counted], kind="stable")][:tags]:
        order = np.argsort(-scores[:, tag], kind="stable")
        order = order[np.isfinite(scores[order, tag])]
        is_present = task.present[order, tag]
        rows = {
            "high scores, but not labelled": order[~is_present],
            "low scores, but labelled": order[is_present][::-1],
        }
        pictures = {
            row: [Picture(str(task.photos[n]), f"{scores[n, tag]:.2f}") for n in numbers[:photos]]
            for row, numbers in rows.items()
        }
        out.append(Mistakes(f"{task.tags[tag].name}: AP {100 * ap[tag]:.1f}", pictures))
    return out


def _masked(task: TagTask, predictions: Predictions) -> Floats:
    is_known = True if task.known is None else task.known
    return np.where(is_known, predictions.scores, -np.inf).astype(np.float32)
