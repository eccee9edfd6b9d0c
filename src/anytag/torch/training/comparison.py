"""Compare a fine-tuned model with its base on held-out photos."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from anytag._typing import Doubles
from anytag.evaluation.metrics import mean_average_precision, top_k_accuracy
from anytag.queries.requests import CustomTag
from anytag.results import TagResult
from anytag.tagger import Tagger
from anytag.torch.training.labels import Labels
from anytag.vocabulary import Vocabulary

TOLERANCE = 0.002
"""Smaller decreases of a figure are ignored."""


def compare_models(
    base: Path,
    tuned: Path,
    photos: Sequence[Path],
    labels: Labels,
    *,
    keep_old: bool,
    knows: Callable[[str], bool] = lambda name: True,
) -> dict[str, Any]:
    """Measure both models, for the card.

    Args:
        base, tuned: model folders.
        photos: held-out photos.
        labels: labels of these photos.
        keep_old: whether `tuned` has the base's tags too.
        knows: whether the base can score a custom tag of this name; other tags score 0 "before".

    Returns:
        "photos", "before" (the base with the names as custom tags), "after", and "old tags".
    """
    if not photos:
        return {"photos": 0}
    before, after = Tagger.load(base), Tagger.load(tuned)
    custom_tags = [CustomTag(tag.name) for tag in labels.vocabulary if knows(tag.name)]
    names = [tag.name for tag in labels.vocabulary]
    ids = [tag.id for tag in labels.vocabulary]
    custom = _scores(list(before.tag_many(photos, custom_tags)) if custom_tags else [], names, by_name=True)
    results = list(after.tag_many(photos, threshold=0))
    learned = _scores(results, ids)
    predicted = _scores(list(after.tag_many(photos)), ids) > 0
    figures: dict[str, Any] = {
        "photos": len(photos),
        "before": _ranking_figures(custom, labels) if custom_tags else {},
        "after": _ranking_figures(learned, labels) | _threshold_figures(predicted, labels),
    }
    if keep_old:
        figures["old tags"] = compare_kept_tags(before, after, photos, _unchanged(before.vocabulary, ids))
    return figures


def regression_warning(figures: Mapping[str, Any]) -> str:
    """A warning if the learned tags are worse than the base on the held-out photos; "" if they are not."""
    before, after = figures.get("before", {}), figures.get("after", {})
    names = [name for name in ("mAP", "top-1") if after.get(name, 0) < before.get(name, 0) - TOLERANCE]
    if not names:
        return ""
    drops = ", ".join(f"{name} {after[name]:.3f} against {before[name]:.3f}" for name in names)
    return (
        f"On held-out photos the learned tags are worse than the base with your tag names ({drops}): give "
        "more photos of each tag, or use the base with custom tags (anytag tag --tags-from FILE)."
    )


def _unchanged(old: Vocabulary, learned: Sequence[str]) -> Vocabulary:
    """Old tags that were not learned again and are not broader than one that was, on which they depend."""
    relearned = {old.index(key) for key in learned if key in old}
    affected = relearned.union(*(old.broader[number] for number in relearned))
    return Vocabulary(tag for number, tag in enumerate(old) if number not in affected)


def compare_kept_tags(
    before: Tagger, after: Tagger, photos: Sequence[Path], old: Vocabulary
) -> dict[str, Any]:
    """Compare scores of the base's tags, and which reach their thresholds, before and after fine-tuning."""
    thresholds = {tag.id: tag.threshold for tag in old}
    one, other = (_scores(list(tagger.tag_many(photos, threshold=0)), old.ids) for tagger in (before, after))
    sets = [
        [
            {tag.id for tag in tags.tags if tag.score >= thresholds.get(tag.id, np.inf)}
            for tags in tagger.tag_many(photos)
        ]
        for tagger in (before, after)
    ]
    pairs = list(zip(*sets, strict=True))
    return {
        "tags": len(old),
        "largest score change": round(float(np.abs(one - other).max()), 6),
        "given before": sum(len(was) for was, _ in pairs),
        "given after": sum(len(now) for _, now in pairs),
        "given in both": sum(len(was & now) for was, now in pairs),
    }


def _scores(results: Sequence[TagResult], names: Sequence[str], *, by_name: bool = False) -> Doubles:
    """Scores N×K of the tags; 0 where a result does not have a tag."""
    column = {key: number for number, key in enumerate(names)}
    scores = np.zeros((len(results), len(names)))
    for row, result in zip(scores, results, strict=True):
        for tag in result.tags:
            place = column.get(tag.name if by_name else tag.id)
            if place is not None:
                row[place] = tag.score
    return scores


def _ranking_figures(scores: Doubles, labels: Labels) -> dict[str, float]:
    present = labels.present > 0.5
    mean, counted = mean_average_precision(scores, present) if present.any() else (0.0, 0)
    figures = {"mAP": round(mean, 4), "tags": counted}
    if labels.kind == "classes":
        figures["top-1"] = round(top_k_accuracy(scores, present.argmax(1), 1), 4)
    return figures


def _threshold_figures(predicted: npt.NDArray[np.bool_], labels: Labels) -> dict[str, float]:
    """Precision, recall and F1 over all tags, at the model's thresholds, with the weights of the labels."""
    present = labels.present > 0.5
    right, given, there = (
        float((labels.weight * x).sum()) for x in (predicted & present, predicted, present)
    )
    precision, recall = right / max(1e-9, given), right / max(1e-9, there)
    f1 = 2 * precision * recall / max(1e-9, precision + recall)
    return {name: round(x, 4) for name, x in (("precision", precision), ("recall", recall), ("F1", f1))}
