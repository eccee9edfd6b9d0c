"""Rows -> a vocabulary, and weighted labels of each photo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from anytag._typing import Floats
from anytag.data.labels import (
    Labeler,
    Silence,
    by_captions,
    certain,
    label_matrix,
    label_tags,
    mentioned_tags,
)
from anytag.data.rows import Row
from anytag.errors import AnytagError
from anytag.vocabulary import Vocabulary

LabelKind = Literal["classes", "tags", "captions", "positives"]

MIN_MENTIONS = 5
"""A word becomes a tag if at least this number of captions contain it."""
UNLABELLED = 0.15
"""Weight of unlabelled tags as negatives if only positives are labelled."""

KIND_DESCRIPTIONS = {
    "classes": "each photo has exactly one of the tags",
    "tags": "each photo has its labelled tags and no others",
    "captions": "each photo has the tags in its captions; other tags are weighted as absent by the number of "
    "captions",
    "positives": f"each photo has its labelled tags; other tags count as absent with weight {UNLABELLED}",
}


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels of N rows for K tags.

    Attributes:
        vocabulary: the tags.
        present: float32 N×K, 0 or 1.
        weight: float32 N×K in [0, 1], confidence of the label.
        kind: kind of the labels, see `KIND_DESCRIPTIONS`.
    """

    vocabulary: Vocabulary
    present: Floats
    weight: Floats
    kind: LabelKind

    def take(self, rows: npt.NDArray[np.int64]) -> Labels:
        """The labels of some of the rows."""
        return replace(self, present=self.present[rows], weight=self.weight[rows])

    def class_weights(self, *, largest: float = 10.0) -> Floats:
        """Weight K of a tag's positives relative to its negatives, larger for rare tags."""
        there = (self.present * self.weight).sum(0)
        away = ((1 - self.present) * self.weight).sum(0)
        weights: Floats = np.sqrt(np.clip(away / np.maximum(there, 1), 1, largest**2))
        return weights


def label_rows(rows: Sequence[Row], base: Vocabulary, *, positives_only: bool = False) -> Labels:
    """Build the vocabulary of the rows and their labels.

    Tags that `base` has under the same name keep their id, kind, synonyms and names. If no row has tags, tags
    are taken from captions.

    Raises:
        AnytagError: no row has a tag, and no word is in enough captions.
    """
    names = {name for row in rows for name in row.tags}
    captions = [caption for row in rows for caption in row.captions]
    tags = label_tags(names, base) or mentioned_tags(captions, fewest=MIN_MENTIONS, base=base)
    if not tags:
        raise AnytagError(
            f"none of the {len(rows)} rows has a tag, and no word is in {MIN_MENTIONS} captions; "
            "give tags, separated by ';'"
        )
    vocabulary = Vocabulary(tags)
    kind = _label_kind(rows, positives_only=positives_only)
    found = label_matrix(rows, Labeler(vocabulary), silence=_silence(kind))
    return Labels(
        vocabulary, found.present.astype(np.float32), np.divide(found.weight, 100, dtype=np.float32), kind
    )


def _label_kind(rows: Sequence[Row], *, positives_only: bool) -> LabelKind:
    if positives_only:
        return "positives"
    tagged_rows = [row for row in rows if row.tags]
    if not tagged_rows:
        return "captions"
    names = {name for row in rows for name in row.tags}
    return "classes" if len(names) > 1 and all(len(row.tags) == 1 for row in rows) else "tags"


def _silence(kind: LabelKind) -> Silence:
    """The confidence that a tag is absent if a row does not have it."""
    if kind == "positives":
        return lambda row: UNLABELLED
    return by_captions if kind == "captions" else certain
