"""Find unknown names by their position in a phrase: candidates for new tags.

These are rules without a model, so their results need a count or a person's review: see the vocabulary
builder.
"""

from __future__ import annotations

from collections.abc import Sequence

from anytag.parsing.grammar import NO_WORD, Word
from anytag.parsing.lexicon import Lexicon

_SHORTEST = 3
_LOOKS_BEFORE = 3
_NO_NOUNS = ("ing", "ed", "ly", "est", "ous", "ful", "less", "ish", "able", "ible", "ally", "wards")
_AFTER = frozenset({"preposition", "be", "conjunction", "to"})


def is_new_noun(words: Sequence[Word], at: int, end: int, lexicon: Lexicon) -> bool:
    """Whether an unknown word heads a noun phrase: "a hoverboard on", "two small hoverboards"."""
    if not _unknown(words[at], lexicon):
        return False
    after = words[at + 1] if at + 1 < end else NO_WORD
    ended = after is NO_WORD or after.role in _AFTER or after.form in ("ing", "third")
    return ended and _opened(words, at, lexicon)


def compound(words: Sequence[Word], at: int, end: int) -> str | None:
    """Return a compound of two nouns, the second of which heads the phrase: "coffee mug"."""
    if at + 1 >= end:
        return None
    first, head = words[at], words[at + 1]
    after = words[at + 2] if at + 2 < end else NO_WORD
    if not (_is_thing(first) and first.form is None and first.text == first.singular):
        return None
    if not _is_thing(head) or after.nominal or (first.animate and head.text != head.singular):
        return None  # "a dog lunges"
    return f"{first.text} {head.singular}"


def _opened(words: Sequence[Word], at: int, lexicon: Lexicon) -> bool:
    """Whether a determiner or number precedes this word, with only adjectives in between."""
    for before in reversed(words[max(0, at - _LOOKS_BEFORE) : at]):
        if before.role:
            return before.role in ("determiner", "number")
        if before.noun is not None or not (before.attribute or before.stop or _unknown(before, lexicon)):
            return False
    return False


def _is_thing(word: Word) -> bool:
    """Whether a word is a noun whose form rules out a verb."""
    bare = not word.role and not word.attribute and not word.stop
    return bare and word.noun is not None and word.form in (None, "base")


def _unknown(word: Word, lexicon: Lexicon) -> bool:
    text = word.singular
    if word.role or word.noun is not None or word.verb is not None or word.attribute or word.stop:
        return False
    if len(text) < _SHORTEST or not text.isascii() or not text.isalpha():
        return False
    return not text.endswith(_NO_NOUNS) and lexicon.kind(text) is None
