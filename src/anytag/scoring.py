"""Logits -> probabilities -> hierarchy -> the tags that are given, by falling score."""

from __future__ import annotations

import numpy as np

from anytag._typing import AnyFloats, Bools, Doubles, Ints

_SURE = 60  # beyond it a probability is 0 or 1 in every digit that is kept


def sigmoid(logits: AnyFloats) -> AnyFloats:
    """Probabilities of logits of any shape and type."""
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -_SURE, _SURE))))


def raise_broader(scores: AnyFloats, below: Ints) -> None:
    """No broader tag scores less than what it includes: a photo of a tabby is one of a cat.

    Args:
        scores: N×K, changed in place.
        below: int64 E×2, pairs of a tag and any broader one, not the next alone.
    """
    np.maximum.at(scores.T, below[:, 1], scores.T[below[:, 0]])


def is_given(scores: AnyFloats, thresholds: AnyFloats, *, strict: bool = False) -> Bools:
    """Which scores reach their thresholds; a `strict` one must be higher."""
    return np.asarray(scores > thresholds if strict else scores >= thresholds)


def limits(thresholds: Doubles, slope: Doubles, bias: Doubles) -> Doubles:
    """The logits that thresholds K mean, infinite for 0 and 1; see `sigmoid(slope · logit + bias)`."""
    with np.errstate(divide="ignore"):
        odds = np.log(thresholds) - np.log1p(-np.minimum(thresholds, 1))
    return np.asarray((odds - bias) / slope)


def ranked(scores: AnyFloats, among: Bools, top_k: int | None = None) -> Ints:
    """Numbers of the tags `among` K scores, the highest first, at most `top_k`; equal ones in their order."""
    index = np.flatnonzero(among)
    return index[np.argsort(-scores[index], kind="stable")][:top_k]
