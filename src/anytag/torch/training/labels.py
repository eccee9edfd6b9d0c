"""Plain rows -> a vocabulary, and what is known of each photo, whatever the rows know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from anytag.data.rows import Row
from anytag.errors import AnytagError
from anytag.parsing.build import build_vocabulary
from anytag.torch.training.soft_labels import MENTIONED, Labeler
from anytag.vocabulary import Tag, Vocabulary

Floats = npt.NDArray[np.float32]
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
    tags = _named(rows, base) or _mentioned(rows, base)
    if not tags:
        raise AnytagError(
            f"none of the {len(rows)} rows names a tag, and no word is in {FEWEST_MENTIONS} captions; "
            "give tags, parted by ';'"
        )
    vocabulary = Vocabulary(tags)
    known = _knowledge(rows, positives_only=positives_only)
    return Labels(vocabulary, *_matrices(rows, vocabulary, known), known)


def _named(rows: Sequence[Row], base: Vocabulary) -> list[Tag]:
    """Tags that rows name, in alphabetical order."""
    tags: dict[str, Tag] = {}
    for name in sorted({name for row in rows for name in row.tags}):
        tags.setdefault(name.lower(), _tag(name, base))
    return list({tag.id: tag for tag in tags.values()}.values())


def _tag(name: str, base: Vocabulary) -> Tag:
    found = base.find(name)
    if found is not None and found.name.lower() == name.lower():
        return replace(found, name=name, parents=())  # the rows say what is there, and they alone
    return Tag(name, name, "object")


def _mentioned(rows: Sequence[Row], base: Vocabulary) -> list[Tag]:
    """Tags of what captions mention."""
    captions = [caption for row in rows for caption in row.captions]
    tags: dict[str, Tag] = {}
    for found in build_vocabulary(captions, min_count=FEWEST_MENTIONS):
        known = base.find(found.name)
        same = known is not None and (known.name, known.kind) == (found.name, found.kind)
        name = found.name if found.name not in tags else f"{found.name} ({found.kind})"
        tag = known if same and known is not None else Tag(name, found.name, found.kind)
        tags.setdefault(tag.id, tag)
    return list(tags.values())


def _knowledge(rows: Sequence[Row], *, positives_only: bool) -> Knowledge:
    if positives_only:
        return "positives"
    told = [row for row in rows if row.tags]
    if not told:
        return "captions"
    names = {name for row in rows for name in row.tags}
    return "classes" if len(names) > 1 and all(len(row.tags) == 1 for row in rows) else "tags"


def _matrices(rows: Sequence[Row], vocabulary: Vocabulary, known: Knowledge) -> tuple[Floats, Floats]:
    labeler = Labeler(vocabulary)
    columns = {tag.name.lower(): number for number, tag in enumerate(vocabulary)}
    present = np.zeros((len(rows), len(vocabulary)), np.float32)
    weight = np.zeros_like(present)
    for number, row in enumerate(rows):
        said = {columns[name.lower()] for name in row.tags if name.lower() in columns}
        said |= labeler.mentioned(row)
        present[number, sorted(said)] = 1
        weight[number] = _silence(row, known)
        weight[number, [columns[name.lower()] for name in row.absent if name.lower() in columns]] = 1
    weight[present == 1] = 1
    return present, weight


def _silence(row: Row, known: Knowledge) -> float:
    """How surely a tag is absent that a row does not name."""
    if known == "positives":
        return UNLABELLED
    if known == "captions":
        return 1 - (1 - MENTIONED) ** len(row.captions)
    return 1.0
