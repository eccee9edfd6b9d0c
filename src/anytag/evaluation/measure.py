"""Answers and truth -> figures with intervals, one line a tag, curves and mistakes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from . import metrics
from .contestants import Answers
from .tasks import TagTask

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]
Weights = npt.NDArray[np.float32]
Curve = list[tuple[float, float]]

GRID = np.round(np.arange(0.02, 1.0, 0.02), 2)
KS = (1, 5)


@dataclass(frozen=True, slots=True)
class Figure:
    """One number, in percent unless its name says otherwise, with its 95 % bootstrap interval."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class TagLine:
    """One tag of one contestant, in percent; precision, recall and F1 at `threshold`, where there is one.

    Attributes:
        photos: how many show it.
        trained: whether it was asked with a trained query rather than by its words.
    """

    name: str
    photos: int
    AP: float
    trained: bool | None = None
    threshold: float | None = None
    precision: float | None = None
    recall: float | None = None
    F1: float | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """One contestant on one task.

    Attributes:
        figures: by name.
        tags: one line each.
        curves: points of "precision-recall" and "calibration"; of "precision", "recall", "F1" and their
            macro means by threshold.
    """

    name: str
    figures: dict[str, Figure]
    tags: list[TagLine] = field(default_factory=list)
    curves: dict[str, Curve] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Picture:
    """A photo in a report, by its path, with what is said of it."""

    photo: str
    text: str


@dataclass(frozen=True, slots=True)
class Mistakes:
    """Photos that go wrong in one way, in rows that say how."""

    title: str
    rows: dict[str, list[Picture]]


@dataclass(frozen=True, eq=False)
class _Sheet:
    """What all figures of one contestant are computed from.

    Attributes:
        scores: N×K; minus infinity where nothing is known, which ranks last and is never given.
        counted: columns with enough photos.
        ap: K.
        resampled: B×K, NaN where a resample misses a tag; columns outside `counted` are not filled.
    """

    task: TagTask
    answers: Answers
    scores: Floats
    counted: npt.NDArray[np.intp]
    ap: npt.NDArray[np.float64]
    resampled: npt.NDArray[np.float64]
    weights: Weights

    @classmethod
    def of(cls, task: TagTask, answers: Answers, *, at_least: int, weights: Weights) -> _Sheet:
        scores = _masked(task, answers)
        counted = np.flatnonzero(task.present.sum(0) >= at_least)
        resampled = metrics.resampled_average_precision(scores[:, counted], task.present[:, counted], weights)
        return cls(
            task,
            answers,
            scores,
            counted,
            metrics.average_precision(scores, task.present),
            resampled,
            weights,
        )

    @property
    def present(self) -> Bools:
        """Of the counted tags."""
        return self.task.present[:, self.counted]

    @property
    def counted_scores(self) -> Floats:
        return self.scores[:, self.counted]


def measure(
    task: TagTask, answers: Answers, *, name: str, at_least: int = 1, weights: Weights
) -> tuple[Measured, npt.NDArray[np.float64]]:
    """Everything that is said of one contestant, and its mAP in each resample, B.

    Args:
        task: N photos, all of which could be read.
        answers: of the same photos.
        at_least: photos that a tag needs to count in means over tags.
        weights: B×N of `metrics.resamples`; B may be 0.
    """
    sheet = _Sheet.of(task, answers, at_least=at_least, weights=weights)
    figures = _ranking(sheet) | _answers(sheet) | _at_own_thresholds(sheet) | _at_best_threshold(sheet)
    if answers.are_probabilities:
        known = np.isfinite(sheet.counted_scores)
        pairs = sheet.counted_scores[known], sheet.present[known]
        figures["ECE"] = Figure(100 * metrics.expected_calibration_error(*pairs))
    return Measured(name, figures, _lines(sheet), _curves(sheet)), _means(sheet.resampled)


def spread(value: float, resampled: npt.NDArray[np.floating]) -> Figure:
    """A figure with the interval of its resampled values, B; without one where B is 0."""
    if len(resampled) == 0 or np.isnan(resampled).all():
        return Figure(value)
    return Figure(value, *metrics.interval(value, resampled.astype(np.float64)))


def _figure(value: float, resampled: npt.NDArray[np.float64]) -> Figure:
    """Shares -> percent."""
    return spread(100 * value, 100 * resampled)


def _means(resampled: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """B×K -> B, without the tags that a resample misses."""
    some = ~np.isnan(resampled)
    return np.asarray(np.where(some, resampled, 0).sum(1) / np.maximum(some.sum(1), 1))


def _ranking(sheet: _Sheet) -> dict[str, Figure]:
    """Figures that need no threshold."""
    out = {
        "mAP": _figure(float(sheet.ap[sheet.counted].mean()), _means(sheet.resampled)),
        "mAP as published": Figure(100 * float(sheet.ap.mean())),
        "micro AP": Figure(100 * metrics.micro_average_precision(sheet.counted_scores, sheet.present)),
    }
    out |= _by_query(sheet)
    for k in KS:
        out[f"P@{k}"] = Figure(100 * metrics.precision_at(sheet.scores, sheet.task.present, k))
    return out


def _by_query(sheet: _Sheet) -> dict[str, Figure]:
    """mAP of tags with trained queries and of those asked by their words, where there are both."""
    if sheet.answers.trained is None:
        return {}
    trained = np.array(sheet.answers.trained)[sheet.counted]
    if trained.all() or not trained.any():
        return {}
    parts = {"mAP of trained tags": trained, "mAP of tags by their words": ~trained}
    ap = sheet.ap[sheet.counted]
    return {
        name: _figure(float(ap[part].mean()), _means(sheet.resampled[:, part]))
        for name, part in parts.items()
    }


def _answers(sheet: _Sheet) -> dict[str, Figure]:
    """Where every photo has exactly one tag, and all names are known: is it among the k best?"""
    if sheet.task.known is not None or (sheet.task.present.sum(1) != 1).any():
        return {}
    answer = sheet.task.present.argmax(1)
    return {f"top-{k}": Figure(100 * metrics.top_k_accuracy(sheet.scores, answer, k)) for k in KS}


def _at_own_thresholds(sheet: _Sheet) -> dict[str, Figure]:
    """What users see without any option."""
    if sheet.answers.thresholds is None:
        return {}
    given = sheet.scores >= sheet.answers.thresholds
    counted = given[:, sheet.counted]
    found = metrics.Counts.of(counted, sheet.present)
    drawn = metrics.resampled_counts(counted, sheet.present, sheet.weights)
    macro, micro = (found.macro(), drawn.macro()), (found.micro(), drawn.micro())
    out = {key: _figure(float(micro[0][key]), micro[1][key]) for key in micro[0]}
    out |= {f"macro {key}": _figure(float(macro[0][key]), macro[1][key]) for key in macro[0]}
    return out | {"tags a photo": Figure(float(given.sum(1).mean()))}


def _at_best_threshold(sheet: _Sheet) -> dict[str, Figure]:
    """The best F1 of one threshold for all tags, chosen on these very photos: fair to who only ranks."""
    finite = sheet.counted_scores[np.isfinite(sheet.counted_scores)]
    grid = np.unique(np.quantile(finite, np.linspace(0.5, 1, 200)).astype(np.float64))
    found = metrics.counts_at(sheet.counted_scores, sheet.present, grid)
    return {"best F1": Figure(100 * float(found.micro()["F1"].max()))}


def _lines(sheet: _Sheet) -> list[TagLine]:
    trained = sheet.answers.trained
    thresholds = sheet.answers.thresholds
    found = None
    if thresholds is not None:
        found = metrics.Counts.of(sheet.scores >= thresholds, sheet.task.present)
    lines = []
    for k, asked in enumerate(sheet.task.tags):
        line = TagLine(
            asked.name,
            int(sheet.task.present[:, k].sum()),
            100 * float(sheet.ap[k]),
            trained=None if trained is None else trained[k],
            threshold=None if thresholds is None else float(thresholds[k]),
            precision=None if found is None else 100 * float(found.precision[k]),
            recall=None if found is None else 100 * float(found.recall[k]),
            F1=None if found is None else 100 * float(found.f1[k]),
        )
        lines.append(line)
    return lines


def _curves(sheet: _Sheet) -> dict[str, Curve]:
    recall, precision = metrics.precision_recall_curve(sheet.counted_scores, sheet.present)
    curves = {"precision-recall": _points(recall, precision)}
    if sheet.answers.are_probabilities:
        known = np.isfinite(sheet.counted_scores)
        score, share, count = metrics.calibration_curve(sheet.counted_scores[known], sheet.present[known])
        curves["calibration"] = _points(score[count > 0], share[count > 0])
        found = metrics.counts_at(sheet.counted_scores, sheet.present, GRID)
        curves |= {name: _points(GRID, values) for name, values in found.micro().items()}
        curves |= {f"macro {name}": _points(GRID, values) for name, values in found.macro().items()}
    return curves


def _points(x: Floats, y: Floats) -> Curve:
    return [(round(float(a), 4), round(float(b), 4)) for a, b in zip(x, y, strict=True)]


def worst(
    task: TagTask, answers: Answers, *, at_least: int, tags: int = 8, photos: int = 4
) -> list[Mistakes]:
    """The tags with the lowest AP: their highest scores where they are not, their lowest where they are."""
    scores = _masked(task, answers)
    ap = metrics.average_precision(scores, task.present)
    counted = np.flatnonzero(task.present.sum(0) >= max(1, at_least))
    out = []
    for tag in counted[np.argsort(ap[counted], kind="stable")][:tags]:
        order = np.argsort(-scores[:, tag], kind="stable")
        order = order[np.isfinite(scores[order, tag])]
        there = task.present[order, tag]
        rows = {"high, but not said to be there": order[~there], "low, but there": order[there][::-1]}
        pictures = {
            row: [Picture(str(task.photos[n]), f"{scores[n, tag]:.2f}") for n in numbers[:photos]]
            for row, numbers in rows.items()
        }
        out.append(Mistakes(f"{task.tags[tag].name}: AP {100 * ap[tag]:.1f}", pictures))
    return out


def _masked(task: TagTask, answers: Answers) -> npt.NDArray[np.float32]:
    known = True if task.known is None else task.known
    return np.where(known, answers.scores, -np.inf).astype(np.float32)
