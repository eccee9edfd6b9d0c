"""Word forms -> lemmas: irregular lists first, spelling rules second (after WordNet's Morphy)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

Form = Literal["base", "third", "ing", "past"]

# ending -> possible replacements, in the order tried
_PLURALS = (
    ("men", ("man",)),
    ("ies", ("y", "ie")),
    ("ves", ("f", "fe", "ve")),
    ("es", ("e", "")),
    ("s", ("",)),
)
_VERBS: tuple[tuple[str, Form, tuple[str, ...]], ...] = (
    ("ies", "third", ("y", "ie")),
    ("es", "third", ("", "e")),
    ("s", "third", ("",)),
    ("ing", "ing", ("", "e")),
    ("ied", "past", ("y",)),
    ("ed", "past", ("", "e")),
)


@dataclass(frozen=True)
class Inflection:
    """Finds lemmas of word forms.

    Attributes:
        nouns, verbs: known lemmas (single words; phrases are ignored here).
        plurals, verb_forms: irregular form -> lemma.
    """

    nouns: Collection[str]
    verbs: Collection[str]
    plurals: Mapping[str, str]
    verb_forms: Mapping[str, str]

    def noun(self, word: str) -> str | None:
        """Return the known noun that a word is, or is the plural of."""
        listed = self.plurals.get(word)
        if listed is not None and (listed in self.nouns or listed == word):
            return listed
        if word in self.nouns:
            return word
        return next((lemma for lemma in _singulars(word) if lemma in self.nouns), None)

    def singular(self, word: str) -> str:
        """Return the singular of any word: the known one, else by the most common rule."""
        known = self.noun(word)
        if known is not None:
            return known
        if len(word) < 4 or not word.isascii() or not word.endswith("s") or word.endswith(("ss", "us", "is")):
            return word
        if word.endswith(("ches", "shes", "xes", "sses")):
            return word[:-2]
        return f"{word[:-3]}y" if word.endswith("ies") else word[:-1]

    def verb(self, word: str) -> tuple[str, Form] | None:
        """Return the known verb that a word is a form of, and which form."""
        lemma = self.verb_forms.get(word)
        if lemma in self.verbs and lemma is not None:
            return lemma, "ing" if word.endswith("ing") else "past"
        if word in self.verbs:
            return word, "base"
        for ending, form, instead in _VERBS:
            if word.endswith(ending) and len(word) > len(ending) + 1:
                stem = word.removesuffix(ending)
                for lemma in (*(stem + end for end in instead), _undoubled(stem)):
                    if lemma in self.verbs:
                        return lemma, form
        return None


def _singulars(word: str) -> list[str]:
    return [
        word.removesuffix(ending) + end
        for ending, instead in _PLURALS
        if word.endswith(ending) and len(word) > len(ending) + 1 and not word.endswith("ss")
        for end in instead
    ]


def _undoubled(stem: str) -> str:
    """Undouble the final consonant: `jogg` -> `jog`; other stems are unchanged."""
    return stem[:-1] if len(stem) > 2 and stem[-1] == stem[-2] else stem
