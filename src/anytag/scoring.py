"""From logits to probabilities, hierarchy, and the selected tags by descending score."""

from __future__ import annotations

import numpy as np

from anytag._typing import AnyFloats, Bools, Doubles, Ints

_MAX_LOGIT = 60  # the sigmoid of larger ones is 1 to all digits


def sigmoid(logits: AnyFloats) -> AnyFloats:
    """Probabilities of logits of any shape and dtype."""
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -_MAX_LOGIT, _MAX_LOGIT))))


def propagate_to_broader(scores: AnyFloats, pairs: Ints) -> None:
    """Raise each tag's score to the maximum of its narrower tags: a photo of a tabby is one of a cat.

    Args:
        scores: N×K, changed in place.
        pairs: int64 E×2, index of a tag and of each broader one, indirect ones included.
    """
    np.maximum.at(scores.T, pairs[:, 1], scores.T[pairs[:, 0]])


def reaches(scores: AnyFloats, thresholds: AnyFloats, *, strict: bool = False) -> Bools:
    """Which scores reach their thresholds; with `strict`, exceed them."""
    return np.asarray(scores > thresholds if strict else scores >= thresholds)


def add_nearest(mask: Bools, scores: AnyFloats, thresholds: Doubles, *, count: int, share: float) -> Bools:
    """Extend a mask of K selected tags to `count`, by those that come nearest to their positive thresholds.

    Args:
        share: smallest ratio of a score to its threshold, in (0, 1].
    """
    missing = count - int(mask.sum())
    if missing <= 0:  # as for most photos
        return mask
    ratio = np.where(mask, 0, scores / np.maximum(thresholds, 1e-9))
    best = np.argsort(-ratio, kind="stable")[:missing]
    extended = mask.copy()
    extended[best[ratio[best] >= share]] = True
    return extended


def logit_thresholds(thresholds: Doubles, slope: Doubles, bias: Doubles) -> Doubles:
    """Thresholds K as logits, infinite for 0 and 1; the inverse of `sigmoid(slope · logit + bias)`."""
    with np.errstate(divide="ignore"):
        odds = np.log(thresholds) - np.log1p(-np.minimum(thresholds, 1))
    return np.asarray((odds - bias) / slope)


def ranked(scores: AnyFloats, mask: Bools, top_k: int | None = None) -> Ints:
    """Indices of the masked tags of K scores by descending score, at most `top_k`; the sort is stable."""
    index = np.flatnonzero(mask)
    return index[np.argsort(-scores[index], kind="stable")][:top_k]
