"""What a classifier and a vocabulary know of tags that nobody names: soft targets where rows are silent."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from anytag._typing import Floats
from anytag.vocabulary import Vocabulary

MIN_MENTIONS = 10
"""A tag that captions mention more rarely is unknown, not absent, where they are silent."""


@dataclass(frozen=True)
class ImageNetClasses:
    """How the classifier's classes are tags.

    Attributes:
        tags: index of the tag of each class.
        below: for each broader tag (by index), the classes that are kinds of it.
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
        """N×1000 logits -> N×K: a class's probability, a broader tag's sum; 0 where ImageNet is silent."""
        exp = np.exp(logits - logits.max(1, keepdims=True))
        p = exp / exp.sum(1, keepdims=True)
        out = np.zeros((len(p), tags), dtype=np.float32)
        out[:, self.tags] = p
        for tag, classes in self.below.items():
            out[:, tag] = np.maximum(out[:, tag], p[:, classes].sum(1))
        return out


def exclusive_subjects(vocabulary: Vocabulary) -> npt.NDArray[np.bool_]:
    """K×K: what a photo's main subject is not when it is tag k: no broader tag and none that it includes."""
    can_be = np.array([tag.kind in ("object", "scene") or bool(tag.parents) for tag in vocabulary])
    kin = np.eye(len(vocabulary), dtype=bool)
    for number, broader in enumerate(vocabulary.broader):
        kin[number, list(broader)] = True
    rivals: npt.NDArray[np.bool_] = can_be[None] & ~(kin | kin.T)
    return rivals


BROAD = 8
"""A tag with so many narrower ones is a broad word."""


def may_co_occur(vocabulary: Vocabulary) -> npt.NDArray[np.bool_]:
    """K: tags that may well be in a photo of something else: people, what they wear, and no broad word."""
    narrower = np.bincount([b for broader in vocabulary.broader for b in broader], minlength=len(vocabulary))
    pairs = zip(vocabulary, vocabulary.broader, strict=True)
    kin = [{tag.id, *(vocabulary[b].id for b in broader)} for tag, broader in pairs]
    worn = np.array([bool(ids & {"person", "clothing"}) for ids in kin])
    around: npt.NDArray[np.bool_] = worn | (narrower < BROAD)
    return around
