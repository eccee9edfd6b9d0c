"""Soft labels for tags that rows do not mention, from a classifier and from the vocabulary's hierarchy."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from anytag._typing import Floats
from anytag.vocabulary import NOUN_KINDS, Vocabulary

MIN_MENTIONS = 10
"""A tag in fewer captions is unknown, instead of absent, in photos whose captions do not mention it."""


@dataclass(frozen=True)
class ImageNetClasses:
    """The mapping of ImageNet's classes to tags.

    Attributes:
        tags: int64 1000, the tag of each class.
        below: for each broader tag (by index), the classes below it.
    """

    tags: npt.NDArray[np.int64]
    below: dict[int, npt.NDArray[np.int64]]

    @classmethod
    def read(cls, path: Path, vocabulary: Vocabulary) -> ImageNetClasses:
        fields = json.loads(path.read_text(encoding="utf-8"))
        index = {tag.id: number for number, tag in enumerate(vocabulary)}
        below = {index[key]: np.array(classes) for key, classes in fields["below"].items() if key in index}
        return cls(np.array([index[key] for key in fields["classes"]]), below)

    def soft_targets(self, logits: Floats, tags: int) -> Floats:
        """Logits N×1000 -> probabilities N×K: those of classes, their sums for broader tags, 0 for others."""
        exp = np.exp(logits - logits.max(1, keepdims=True))
        p = exp / exp.sum(1, keepdims=True)
        out = np.zeros((len(p), tags), dtype=np.float32)
        out[:, self.tags] = p
        for tag, classes in self.below.items():
            out[:, tag] = np.maximum(out[:, tag], p[:, classes].sum(1))
        return out


def exclusive_subjects(vocabulary: Vocabulary) -> npt.NDArray[np.bool_]:
    """Bool K×K: whether tag k as main subject (first index) excludes the other tag as main subject.

    It does not exclude its broader and narrower tags.
    """
    can_be = np.array([tag.kind in NOUN_KINDS or bool(tag.parents) for tag in vocabulary])
    kin = np.eye(len(vocabulary), dtype=bool)
    for number, broader in enumerate(vocabulary.broader):
        kin[number, list(broader)] = True
    rivals: npt.NDArray[np.bool_] = can_be[None] & ~(kin | kin.T)
    return rivals


MIN_NARROWER = 8
"""A tag with at least this number of narrower tags is broad."""


def may_co_occur(vocabulary: Vocabulary) -> npt.NDArray[np.bool_]:
    """Bool K: tags that may occur in photos of another subject: people, clothing, and specific tags."""
    narrower = np.bincount([b for broader in vocabulary.broader for b in broader], minlength=len(vocabulary))
    pairs = zip(vocabulary, vocabulary.broader, strict=True)
    kin = [{tag.id, *(vocabulary[b].id for b in broader)} for tag, broader in pairs]
    worn = np.array([bool(ids & {"person", "clothing"}) for ids in kin])
    co_occurring: npt.NDArray[np.bool_] = worn | (narrower < MIN_NARROWER)
    return co_occurring
