"""Contestants on a task -> a report of plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from anytag._typing import AnyFloats, Bools, Doubles, Floats, Ints
from anytag.errors import AnytagError
from anytag.evaluation import metrics
from anytag.evaluation.adapters import Answers, Contestant
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
        measured: one for each contestant, the first is the one that is evaluated.
        differences: mAP of each other contestant minus that of the first, on the same resamples.
        published: what others measured.
        mistakes: of the first.
        costs: by contestant, where they were measured.
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
    contestants: Sequence[Contestant],
    *,
    kind: Kind = "tagging",
    at_least: int = 1,
    times: int = RESAMPLES,
    report: Reporter = SILENT,
) -> Report:
    """Asks every contestant the same and measures what they say.

    Args:
        at_least: photos that a tag needs to count in means over tags.
        times: resamples of the bootstrap; 0 leaves intervals out.

    Raises:
        AnytagError: no photo can be read, no tag has photos enough, or a contestant gives no numbers.
    """
    answers = [
        _numbers(contestant, contestant.answer(task, report=report), task) for contestant in contestants
    ]
    failed = {number: why for one in answers for number, why in one.failed.items()}
    unread = {str(task.photos[number]): why for number, why in sorted(failed.items())}
    kept = [number for number in range(len(task.photos)) if number not in failed]
    task = task.part(photos=kept)
    answers = [replace(one, scores=one.scores[kept], failed={}) for one in answers]
    counted = int((task.present.sum(0) >= at_least).sum())
    if not counted:
        raise AnytagError(
            f"{task.name}: no tag is present in {at_least} of the {len(kept)} photos that could be read, so "
            f"there is nothing to average; lower --at-least, or give more photos{_first(unread)}"
        )
    weights = metrics.resamples(len(kept), times)
    found = [
        measure(task, one, name=contestant.name, at_least=at_least, weights=weights)
        for contestant, one in zip(contestants, answers, strict=True)
    ]
    told = [_trained_on(contestant, one) for contestant, one in zip(contestants, answers, strict=True)]
    return Report(
        kind,
        task.name,
        len(kept),
        [replace(one, trained_on=told) for (one, _), told in zip(found, told, strict=True)],
        tags=len(task.tags),
        counted=counted,
        differences=_differences(found),
        published=task.published,
        mistakes=worst(task, answers[0], at_least=at_least, tags=WORST),
        failed=unread,
    )


def _numbers(contestant: Contestant, answers: Answers, task: TagTask) -> Answers:
    """The same answers.

    Raises:
        AnytagError: a score of a photo that could be read is no finite number: ranks would mean nothing.
    """
    broken = np.asarray(~np.isfinite(answers.scores).all(1))
    broken[list(answers.failed)] = False
    if broken.any():
        raise AnytagError(
            f"{contestant.name} gives scores that are no finite numbers for {broken.sum()} photos, the "
            f"first: {task.photos[int(broken.argmax())]}; its weights are damaged, get the model again"
        )
    return answers


def _trained_on(contestant: Contestant, answers: Answers) -> str:
    """What it has learned from, and how many of the tags it was asked for are among what it learned."""
    told = str(getattr(contestant, "trained_on", ""))
    if answers.trained is None:
        return told
    share = f"{sum(answers.trained)} of the {len(answers.trained)} tags asked are in its trained vocabulary"
    return f"{told.rstrip('.') or 'unknown data'} ({share})"


def _first(unread: Mapping[str, str]) -> str:
    return f". {len(unread)} could not be read, the first: {next(iter(unread.values()))}" if unread else ""


def _differences(found: Sequence[tuple[Measured, Doubles]]) -> dict[str, Figure]:
    """On the same resamples, so that what is hard for all plays no part in the interval."""
    (first, drawn), *others = found
    out = {}
    for other, also in others:
        value = other.figures["mAP"].value - first.figures["mAP"].value
        out[other.name] = spread(value, 100 * (also - drawn), within=(-100, 100))
    return out


def evaluate_captions(
    task: TextTask,
    answers: Mapping[str, Sequence[str | None]],
    *,
    failed: Mapping[int, str] | None = None,
    times: int = RESAMPLES,
) -> Report:
    """Captions of each contestant against those that people wrote.

    Args:
        answers: N captions by the contestant's name; the first is the one that is evaluated.
        failed: why photos could not be read, by number; their captions play no part.
    """
    failed = failed or {}
    kept = [number for number in range(len(task.photos)) if number not in failed]
    unread = {str(task.photos[number]): why for number, why in failed.items()}
    if not kept:
        raise AnytagError(f"{task.name}: there is no caption to judge{_first(unread)}")
    references = [task.captions[number] for number in kept]
    weights = metrics.resamples(len(kept), times)
    measured, mistakes = [], list[Mistakes]()
    for name, captions in answers.items():
        ours = [captions[number] or "" for number in kept]
        whole, each = caption_scores(ours, references)
        drawn = {key: weights @ np.array(values) / len(kept) for key, values in each.items()}
        figures = {
            key: spread(value, drawn[key], within=(0, MOST[key])) if key in drawn else Figure(value)
            for key, value in whole.items()
        }
        measured.append(Measured(name, figures))
        if not mistakes:
            order = np.argsort(each["CIDEr"], kind="stable")[:WORST]
            mistakes = [_silly(task, kept[n], ours[n], each["CIDEr"][n]) for n in order]
    return Report(
        "caption", task.name, len(kept), measured, published=task.published, mistakes=mistakes, failed=unread
    )


def _silly(task: TextTask, number: int, ours: str, cider: float) -> Mistakes:
    picture = Picture(str(task.photos[number]), " / ".join(task.captions[number]))
    return Mistakes(f"{ours} (CIDEr {cider:.1f})", {"people wrote": [picture]})


def evaluate_retrieval(task: TextTask, answers: Mapping[str, AnyFloats], *, times: int = RESAMPLES) -> Report:
    """Recall both ways: which photo is a caption's, and which captions are a photo's.

    Args:
        answers: similarity N×M of N photos and the M captions of all photos in order, by contestant.

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


def _recalls(way: str, found: Ints, owner: npt.NDArray[np.intp], weights: Floats) -> dict[str, Figure]:
    """Recall of Q queries by their ranks. Photos are resampled, each with all of its queries (`owner`, Q)."""
    out = {}
    queries = np.bincount(owner, minlength=weights.shape[1])
    for k, (key, value) in zip(metrics.KS, metrics.recall_at(found).items(), strict=True):
        hits = np.bincount(owner, found <= k, minlength=weights.shape[1])
        out[f"{way} {key}"] = spread(100 * value, 100 * (weights @ hits) / (weights @ queries))
    return out | {f"{way} median rank": Figure(float(np.median(found)))}


def _lost(task: TextTask, similar: AnyFloats, right: Bools) -> list[Mistakes]:
    """Photos whose own captions rank lowest, with the caption that comes first instead."""
    texts = [text for captions in task.captions for text in captions]
    found = metrics.ranks(similar, right)
    out = []
    for n in np.argsort(-found, kind="stable")[:WORST]:
        best = texts[int(similar[n].argmax())]
        picture = Picture(str(task.photos[n]), " / ".join(task.captions[n]))
        out.append(Mistakes(f"found: {best} (its own come at rank {found[n]})", {"people wrote": [picture]}))
    return out
