"""Plain rows -> a vocabulary, and what is known of each photo, whatever the rows know."""

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

Knowledge = Literal["classes", "tags", "captions", "positives"]

FEWEST_MENTIONS = 5
"""A word of captions becomes a tag when so many captions use it."""
UNLABELLED = 0.15
"""How much silence counts where only positives are known: most tags are absent from most photos."""

KNOWN = {
    "classes": "each photo has exactly one of the tags",
    "tags": "each photo has the tags it names and no others",
    "captions": "a photo has the tags its captions mention; the more captions, the more their silence counts",
    "positives": "only present tags are known; what a photo does not name counts as absent, "
    f"with weight {UNLABELLED}",
}


@dataclass(frozen=True, eq=False)
class Labels:
    """What N rows say about K tags.

    Attributes:
        vocabulary: the tags.
        present: float32 N×K, 0 or 1.
        weight: float32 N×K in [0, 1], how sure that is.
        known: what kind of knowledge it is; `KNOWN` says it in words.
    """

    vocabulary: Vocabulary
    present: Floats
    weight: Floats
    known: Knowledge

    def take(self, rows: npt.NDArray[np.int64]) -> Labels:
        """Of some of the rows."""
        return replace(self, present=self.present[rows], weight=self.weight[rows])

    def class_weights(self, *, largest: float = 10.0) -> Floats:
        """K: how much a present entry counts more than an absent one, so that rare tags are heard."""
        there = (self.present * self.weight).sum(0)
        away = ((1 - self.present) * self.weight).sum(0)
        weights: Floats = np.sqrt(np.clip(away / np.maximum(there, 1), 1, largest**2))
        return weights


def label_rows(rows: Sequence[Row], base: Vocabulary, *, positives_only: bool = False) -> Labels:
    """Builds the vocabulary of the rows and reads them with it.

    Tags that `base` has under the same name keep their id, kind, synonyms and names there. Rows that name no
    tag at all but have captions are parsed.

    Raises:
        AnytagError: nothing names a tag often enough.
    """
    names = {name for row in rows for name in row.tags}
    captions = [caption for row in rows for caption in row.captions]
    tags = label_tags(names, base) or mentioned_tags(captions, fewest=FEWEST_MENTIONS, base=base)
    if not tags:
        raise AnytagError(
            f"none of the {len(rows)} rows names a tag, and no word is in {FEWEST_MENTIONS} captions; "
            "give tags, separated by ';'"
        )
    vocabulary = Vocabulary(tags)
    known = _knowledge(rows, positives_only=positives_only)
    found = label_matrix(rows, Labeler(vocabulary), silence=_silence(known))
    return Labels(
        vocabulary, found.present.astype(np.float32), np.divide(found.weight, 100, dtype=np.float32), known
    )


def _knowledge(rows: Sequence[Row], *, positives_only: bool) -> Knowledge:
    if positives_only:
        return "positives"
    tagged_rows = [row for row in rows if row.tags]
    if not tagged_rows:
        return "captions"
    names = {name for row in rows for name in row.tags}
    return "classes" if len(names) > 1 and all(len(row.tags) == 1 for row in rows) else "tags"


def _silence(known: Knowledge) -> Silence:
    """How surely a tag is absent that a row does not name."""
    if known == "positives":
        return lambda row: UNLABELLED
    return by_captions if known == "captions" else certain
