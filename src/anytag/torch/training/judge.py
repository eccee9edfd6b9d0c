"""A fine-tuned model against its base, both asked as users ask them, on photos that taught neither."""

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

TIE = 0.002
"""A smaller loss is none."""


def judge(
    base: Path,
    tuned: Path,
    photos: Sequence[Path],
    labels: Labels,
    *,
    keep_old: bool,
    knows: Callable[[str], bool] = lambda name: True,
) -> dict[str, Any]:
    """Figures for the card.

    Args:
        base, tuned: model folders.
        photos: held out.
        labels: of these photos.
        keep_old: whether the base's tags are in `tuned` too.
        knows: whether the base can be asked a tag of this name; others score 0 before.

    Returns:
        "photos", "before" (the base, asked with the tags as own words), "after", and "old tags".
    """
    if not photos:
        return {"photos": 0}
    before, after = Tagger.load(base), Tagger.load(tuned)
    custom_tags = [CustomTag(tag.name) for tag in labels.vocabulary if knows(tag.name)]
    names = [tag.name for tag in labels.vocabulary]
    ids = [tag.id for tag in labels.vocabulary]
    own = _scores(list(before.tag_many(photos, custom_tags)) if custom_tags else [], names, by_name=True)
    results = list(after.tag_many(photos, threshold=0))
    learned = _scores(results, ids)
    predicted = _scores(list(after.tag_many(photos)), ids) > 0
    figures: dict[str, Any] = {
        "photos": len(photos),
        "before": _ranked(own, labels) if custom_tags else {},
        "after": _ranked(learned, labels) | _given(predicted, labels),
    }
    if keep_old:
        figures["old tags"] = compare_old(before, after, photos, _untouched(before.vocabulary, ids))
    return figures


def worse(figures: Mapping[str, Any]) -> str:
    """What speaks against the learned tags on the held-out photos, in a sentence; "" where nothing does."""
    before, after = figures.get("before", {}), figures.get("after", {})
    names = [name for name in ("mAP", "top-1") if after.get(name, 0) < before.get(name, 0) - TIE]
    if not names:
        return ""
    drops = ", ".join(f"{name} {after[name]:.3f} against {before[name]:.3f}" for name in names)
    return (
        f"On photos held out the learned tags are worse than your words alone ({drops}): give more photos of "
        "each tag, or ask the base by your words (anytag tag --tags-from FILE)."
    )


def _untouched(old: Vocabulary, learned: Sequence[str]) -> Vocabulary:
    """Old tags that were not learned anew, nor are broader than one that was: a broader tag follows those."""
    again = {old.index(key) for key in learned if key in old}
    above = again.union(*(old.broader[number] for number in again))
    return Vocabulary(tag for number, tag in enumerate(old) if number not in above)


def compare_old(before: Tagger, after: Tagger, photos: Sequence[Path], old: Vocabulary) -> dict[str, Any]:
    """Whether the base's tags still say the same: scores of all of them, and which are given by default."""
    one, other = (_scores(list(tagger.tag_many(photos, threshold=0)), old.ids) for tagger in (before, after))
    sets = [
        [{tag.id for tag in tags.tags if tag.id in old} for tags in tagger.tag_many(photos)]
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
    """N×K scores of the wanted tags; 0 where a photo has none."""
    column = {key: number for number, key in enumerate(names)}
    scores = np.zeros((len(results), len(names)))
    for row, result in zip(scores, results, strict=True):
        for tag in result.tags:
            place = column.get(tag.name if by_name else tag.id)
            if place is not None:
                row[place] = tag.score
    return scores


def _ranked(scores: Doubles, labels: Labels) -> dict[str, float]:
    present = labels.present > 0.5
    mean, counted = mean_average_precision(scores, present) if present.any() else (0.0, 0)
    figures = {"mAP": round(mean, 4), "tags": counted}
    if labels.known == "classes":
        figures["top-1"] = round(top_k_accuracy(scores, present.argmax(1), 1), 4)
    return figures


def _given(predicted: npt.NDArray[np.bool_], labels: Labels) -> dict[str, float]:
    """Precision, recall and F1 over all tags, as the model gives them by default."""
    present = labels.present > 0.5
    right = int((predicted & present).sum())
    precision, recall = right / max(1, int(predicted.sum())), right / max(1, int(present.sum()))
    f1 = 2 * precision * recall / max(1e-9, precision + recall)
    return {name: round(x, 4) for name, x in (("precision", precision), ("recall", recall), ("F1", f1))}
