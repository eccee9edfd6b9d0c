"""Rows -> tags: what captions and labels say, in the columns of one vocabulary, and as a matrix."""

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
    """Rows -> tags, through the parser and the vocabulary, broader tags included.

    Args:
        vocabulary: its tags are the columns of all matrices here.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.parser = Parser(vocabulary=vocabulary)
        self.index = {tag.id: number for number, tag in enumerate(vocabulary)}
        self.above = [set(broader) for broader in vocabulary.broader]
        # The first tag of a name and kind: orange the fruit and orange the colour are two. A name is its
        # tag's own, whatever other tag has it as a synonym.
        self.named: dict[tuple[str, str], str] = {}
        for tag in vocabulary:
            self.named.setdefault((matching_key(tag.name), tag.kind), tag.id)
        for tag in vocabulary:
            for word in tag.synonyms:
                self.named.setdefault((matching_key(word), tag.kind), tag.id)

    def __len__(self) -> int:
        return len(self.vocabulary)

    def label(self, name: str) -> str | None:
        """Id of the tag that a human label names, or names the plural of; a thing rather than a quality.

        Case, spaces and hyphens play no part: "jack o'lantern", "lawnmower".
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
        """Columns of what labels name and of all that is broader."""
        return self._columns({self.label(name) for name in names})

    def absent(self, row: Row) -> set[int]:
        """Columns of what labels say is not there: what is broader may be."""
        return {self.index[key] for name in row.absent if (key := self.label(name)) is not None}

    def caption(self, caption: str) -> set[int]:
        """Columns of what a caption says and of all that is broader."""
        found = self.parser.parse(caption)
        return self._columns({self.named.get((matching_key(tag.name), tag.kind)) for tag in found})

    def of_captions(self, row: Row) -> tuple[tuple[int, ...], ...]:
        """Columns of each caption, sorted: what the data says of it, as it is, or what the parser finds."""
        if row.parsed:
            removed_names = {name for name, _ in row.cleaned}
            return tuple(tuple(sorted(self._exact(set(names) - removed_names))) for names in row.parsed)
        return tuple(tuple(sorted(self.caption(caption))) for caption in row.captions)

    def of_photo(self, row: Row, parsed: Sequence[Sequence[int]]) -> tuple[int, ...]:
        """Columns of all that is said of a photo, sorted: its labels and captions; where the data has parsed
        the captions, its tags as they are."""
        if row.parsed:
            return tuple(sorted(self._exact(row.tags)))
        return tuple(sorted(self.labels(row.tags).union(*map(set, parsed))))

    def _exact(self, names: Iterable[str]) -> set[int]:
        """Columns of ids or names, without what is broader."""
        resolved = (name if name in self.index else self.label(name) for name in names)
        return {self.index[key] for key in resolved if key is not None}

    def captions(self, captions: Sequence[str]) -> set[int]:
        """Columns of what any of the captions says."""
        return set[int]().union(*map(self.caption, captions))

    def mentioned(self, row: Row) -> set[int]:
        """Columns of what a photo's captions say, but for what cleaning took away."""
        cleaned = {key for name, _ in row.cleaned if (key := self.label(name)) is not None}
        return self.captions(row.captions) - {self.index[key] for key in cleaned}

    def present(self, row: Row) -> set[int]:
        """Columns of all that is said of a photo, in any caption or label."""
        return self.labels(row.tags) | self.mentioned(row)


def label_tags(names: Iterable[str], base: Vocabulary | None = None) -> list[Tag]:
    """The tags that labels name, in alphabetical order; names that differ in case are one.

    Args:
        base: whose tags of the same name keep their id, kind, synonyms and names.
    """
    tags: dict[str, Tag] = {}
    for name in sorted(name for name in set(names) if name.strip()):
        known = None if base is None else base.find(name)
        if known is not None and known.name.lower() == name.lower():
            tag = replace(known, name=name, parents=())  # the rows say what is there, and they alone
        else:
            tag = Tag(name, name, "object")
        tags.setdefault(name.lower(), tag)
    return list({tag.id: tag for tag in tags.values()}.values())


def mentioned_tags(captions: Iterable[str], *, fewest: int, base: Vocabulary | None = None) -> list[Tag]:
    """The tags that so many captions mention, the frequent first; `base` as above, for names of one kind."""
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
    """What rows say, as columns of a matrix; `Labeler` and `Names` are."""

    def __len__(self) -> int: ...

    def labels(self, names: Sequence[str]) -> set[int]: ...

    def mentioned(self, row: Row) -> set[int]: ...

    def absent(self, row: Row) -> set[int]: ...


class Names:
    """Names as labels have them, each a column; captions are not looked at."""

    def __init__(self, names: Sequence[str]) -> None:
        self.column = {name: number for number, name in enumerate(names)}

    def __len__(self) -> int:
        return len(self.column)

    def labels(self, names: Sequence[str]) -> set[int]:
        """Columns of the names that there are."""
        return {self.column[name] for name in names if name in self.column}

    def mentioned(self, row: Row) -> set[int]:
        """None."""
        return set()

    def absent(self, row: Row) -> set[int]:
        """Columns of what labels say is not there."""
        return self.labels(row.absent)


Silence = Callable[[Row], float]
"""A row -> how sure it is, in [0, 1], that a tag is not there which the row does not name."""

MENTIONED = 0.3
"""Chance that one caption mentions a thing that is in the photo (five then miss it with 0.7**5 = 0.17)."""


def certain(row: Row) -> float:
    """What is not named is not there."""
    return 1.0


def unknown(row: Row) -> float:
    """Nobody knows of what is not named."""
    return 0.0


def by_captions(row: Row) -> float:
    """The more captions are silent, the surer; silence of labels says nothing."""
    return 1 - (1 - MENTIONED) ** len(row.captions)


@dataclass(frozen=True, eq=False)
class LabelMatrix:
    """What N rows say about K tags.

    Attributes:
        present: bool N×K.
        weight: uint8 N×K, how sure that is, in percent.
    """

    present: npt.NDArray[np.bool_]
    weight: npt.NDArray[np.uint8]


def label_matrix(rows: Sequence[Row], columns: Columns, *, silence: Silence, fewest: int = 0) -> LabelMatrix:
    """Rows -> what is there, and how sure that is. What labels or captions say is sure.

    Args:
        silence: of what a row names neither as present nor as absent.
        fewest: a tag that captions mention more rarely is unknown where they are silent.
    """
    present = np.zeros((len(rows), len(columns)), dtype=bool)
    weight = np.zeros(present.shape, np.uint8)
    mentions = np.zeros(len(columns), np.int64)
    for number, row in enumerate(rows):
        said = columns.mentioned(row)
        mentions[list(said)] += 1
        present[number, list(said | columns.labels(row.tags))] = True
        weight[number] = round(100 * silence(row))
        weight[number, list(columns.absent(row))] = 100
    rare = mentions < fewest
    weight[:, rare] *= weight[:, rare] == 100
    weight[present] = 100
    return LabelMatrix(present, weight)
