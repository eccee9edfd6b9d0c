"""Convert rows to tags: captions and labels as columns of a vocabulary, and as a label matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from anytag.data.rows import Row
from anytag.parsing import Parser, default_lexicon
from anytag.parsing.build import build_vocabulary
from anytag.vocabulary import Tag, Vocabulary, matching_key

_KINDS = ("object", "scene", "attribute", "action")


class Labeler:
    """Maps captions and labels to tags of a vocabulary, including broader tags.

    Args:
        vocabulary: its tags are the columns of all matrices.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.parser = Parser(vocabulary=vocabulary)
        self.index = {tag.id: number for number, tag in enumerate(vocabulary)}
        self.above = [set(broader) for broader in vocabulary.broader]
        # The first tag of a name and kind; orange the fruit and orange the colour are two tags. Names take
        # precedence over synonyms.
        self.named: dict[tuple[str, str], str] = {}
        for tag in vocabulary:
            self.named.setdefault((matching_key(tag.name), tag.kind), tag.id)
        for tag in vocabulary:
            for word in tag.synonyms:
                self.named.setdefault((matching_key(word), tag.kind), tag.id)

    def __len__(self) -> int:
        return len(self.vocabulary)

    def label(self, name: str) -> str | None:
        """Id of the tag for a label, which may be a plural; objects and scenes take precedence.

        Case, spaces and hyphens are ignored: "jack o'lantern", "lawnmower".
        """
        *first, last = name.lower().split(" ")
        singular = " ".join([*first, default_lexicon().inflection.singular(last)])
        forms = (name.lower(), singular, default_lexicon().canonical(singular, "object"))
        names = (self.named.get((matching_key(form), kind)) for form in forms for kind in _KINDS)
        return next((key for key in names if key), None)

    def _columns(self, ids: set[str | None]) -> set[int]:
        columns = {self.index[key] for key in ids if key is not None}
        return columns.union(*(self.above[column] for column in columns))

    def labels(self, names: Sequence[str]) -> set[int]:
        """Columns of labels and all broader tags."""
        return self._columns({self.label(name) for name in names})

    def absent(self, row: Row) -> set[int]:
        """Columns of absent labels, without broader tags, which may be present."""
        return {self.index[key] for name in row.absent if (key := self.label(name)) is not None}

    def caption(self, caption: str) -> set[int]:
        """Columns of the tags in a caption and all broader tags."""
        found = self.parser.parse(caption)
        return self._columns({self.named.get((matching_key(tag.name), tag.kind)) for tag in found})

    def of_captions(self, row: Row) -> tuple[tuple[int, ...], ...]:
        """Sorted columns of each caption, from the data's own parse, or else from the parser."""
        if row.parsed:
            removed_names = {name for name, _ in row.cleaned}
            return tuple(tuple(sorted(self._exact(set(names) - removed_names))) for names in row.parsed)
        return tuple(tuple(sorted(self.caption(caption))) for caption in row.captions)

    def of_photo(self, row: Row, parsed: Sequence[Sequence[int]]) -> tuple[int, ...]:
        """Sorted columns of a photo's labels and captions; if the data includes parsed captions, of its tags
        without broader ones."""
        if row.parsed:
            return tuple(sorted(self._exact(row.tags)))
        return tuple(sorted(self.labels(row.tags).union(*map(set, parsed))))

    def _exact(self, names: Iterable[str]) -> set[int]:
        """Columns of ids or names, without broader tags."""
        resolved = (name if name in self.index else self.label(name) for name in names)
        return {self.index[key] for key in resolved if key is not None}

    def captions(self, captions: Sequence[str]) -> set[int]:
        """Columns of the tags in any of the captions."""
        return set[int]().union(*map(self.caption, captions))

    def mentioned(self, row: Row) -> set[int]:
        """Columns of the tags in a photo's captions, except those removed by cleaning."""
        cleaned = {key for name, _ in row.cleaned if (key := self.label(name)) is not None}
        return self.captions(row.captions) - {self.index[key] for key in cleaned}

    def present(self, row: Row) -> set[int]:
        """Columns of all tags in a photo's captions and labels."""
        return self.labels(row.tags) | self.mentioned(row)


def label_tags(names: Iterable[str], base: Vocabulary | None = None) -> list[Tag]:
    """The tags of labels, in alphabetical order; names that differ only in case are one tag.

    Args:
        base: vocabulary whose tags of the same name keep their id, kind, synonyms and names.
    """
    tags: dict[str, Tag] = {}
    for name in sorted(name for name in set(names) if name.strip()):
        known = None if base is None else base.find(name)
        if known is not None and known.name.lower() == name.lower():
            tag = replace(known, name=name, parents=())  # labels come from the rows alone
        else:
            tag = Tag(name, name, "object")
        tags.setdefault(name.lower(), tag)
    return list({tag.id: tag for tag in tags.values()}.values())


def mentioned_tags(captions: Iterable[str], *, fewest: int, base: Vocabulary | None = None) -> list[Tag]:
    """The tags of at least `fewest` captions, most frequent first; `base` as above, if kinds match."""
    tags: dict[str, Tag] = {}
    for found in build_vocabulary(captions, min_count=fewest):
        known = None if base is None else base.find(found.name)
        id = found.name if found.name not in tags else f"{found.name} ({found.kind})"
        tag = Tag(id, found.name, found.kind, parents=found.parents)
        if known is not None and (known.name, known.kind) == (found.name, found.kind):
            tag = known
        tags.setdefault(tag.id, tag)
    return list(tags.values())


class Columns(Protocol):
    """Columns of a label matrix; implemented by `Labeler` and `Names`."""

    def __len__(self) -> int: ...

    def labels(self, names: Sequence[str]) -> set[int]: ...

    def mentioned(self, row: Row) -> set[int]: ...

    def absent(self, row: Row) -> set[int]: ...


class Names:
    """Columns by label name; captions are ignored."""

    def __init__(self, names: Sequence[str]) -> None:
        self.column = {name: number for number, name in enumerate(names)}

    def __len__(self) -> int:
        return len(self.column)

    def labels(self, names: Sequence[str]) -> set[int]:
        """Columns of known names."""
        return {self.column[name] for name in names if name in self.column}

    def mentioned(self, row: Row) -> set[int]:
        """No columns."""
        return set()

    def absent(self, row: Row) -> set[int]:
        """Columns of absent labels."""
        return self.labels(row.absent)


Silence = Callable[[Row], float]
"""Row -> confidence, in [0, 1], that a tag that the row does not name is absent."""

MENTIONED = 0.3
"""Probability that a caption mentions a thing in the photo (so five captions miss it with 0.7**5 = 0.17)."""


def certain(row: Row) -> float:
    """Tags that are not named are absent."""
    return 1.0


def unknown(row: Row) -> float:
    """Tags that are not named are unknown."""
    return 0.0


def by_captions(row: Row) -> float:
    """Confidence grows with the number of captions; labels do not count."""
    return 1 - (1 - MENTIONED) ** len(row.captions)


@dataclass(frozen=True, eq=False)
class LabelMatrix:
    """Labels of N rows for K tags.

    Attributes:
        present: bool N×K.
        weight: uint8 N×K, confidence in percent.
    """

    present: npt.NDArray[np.bool_]
    weight: npt.NDArray[np.uint8]


def label_matrix(rows: Sequence[Row], columns: Columns, *, silence: Silence, fewest: int = 0) -> LabelMatrix:
    """Convert rows to labels with confidences; tags in labels or captions have full confidence.

    Args:
        silence: confidence that tags named neither as present nor as absent are absent.
        fewest: tags with fewer mentions in captions are unknown where they are not mentioned.
    """
    present = np.zeros((len(rows), len(columns)), dtype=bool)
    weight = np.zeros(present.shape, np.uint8)
    mentions = np.zeros(len(columns), np.int64)
    for number, row in enumerate(rows):
        mentioned = columns.mentioned(row)
        mentions[list(mentioned)] += 1
        present[number, list(mentioned | columns.labels(row.tags))] = True
        weight[number] = round(100 * silence(row))
        weight[number, list(columns.absent(row))] = 100
    rare = mentions < fewest
    weight[:, rare] *= weight[:, rare] == 100
    weight[present] = 100
    return LabelMatrix(present, weight)
