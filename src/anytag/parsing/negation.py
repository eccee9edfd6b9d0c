"""Negation in captions: "no people", "without a hat", "empty of cars", "dog-free"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from anytag.parsing.grammar import NO_WORD, Word

SCOPE = 7  # words
_LIST_SCOPE = 6

# "not only a dog" is not a negation
_IDIOMS: Mapping[str, frozenset[str]] = {
    "not": frozenset({"only", "just", "far", "to", "unlike"}),
    "no": frozenset({"doubt", "less", "matter", "fewer", "later"}),
    "without": frozenset({"doubt"}),
}
# word -> preceding words that form a negation with it: "empty of people", "instead of a dog"
_PAIRS: Mapping[str, frozenset[str]] = {
    "of": frozenset({"empty", "devoid", "free", "void", "instead", "lack", "absence", "bare"}),
    "than": frozenset({"rather"}),
    "from": frozenset({"free"}),
}
OPENERS = frozenset(_PAIRS)
_SUBJECTS = frozenset({"nobody", "none"})  # they negate the predicate, not the place
_ANY = frozenset({"anyone", "anybody", "anything", "else"})
_PLACE = "in on near beside behind under below inside outside atop above along next around over against"
_PLACES = frozenset(_PLACE.split())
# After a hyphen these mean that the preceding noun is absent, or only a comparison.
_DENY = """
    free less shaped like friendly themed colored coloured patterned style sized looking flavored inspired
    red green blue yellow orange pink purple brown black white gray grey
"""
DENYING = frozenset(_DENY.split())


class Negation:
    """Tracks which words of one caption are negated."""

    def __init__(self, words: Sequence[Word], ends: Sequence[int]) -> None:
        self._words, self._ends = words, ends
        self._from = self._until = -1
        self._place_ends = False

    def open(self, at: int) -> int:
        """Return the number of words that start a negation at `at`, 0 if none does."""
        word = self._words[at]
        if word.text in _PAIRS:
            pair = at > 0 and self._words[at - 1].text in _PAIRS[word.text]
            return self._begin(at, 1) if pair else 0
        if word.role != "negation" or self._follows(at, _IDIOMS.get(word.text, frozenset())):
            return 0
        if word.text in _SUBJECTS or self._text(at + 1) == "one":
            return self._negate_predicate(at)
        return self._begin(at, 1)

    def covers(self, at: int, stop: int, *, thing: bool) -> bool:
        """Whether the words at..stop are negated; `thing`: they name a thing, which may end the negation."""
        if not self._from <= at < self._until:
            return False
        word = self._words[at]
        if word.role == "negation":
            return False
        if word.role == "conjunction" and word.text not in ("or", "nor"):
            self._until = -1
        elif self._place_ends and word.text in _PLACES:
            self._until = -1
            return False
        elif thing or word.text in _ANY:
            self._close(stop)
        self._place_ends = self._place_ends or word.verb is not None
        return True

    def _begin(self, at: int, length: int, *, place_ends: bool = False) -> int:
        self._from = at
        self._until = min(self._ends[at], at + SCOPE)
        self._place_ends = place_ends
        return length

    def _negate_predicate(self, at: int) -> int:
        """ "No one is on the boat", "none of the dogs wear hats": boat and dogs are present, hats are not."""
        length = 2 if self._text(at + 1) == "one" else 1
        if self._text(at + length) == "of":
            window = range(at + length, min(self._ends[at], at + SCOPE))
            predicate = next((k for k in window if self._words[k].role == "be" or self._words[k].form), None)
            if predicate is None:
                return length
            self._begin(predicate, 0, place_ends=True)
            return length
        return self._begin(at, length, place_ends=True)

    def _close(self, stop: int) -> None:
        """End a negation after a thing, unless it goes on: "no cup of", "no hats or", "no cars, men or"."""
        after = self._words[stop] if stop < self._ends[stop - 1] else NO_WORD
        if after.nominal or after.text in ("or", "nor", "of"):
            return
        last = self._list_end(stop) if after is NO_WORD else None
        self._until = -1 if last is None else last

    def _list_end(self, stop: int) -> int | None:
        """The end of a list with commas, if "or" or "nor" precedes its last item."""
        for at in range(stop, min(len(self._words), stop + _LIST_SCOPE)):
            word = self._words[at]
            if word.text in ("or", "nor"):
                return min(self._ends[at], at + SCOPE)
            if word.role != "determiner" and not word.nominal:
                return None
        return None

    def _follows(self, at: int, idioms: frozenset[str]) -> bool:
        """Whether one of these words is next, or follows a determiner: "without a doubt"."""
        beyond = at + 2 if self._word(at + 1).role == "determiner" else at + 1
        return self._text(at + 1) in idioms or self._text(beyond) in idioms or _names_a_sign(self._words, at)

    def _word(self, at: int) -> Word:
        return self._words[at] if at < len(self._words) else NO_WORD

    def _text(self, at: int) -> str:
        return self._word(at).text


def _names_a_sign(words: Sequence[Word], at: int) -> bool:
    """Whether "no" is part of a sign: a "no parking sign" is present; "no sign of" negates."""
    if words[at].text != "no":
        return False
    for offset, word in enumerate(words[at + 1 : at + 4]):
        if word.singular == "sign":
            following = at + 2 + offset
            return offset > 0 and not (following < len(words) and words[following].text == "of")
    return False
