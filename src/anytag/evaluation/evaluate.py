"""Models evaluated on a task -> a report of plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from anytag._typing import AnyFloats, Bools, Doubles, Floats, Ints
from anytag.errors import AnytagError
from anytag.evaluation import metrics
from anytag.evaluation.adapters import Answers, ModelAdapter
from anytag.evaluation.captions import MOST, caption_scores
from anytag.evaluation.measure import Figure, Measured, Mistakes, Picture, measure, spread, worst
from anytag.evaluation.tasks import Kind, Published, TagTask, TextTask
from anytag.progress import SILENT, Reporter

RESAMPLES = 200
WORST = 12


@dataclass(frozen=True, slots=True)
class Cost:
    """What one photo takes: milliseconds, and the peak memory of a process that does nothing else."""

    milliseconds: float
    megabytes: float


@dataclass(frozen=True, slots=True)
class Report:
    """All that is found; every value is plain, so that it can be written as JSON.

    Attributes:
        kind: the task.
        name: the data.
        photos: how many were judged.
        tags: how many were asked, and `counted`, how many of them have photos enough for means over tags.
        measured: one for each model, the first is the one that is evaluated.
        differences: mAP of each other model minus that of the first, on the same resamples.
        published: what others measured.
        mistakes: of the first.
        costs: by model, where they were measured.
        failed: path and reason of photos that could not be read.
        notes: what a reader of the figures must know besides.
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
        """Nested plain dictionaries and lists."""
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
    """Asks every model the same and measures what they say.

    Args:
        at_least: photos that a tag needs to count in means over tags.
        times: resamples of the bootstrap; 0 leaves intervals out.

    Raises:
        AnytagError: no photo can be read, no tag has photos enough, or a model gives no numbers.
    """
    answers = [_numbers(adapter, adapter.answer(task, report=report), task) for adapter in adapters]
    failed = {number: why for one in answers for number, why in one.failed.items()}
    unread = {str(task.photos[number]): why for number, why in sorted(failed.items())}
    good = [number for number in range(len(task.photos)) if number not in failed]
    task = task.part(photos=good)
    answers = [replace(one, scores=one.scores[good], failed={}) for one in answers]
    counted = int((task.present.sum(0) >= at_least).sum())
    if not counted:
        raise AnytagError(
            f"{task.name}: no tag is present in {at_least} of the {len(good)} photos that could be read, so "
            f"there is nothing to average; lower --at-least, or give more photos{_first(unread)}"
        )
    weights = metrics.resamples(len(good), times)
    results = [
        measure(task, one, name=adapter.name, at_least=at_least, weights=weights)
        for adapter, one in zip(adapters, answers, strict=True)
    ]
    trained_on = [_trained_on(adapter, one) for adapter, one in zip(adapters, answers, strict=True)]
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
        mistakes=worst(task, answers[0], at_least=at_least, tags=WORST),
        failed=unread,
    )


def _numbers(adapter: ModelAdapter, answers: Answers, task: TagTask) -> Answers:
    """The same answers.

    Raises:
        AnytagError: a score of a photo that could be read is no finite number: ranks would mean nothing.
    """
    broken = np.asarray(~np.isfinite(answers.scores).all(1))
    broken[list(answers.failed)] = False
    if broken.any():
        raise AnytagError(
            f"{adapter.name} gives scores that are no finite numbers for {broken.sum()} photos, the "
            f"first: {task.photos[int(broken.argmax())]}; its weights are damaged, get the model again"
        )
    return answers


def _trained_on(adapter: ModelAdapter, answers: Answers) -> str:
    """What it has learned from, and how many of the tags it was asked for are among what it learned."""
    text = str(getattr(adapter, "trained_on", ""))
    if answers.trained is None:
        return text
    share = f"{sum(answers.trained)} of the {len(answers.trained)} tags asked are in its trained vocabulary"
    return f"{text.rstrip('.') or 'unknown data'} ({share})"


def _first(unread: Mapping[str, str]) -> str:
    return f". {len(unread)} could not be read, the first: {next(iter(unread.values()))}" if unread else ""


def _differences(results: Sequence[tuple[Measured, Doubles]]) -> dict[str, Figure]:
    """On the same resamples, so that what is hard for all plays no part in the interval."""
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
    """Captions of each model against those that people wrote.

    Args:
        answers: N captions by the model's name; the first is the one that is evaluated.
        failed: why photos could not be read, by number; their captions play no part.
    """
    failed = failed or {}
    good = [number for number in range(len(task.photos)) if number not in failed]
    unread = {str(task.photos[number]): why for number, why in failed.items()}
    if not good:
        raise AnytagError(f"{task.name}: there is no caption to judge{_first(unread)}")
    references = [task.captions[number] for number in good]
    weights = metrics.resamples(len(good), times)
    measured, mistakes = [], list[Mistakes]()
    for name, captions in answers.items():
        ours = [captions[number] or "" for number in good]
        whole, each = caption_scores(ours, references)
        resampled = {key: weights @ np.array(values) / len(good) for key, values in each.items()}
        figures = {
            key: spread(value, resampled[key], within=(0, MOST[key])) if key in resampled else Figure(value)
            for key, value in whole.items()
        }
        measured.append(Measured(name, figures))
        if not mistakes:
            order = np.argsort(each["CIDEr"], kind="stable")[:WORST]
            mistakes = [_silly(task, good[n], ours[n], each["CIDEr"][n]) for n in order]
    return Report(
        "caption", task.name, len(good), measured, published=task.published, mistakes=mistakes, failed=unread
    )


def _silly(task: TextTask, number: int, ours: str, cider: float) -> Mistakes:
    picture = Picture(str(task.photos[number]), " / ".join(task.captions[number]))
    return Mistakes(f"{ours} (CIDEr {cider:.1f})", {"people wrote": [picture]})


def evaluate_retrieval(task: TextTask, answers: Mapping[str, AnyFloats], *, times: int = RESAMPLES) -> Report:
    """Recall both ways: which photo is a caption's, and which captions are a photo's.

    Args:
        answers: similarity N×M of N photos and the M captions of all photos in order, by model.

    Raises:
        AnytagError: there is no photo, or a similarity is no finite number.
    """
    if not task.photos:
        raise AnytagError(f"{task.name}: there is no photo to rank; see that the photos can be read")
    for name, similar in answers.items():
        if not np.isfinite(similar).all():
            raise AnytagError(f"{name} gives similarities that are no finite numbers; get the model again")
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
        mistakes=_lost(task, first, right),
    )


def _recalls(way: str, ranks: Ints, owner: npt.NDArray[np.intp], weights: Floats) -> dict[str, Figure]:
    """Recall of Q queries by their ranks. Photos are resampled, each with all of its queries (`owner`, Q)."""
    out = {}
    queries = np.bincount(owner, minlength=weights.shape[1])
    for k, (key, value) in zip(metrics.KS, metrics.recall_at(ranks).items(), strict=True):
        hits = np.bincount(owner, ranks <= k, minlength=weights.shape[1])
        out[f"{way} {key}"] = spread(100 * value, 100 * (weights @ hits) / (weights @ queries))
    return out | {f"{way} median rank": Figure(float(np.median(ranks)))}


def _lost(task: TextTask, similar: AnyFloats, right: Bools) -> list[Mistakes]:
    """Photos whose own captions rank lowest, with the caption that comes first instead."""
    texts = [text for captions in task.captions for text in captions]
    ranks = metrics.ranks(similar, right)
    out = []
    for n in np.argsort(-ranks, kind="stable")[:WORST]:
        best = texts[int(similar[n].argmax())]
        picture = Picture(str(task.photos[n]), " / ".join(task.captions[n]))
        out.append(Mistakes(f"found: {best} (its own come at rank {ranks[n]})", {"people wrote": [picture]}))
    return out
