"""Type-ahead suggestions of tags."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from heapq import nsmallest

from anytag.vocabulary import Tag, Vocabulary

MAX_SUGGESTIONS = 20
"""Maximum number of suggestions."""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A suggested tag.

    Attributes:
        name: name for `Vocabulary.find` and for filters.
        by: the synonym, or the name in another language, that matches; None if `name` matches.
    """

    name: str
    by: str | None

    def to_dict(self) -> dict[str, object]:
        """As a dict for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Word:
    key: str
    suggestion: Suggestion


class Suggestions:
    """Finds tags of a vocabulary by any part of their names, in every language.

    Args:
        vocabulary: its order breaks ties.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._words = [word for tag in vocabulary for word in _words(vocabulary, tag)]

    def find(self, text: str, own: Iterable[str] = ()) -> list[Suggestion]:
        """Find at most `MAX_SUGGESTIONS` tags.

        Exact matches come first, then names that start with the text, names with a word that starts with it,
        and names that contain it. Case, accents and hyphens are ignored. Each tag is suggested once, by its
        best match.

        Args:
            text: the input so far; if empty, the first tags are returned.
            own: custom tags of the user, which come before the vocabulary's.
        """
        wanted = _key(text)
        words = [*(_Word(_key(name), Suggestion(name, None)) for name in own), *self._words]
        fitting = ((_rank(word, wanted), place) for place, word in enumerate(words) if wanted in word.key)
        best = nsmallest(8 * MAX_SUGGESTIONS, fitting)  # several names of one tag may match
        found: dict[str, Suggestion] = {}
        for _, place in best:
            found.setdefault(words[place].suggestion.name, words[place].suggestion)
        return list(found.values())[:MAX_SUGGESTIONS]


def _words(vocabulary: Vocabulary, tag: Tag) -> Iterator[_Word]:
    name = tag.name if vocabulary.find(tag.name) is tag else tag.id  # the name belongs to another tag
    yield _Word(_key(name), Suggestion(name, None))
    for other in dict.fromkeys((*tag.synonyms, *tag.names.values())):
        yield _Word(_key(other), Suggestion(name, other))


def _rank(word: _Word, wanted: str) -> tuple[int, bool]:
    fits = (word.key == wanted, word.key.startswith(wanted), f" {wanted}" in word.key, True)
    return fits.index(True), word.suggestion.by is not None


def _key(text: str) -> str:
    """Normalise text for comparison: case folded, without accents, single spaces for spaces and hyphens."""
    parts = unicodedata.normalize("NFKD", text).casefold().replace("-", " ")
    return " ".join("".join(c for c in parts if not unicodedata.combining(c)).split())
