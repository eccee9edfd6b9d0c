"""Evaluate models on a task and return a report of plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from anytag._typing import AnyFloats, Bools, Doubles, Floats, Ints
from anytag.errors import AnytagError
from anytag.evaluation import metrics
from anytag.evaluation.adapters import ModelAdapter, Predictions
from anytag.evaluation.captions import MAX_SCORE, caption_scores
from anytag.evaluation.measure import Figure, Measured, Mistakes, Picture, measure, spread, worst
from anytag.evaluation.tasks import Kind, Published, TagTask, TextTask
from anytag.progress import SILENT, Reporter

RESAMPLES = 200
WORST = 12


@dataclass(frozen=True, slots=True)
class Cost:
    """Milliseconds per photo, and peak memory of a separate process."""

    milliseconds: float
    megabytes: float


@dataclass(frozen=True, slots=True)
class Report:
    """The results of an evaluation; all values are plain and can be written as JSON.

    Attributes:
        kind: the task.
        name: the data.
        photos: number of evaluated photos.
        tags: number of tags, of which `counted` have enough photos for means over tags.
        measured: one per model; the first is the evaluated model.
        differences: mAP of each other model minus that of the first, on the same resamples.
        published: published figures.
        mistakes: of the first model.
        costs: by model, if measured.
        failed: path and reason of photos that could not be read.
        notes: remarks about the figures.
    """

    kind: Kind
    name: str
    photos: int
    measured: list[Measured]
    tags: int = 0
    counted: int = 0
    differences: dict[str, Figure] = field(default_factory=dict)
    published: tuple[Published, ...] = ()
    mistakes: list[Mistakes] = field(default_factory=list)
    costs: dict[str, Cost] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Convert to nested plain dictionaries and lists."""
        return asdict(self)


def evaluate_tags(
    task: TagTask,
    adapters: Sequence[ModelAdapter],
    *,
    kind: Kind = "tagging",
    at_least: int = 1,
    times: int = RESAMPLES,
    report: Reporter = SILENT,
) -> Report:
    """Evaluate models on a tagging task.

    Args:
        at_least: number of photos that a tag needs for means over tags.
        times: number of bootstrap resamples; 0 omits intervals.

    Raises:
        AnytagError: no photo can be read, no tag has enough photos, or a model returns non-finite scores.
    """
    predictions = [_check_finite(adapter, adapter.predict(task, report=report), task) for adapter in adapters]
    failed = {number: why for one in predictions for number, why in one.failed.items()}
    unread = {str(task.photos[number]): why for number, why in sorted(failed.items())}
    good = [number for number in range(len(task.photos)) if number not in failed]
    task = task.part(photos=good)
    predictions = [replace(one, scores=one.scores[good], failed={}) for one in predictions]
    counted = int((task.present.sum(0) >= at_least).sum())
    if not counted:
        raise AnytagError(
            f"{task.name}: {len(good)} photos could be read, and no tag is present in {at_least} or more, so "
            f"there is nothing to average; lower --at-least, or provide more photos{_first(unread)}"
        )
    weights = metrics.resamples(len(good), times)
    results = [
        measure(task, one, name=adapter.name, at_least=at_least, weights=weights)
        for adapter, one in zip(adapters, predictions, strict=True)
    ]
    trained_on = [_trained_on(adapter, one) for adapter, one in zip(adapters, predictions, strict=True)]
    return Report(
        kind,
        task.name,
        len(good),
        [
            replace(one, trained_on=trained_on)
            for (one, _), trained_on in zip(results, trained_on, strict=True)
        ],
        tags=len(task.tags),
        counted=counted,
        differences=_differences(results),
        published=task.published,
        mistakes=worst(task, predictions[0], at_least=at_least, tags=WORST),
        failed=unread,
    )


def _check_finite(adapter: ModelAdapter, predictions: Predictions, task: TagTask) -> Predictions:
    """Return the predictions unchanged.

    Raises:
        AnytagError: a score of a readable photo is not finite, so that ranks would be meaningless.
    """
    broken = np.asarray(~np.isfinite(predictions.scores).all(1))
    broken[list(predictions.failed)] = False
    if broken.any():
        raise AnytagError(
            f"{adapter.name} returns non-finite scores for {broken.sum()} photos, the first: "
            f"{task.photos[int(broken.argmax())]}; its weights are damaged, get the model again"
        )
    return predictions


def _trained_on(adapter: ModelAdapter, predictions: Predictions) -> str:
    """Training data of a model, and the number of evaluated tags that it was trained with."""
    text = str(getattr(adapter, "trained_on", ""))
    if predictions.trained is None:
        return text
    share = f"{sum(predictions.trained)} of the {len(predictions.trained)} tags are in its trained vocabulary"
    return f"{text.rstrip('.') or 'unknown data'} ({share})"


def _first(unread: Mapping[str, str]) -> str:
    return f". {len(unread)} could not be read, the first: {next(iter(unread.values()))}" if unread else ""


def _differences(results: Sequence[tuple[Measured, Doubles]]) -> dict[str, Figure]:
    """Differences in mAP on the same resamples, so that variation common to all models cancels out."""
    (first, resampled), *others = results
    out = {}
    for other, also in others:
        value = other.figures["mAP"].value - first.figures["mAP"].value
        out[other.name] = spread(value, 100 * (also - resampled), within=(-100, 100))
    return out


def evaluate_captions(
    task: TextTask,
    answers: Mapping[str, Sequence[str | None]],
    *,
    failed: Mapping[int, str] | None = None,
    times: int = RESAMPLES,
) -> Report:
    """Evaluate captions of each model against reference captions.

    Args:
        answers: N captions by model name; the first is the evaluated model.
        failed: reasons for unreadable photos, by index; these are not evaluated.
    """
    failed = failed or {}
    good = [number for number in range(len(task.photos)) if number not in failed]
    unread = {str(task.photos[number]): why for number, why in failed.items()}
    if not good:
        raise AnytagError(f"{task.name}: there is no caption to evaluate{_first(unread)}")
    references = [task.captions[number] for number in good]
    weights = metrics.resamples(len(good), times)
    measured, mistakes = [], list[Mistakes]()
    for name, captions in answers.items():
        ours = [captions[number] or "" for number in good]
        whole, each = caption_scores(ours, references)
        resampled = {key: weights @ np.array(values) / len(good) for key, values in each.items()}
        figures = {
            key: spread(value, resampled[key], within=(0, MAX_SCORE[key]))
            if key in resampled
            else Figure(value)
            for key, value in whole.items()
        }
        measured.append(Measured(name, figures))
        if not mistakes:
            order = np.argsort(each["CIDEr"], kind="stable")[:WORST]
            mistakes = [_worst_caption(task, good[n], ours[n], each["CIDEr"][n]) for n in order]
    return Report(
        "caption", task.name, len(good), measured, published=task.published, mistakes=mistakes, failed=unread
    )


def _worst_caption(task: TextTask, number: int, ours: str, cider: float) -> Mistakes:
    picture = Picture(str(task.photos[number]), " / ".join(task.captions[number]))
    return Mistakes(f"{ours} (CIDEr {cider:.1f})", {"people wrote": [picture]})


def evaluate_retrieval(task: TextTask, answers: Mapping[str, AnyFloats], *, times: int = RESAMPLES) -> Report:
    """Evaluate recall in both directions: the photo of a caption, and the captions of a photo.

    Args:
        answers: similarity N×M of N photos and the M captions of all photos in order, by model.

    Raises:
        AnytagError: there is no photo, or a similarity is not finite.
    """
    if not task.photos:
        raise AnytagError(f"{task.name}: there is no photo to rank; check that the photos can be read")
    for name, similar in answers.items():
        if not np.isfinite(similar).all():
            raise AnytagError(f"{name} returns non-finite similarities; get the model again")
    owner = np.repeat(np.arange(len(task.photos)), [len(texts) for texts in task.captions])
    right = owner == np.arange(len(task.photos))[:, None]  # N×M
    weights = metrics.resamples(len(task.photos), times)
    measured = []
    for name, similar in answers.items():
        to_photo, to_text = metrics.ranks(similar.T, right.T), metrics.ranks(similar, right)
        figures = _recalls("text to photo", to_photo, owner, weights)
        figures |= _recalls("photo to text", to_text, np.arange(len(task.photos)), weights)
        measured.append(Measured(name, figures))
    first = next(iter(answers.values()))
    return Report(
        "retrieval",
        task.name,
        len(task.photos),
        measured,
        published=task.published,
        mistakes=_worst_retrievals(task, first, right),
    )


def _recalls(way: str, ranks: Ints, owner: npt.NDArray[np.intp], weights: Floats) -> dict[str, Figure]:
    """Recall of Q queries from their ranks. Photos are resampled with all of their queries (`owner`, Q)."""
    out = {}
    queries = np.bincount(owner, minlength=weights.shape[1])
    for k, (key, value) in zip(metrics.KS, metrics.recall_at(ranks).items(), strict=True):
        hits = np.bincount(owner, ranks <= k, minlength=weights.shape[1])
        out[f"{way} {key}"] = spread(100 * value, 100 * (weights @ hits) / (weights @ queries))
    return out | {f"{way} median rank": Figure(float(np.median(ranks)))}


def _worst_retrievals(task: TextTask, similar: AnyFloats, right: Bools) -> list[Mistakes]:
    """Photos whose own captions rank lowest, with the caption that ranks first instead."""
    texts = [text for captions in task.captions for text in captions]
    ranks = metrics.ranks(similar, right)
    out = []
    for n in np.argsort(-ranks, kind="stable")[:WORST]:
        best = texts[int(similar[n].argmax())]
        picture = Picture(str(task.photos[n]), " / ".join(task.captions[n]))
        out.append(Mistakes(f"found: {best} (its own come at rank {ranks[n]})", {"people wrote": [picture]}))
    return out
