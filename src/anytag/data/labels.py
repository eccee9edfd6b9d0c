"""Rows -> tags: what captions and labels say, in the columns of one vocabulary."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from anytag.data.rows import Row
from anytag.parsing import Parser, default_lexicon
from anytag.vocabulary import Vocabulary

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
        # The first tag of a name and kind: orange the fruit and orange the colour are two.
        self.named: dict[tuple[str, str], str] = {}
        for tag in vocabulary:
            for word in (tag.name, *tag.synonyms):
                self.named.setdefault((word.lower(), tag.kind), tag.id)

    def label(self, name: str) -> str | None:
        """Id of the tag that a human label names, or names the plural of; a thing rather than a quality."""
        *first, last = name.lower().split(" ")
        singular = " ".join([*first, default_lexicon().inflection.singular(last)])
        forms = (name.lower(), singular, default_lexicon().canonical(singular, "object"))
        found = (self.named.get((form, kind)) for form in forms for kind in _KINDS)
        return next((key for key in found if key), None)

    def _columns(self, ids: set[str | None]) -> set[int]:
        columns = {self.index[key] for key in ids if key is not None}
        return columns.union(*(self.above[column] for column in columns))

    def labels(self, names: Sequence[str]) -> set[int]:
        """Columns of what labels name and of all that is broader."""
        return self._columns({self.label(name) for name in names})

    def caption(self, caption: str) -> set[int]:
        """Columns of what a caption says and of all that is broader."""
        return self._columns({self.named.get((f.name.lower(), f.kind)) for f in self.parser.parse(caption)})

    def of_captions(self, row: Row) -> tuple[tuple[int, ...], ...]:
        """Columns of each caption, sorted: what the data says of it, as it is, or what the parser finds."""
        if row.parsed:
            gone = {name for name, _ in row.cleaned}
            return tuple(tuple(sorted(self._exact(set(names) - gone))) for names in row.parsed)
        return tuple(tuple(sorted(self.caption(caption))) for caption in row.captions)

    def of_photo(self, row: Row, parsed: Sequence[Sequence[int]]) -> tuple[int, ...]:
        """Columns of all that is said of a photo, sorted: its labels and captions; where the data has parsed
        the captions, its tags as they are."""
        if row.parsed:
            return tuple(sorted(self._exact(row.tags)))
        return tuple(sorted(self.labels(row.tags).union(*map(set, parsed))))

    def _exact(self, names: Iterable[str]) -> set[int]:
        """Columns of ids or names, without what is broader."""
        found = (name if name in self.index else self.label(name) for name in names)
        return {self.index[key] for key in found if key is not None}

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
