"""Tags for the letters that somebody has typed so far: type-ahead."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from heapq import nsmallest

from anytag.vocabulary import Tag, Vocabulary

MOST = 20
"""Suggestions at once: a list to look at, not to search."""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A tag that is suggested.

    Attributes:
        name: what finds the tag, in `Vocabulary.find` and in filters.
        by: the synonym, or the name in another language, that holds the letters; None where the name does.
    """

    name: str
    by: str | None

    def to_dict(self) -> dict[str, object]:
        """Plain, for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Word:
    key: str
    suggestion: Suggestion


class Suggestions:
    """Tags of a vocabulary, found by the beginnings and parts of their names in every language.

    Args:
        vocabulary: its order decides between names that fit equally.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._words = [word for tag in vocabulary for word in _words(vocabulary, tag)]

    def find(self, text: str, own: Iterable[str] = ()) -> list[Suggestion]:
        """At most `MOST` tags: the one of this name, those that begin so, then those of which a word does.

        Case, accents and hyphens play no part. A tag is suggested once, by the name that fits best.

        Args:
            text: what was typed; of nothing come the first tags.
            own: custom tags of the user, before the vocabulary's.
        """
        wanted = _key(text)
        words = [*(_Word(_key(name), Suggestion(name, None)) for name in own), *self._words]
        fitting = ((_rank(word, wanted), place) for place, word in enumerate(words) if wanted in word.key)
        best = nsmallest(8 * MOST, fitting)  # several names of one tag may fit
        found: dict[str, Suggestion] = {}
        for _, place in best:
            found.setdefault(words[place].suggestion.name, words[place].suggestion)
        return list(found.values())[:MOST]


def _words(vocabulary: Vocabulary, tag: Tag) -> Iterator[_Word]:
    name = tag.name if vocabulary.find(tag.name) is tag else tag.id  # of two tags of a name the second
    yield _Word(_key(name), Suggestion(name, None))
    for other in dict.fromkeys((*tag.synonyms, *tag.names.values())):
        yield _Word(_key(other), Suggestion(name, other))


def _rank(word: _Word, wanted: str) -> tuple[int, bool]:
    fits = (word.key == wanted, word.key.startswith(wanted), f" {wanted}" in word.key, True)
    return fits.index(True), word.suggestion.by is not None


def _key(text: str) -> str:
    """What is compared: case folded, without accents, one space for spaces and hyphens."""
    parts = unicodedata.normalize("NFKD", text).casefold().replace("-", " ")
    return " ".join("".join(c for c in parts if not unicodedata.combining(c)).split())
