"""Captions -> tags: the things, places, looks and actions that a caption says are in the photo."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from .grammar import NOTHING, ROLES, Word, is_verb
from .lexicon import Kind, Lexicon, default_lexicon
from .tables import Entry, NamedTag, free_tables, vocabulary_tables

_WORD = re.compile(r"[^\W_]+")
_JOINED = re.compile(r"[\s\-'’_]*")  # between words of one phrase; anything else ends the phrase
_CACHED_WORDS = 200_000
_NEGATION_REACH = 7


@dataclass(frozen=True, slots=True)
class ParsedTag:
    """A tag that a caption names, and where: caption[start:end] is the wording of its first mention."""

    name: str
    kind: Kind
    start: int
    end: int


class Parser:
    """Reads tags out of captions.

    Args:
        lexicon: words of the language; the one that ships with anytag when None.
        vocabulary: when given, only its tags are found, by name; otherwise all that the lexicon knows.
    """

    def __init__(
        self, lexicon: Lexicon | None = None, *, vocabulary: Iterable[NamedTag] | None = None
    ) -> None:
        self.lexicon = lexicon or default_lexicon()
        self._tables = (
            free_tables(self.lexicon) if vocabulary is None else vocabulary_tables(self.lexicon, vocabulary)
        )
        self._words: dict[str, Word] = {}

    def parse(self, caption: str) -> tuple[ParsedTag, ...]:
        """Distinct tags in order of appearance. Things said to be absent ("no people") are left out."""
        matches = list(_WORD.finditer(caption))
        words = [self._word(match.group()) for match in matches]
        ends = _phrase_ends(caption, matches)
        found: dict[Entry, ParsedTag] = {}
        at, negated_until = 0, -1
        while at < len(words):
            if words[at].role == "negation" and not _names_a_sign(words, at):
                negated_until = min(ends[at], at + _NEGATION_REACH)
                phrase = self._tables.longest(words, at, ends[at])  # "no shirt" is shirtless
                if phrase is None or not phrase[1]:
                    at += 1
                    continue
            stop, entries, whole = self._at(words, at, ends[at])
            if at < negated_until and words[at].role != "negation":
                if words[at].role == "conjunction" and words[at].text not in ("or", "nor"):
                    negated_until = -1
                elif entries and entries[0].kind in ("object", "scene"):
                    after = words[stop] if stop < ends[at] else NOTHING
                    negated_until = negated_until if after.nominal or after.text in ("or", "nor") else -1
            else:
                for entry in entries:
                    span = matches[at].start(), matches[whole - 1].end()
                    found.setdefault(entry, ParsedTag(entry.name, entry.kind, *span))
            at = stop
        return tuple(found.values())

    def _at(self, words: list[Word], at: int, end: int) -> tuple[int, tuple[Entry, ...], int]:
        """Where to read on, the tags at this word, and the end of their wording."""
        phrase = self._tables.longest(words, at, end) if at + 1 < end else None
        if phrase is not None:
            whole, entries = phrase
            # "walking a dog" shows a dog as well: of an action only its verb is used up
            acting = bool(entries) and entries[0].kind == "action" and words[whole - 1].noun is not None
            return (at + 1 if acting else whole), entries, whole
        entry = self._single(words, at, end)
        return at + 1, (() if entry is None else (entry,)), at + 1

    def _single(self, words: list[Word], at: int, end: int) -> Entry | None:
        word, tables = words[at], self._tables
        if word.role and word.text not in tables.nouns:
            return None
        after = words[at + 1] if at + 1 < end else NOTHING
        before = words[at - 1] if at > 0 else NOTHING
        attribute = tables.attributes.get(word.text)
        if attribute is not None and (word.noun is None or after.nominal or _listed(words, at, end)):
            return attribute
        # "a type of", "the rest": stop-listed as nouns, and no verbs either
        counts = word.form in ("base", "third") and word.singular in self.lexicon.stop
        sure = word.noun is None and not counts
        if word.verb is not None and (sure or is_verb(before, word, after)):
            return tables.verbs.get(word.verb)
        return tables.nouns.get(word.singular)

    def _word(self, text: str) -> Word:
        word = self._words.get(text)
        if word is None:
            if len(self._words) >= _CACHED_WORDS:
                self._words.clear()
            word = self._words[text] = self._analyse(text.lower())
        return word

    def _analyse(self, text: str) -> Word:
        lexicon, tables = self.lexicon, self._tables
        singular = lexicon.inflection.singular(text)
        verb, form = lexicon.inflection.verb(text) or (None, None)
        if verb is None and text in tables.verbs:
            verb, form = text, "base"
        known = lexicon.is_noun(singular) or singular in tables.nouns
        attribute = text in tables.attributes or lexicon.is_attribute(text)
        keys = tuple(dict.fromkeys(key for key in (text, singular, verb) if key))
        noun = singular if known else None
        alive = known and lexicon.is_alive(singular)
        return Word(text, keys, ROLES.get(text, ""), noun, singular, verb, form, attribute, alive)


def _phrase_ends(caption: str, matches: list[re.Match[str]]) -> list[int]:
    """For each word the index after the last word of its phrase: phrases end at punctuation."""
    ends = [0] * len(matches)
    end = len(matches)
    for i in range(len(matches) - 1, -1, -1):
        ends[i] = end
        if i and not _JOINED.fullmatch(caption, matches[i - 1].end(), matches[i].start()):
            end = i
    return ends


def _names_a_sign(words: list[Word], at: int) -> bool:
    """A "no parking sign" is there."""
    return words[at].text == "no" and any(word.singular == "sign" for word in words[at + 1 : at + 4])


def _listed(words: list[Word], at: int, end: int) -> bool:
    """Whether "and" and another attribute follow: the first word of "orange and white"."""
    return at + 2 < end and words[at + 1].text in ("and", "or") and words[at + 2].attribute
