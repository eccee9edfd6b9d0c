"""Captions -> tags: the things, places, looks and actions that a caption says are in the photo."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from anytag.parsing.discovery import compound, is_new_noun
from anytag.parsing.grammar import NOTHING, ROLES, Word, is_verb
from anytag.parsing.lexicon import Kind, Lexicon, default_lexicon, normal
from anytag.parsing.negation import DENYING, OPENERS, Negation
from anytag.parsing.tables import Entry, NamedTag, free_tables, vocabulary_tables
from anytag.parsing.text import foreign, quoted

_WORD = re.compile(r"[^\W_]+")
_JOINED = re.compile(r"[\s\-'’_]*")  # between words of one phrase; anything else ends the phrase
_CACHED_WORDS = 200_000

Matches = Sequence[re.Match[str]]


@dataclass(frozen=True, slots=True)
class ParsedTag:
    """A tag that a caption names, and where: caption[start:end] is the wording of its first mention."""

    name: str
    kind: Kind
    start: int
    end: int


class CaptionParser(Protocol):
    """What reads captions: `Parser` by its lexicon alone, `SpacyParser` with a trained model."""

    @property
    def lexicon(self) -> Lexicon: ...

    def parse(self, caption: str) -> tuple[ParsedTag, ...]:
        """Distinct tags in order of appearance."""
        ...


class Parser:
    """Reads tags out of captions, with no model and no download.

    Args:
        lexicon: words of the language; the one that ships with anytag when None.
        vocabulary: when given, only its tags are found, by name; otherwise all that the lexicon knows.
        discover: also finds things that neither knows ("a hoverboard") and compounds of known words
            ("dog park"), by where they stand in their phrase; for finding new tags.
    """

    def __init__(
        self,
        lexicon: Lexicon | None = None,
        *,
        vocabulary: Iterable[NamedTag] | None = None,
        discover: bool = False,
    ) -> None:
        self._lexicon = lexicon or default_lexicon()
        self._tables = (
            free_tables(self.lexicon) if vocabulary is None else vocabulary_tables(self.lexicon, vocabulary)
        )
        self._discover = discover
        self._words: dict[str, Word] = {}

    @property
    def lexicon(self) -> Lexicon:
        """The words that captions are read with."""
        return self._lexicon

    def parse(self, caption: str) -> tuple[ParsedTag, ...]:
        """Distinct tags in order of appearance, in time linear in the caption's length.

        Left out: things said to be absent ("no people"), what is quoted (the writing on a sign), and
        the lexicon's words in captions of another language.
        """
        matches = spoken(caption)
        return self._walk(caption, matches, [self._word(match.group()) for match in matches])

    def _walk(self, caption: str, matches: Matches, words: list[Word]) -> tuple[ParsedTag, ...]:
        """From word to word, each name as long as it goes."""
        ends = _phrase_ends(caption, matches)
        negation: Negation | None = None
        tags: dict[Entry, ParsedTag] = {}
        at = 0
        while at < len(words):
            if words[at].role == "negation" or words[at].text in OPENERS:
                negation = negation or Negation(words, ends)
                opening = negation.open(at)
                phrase = self._tables.longest(words, at, ends[at]) if opening else None
                if opening and (phrase is None or not phrase[1]):  # "no shirt" is shirtless
                    at += opening
                    continue
            stop, entries, whole = self._at(words, at, ends[at])
            thing = bool(entries) and entries[0].kind in ("object", "scene")
            denied = negation is not None and negation.covers(at, stop, thing=thing)
            if not denied and not (thing and self._likened(caption, matches, words, whole)):
                new = compound(words, at, ends[at]) if self._discover and whole == at + 1 else None
                named = [(Entry(new, "object"), at + 2)] if new else []
                for entry, last in (*named, *((entry, whole) for entry in entries)):
                    span = matches[at].start(), matches[last - 1].end()
                    tags.setdefault(entry, ParsedTag(entry.name, entry.kind, *span))
            at = stop
        if foreign(words):
            return tuple(tag for tag in tags.values() if not self._is_english(tag.name))
        return tuple(tags.values())

    def _at(self, words: list[Word], at: int, end: int) -> tuple[int, tuple[Entry, ...], int]:
        """Where to read on, the tags at this word, and the end of their wording."""
        phrase = self._tables.longest(words, at, end) if at + 1 < end else None
        if phrase is not None and (phrase[1] or not self._acts(words, at, end)):
            whole, entries = phrase
            # "walking a dog" shows a dog as well: of an action only its verb is used up
            acting = bool(entries) and entries[0].kind == "action" and words[whole - 1].noun is not None
            return (at + 1 if acting else whole), entries, whole
        return at + 1, self._entry(words, at, end), at + 1

    def _entry(self, words: list[Word], at: int, end: int) -> tuple[Entry, ...]:
        entry = self._single(words, at, end)
        if entry is None and self._discover and is_new_noun(words, at, end, self.lexicon):
            entry = Entry(words[at].singular, "object")
        return () if entry is None else (entry,)

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
        sure = word.noun is None and not (word.vague and word.form in ("base", "third"))
        if word.verb is not None and (sure or is_verb(before, word, after)):
            return tables.verbs.get(word.verb)
        return tables.nouns.get(word.singular)

    def _acts(self, words: list[Word], at: int, end: int) -> bool:
        """Whether a stop-listed phrase begins with what somebody does: "a man stands in", and no stand-in."""
        word = words[at]
        before = words[at - 1] if at else NOTHING
        return word.verb in self._tables.verbs and is_verb(
            before, word, words[at + 1] if at + 1 < end else NOTHING
        )

    @staticmethod
    def _likened(caption: str, matches: Matches, words: list[Word], stop: int) -> bool:
        """A "duck-shaped" boat, a "dog-free" park and an "apple-green" sofa show no duck, dog or apple."""
        return stop < len(words) and words[stop].text in DENYING and caption[matches[stop - 1].end()] == "-"

    def _is_english(self, name: str) -> bool:
        name = normal(name)
        return self.lexicon.kind(name) is not None or any(name in t for t in self.lexicon.synonyms.values())

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
        mute = verb in lexicon.mute
        return Word(
            text=text,
            keys=tuple(dict.fromkeys(key for key in (text, singular, None if mute else verb) if key)),
            role=ROLES.get(text, ""),
            noun=singular if known else None,
            singular=singular,
            verb=verb,
            form=form,
            attribute=attribute,
            alive=known and lexicon.is_alive(singular),
            mute=mute,
            vague=singular in lexicon.stop,
        )


def spoken(caption: str) -> list[re.Match[str]]:
    """The words of a caption but those that it quotes."""
    matches = list(_WORD.finditer(caption))
    spans = quoted(caption)
    if not spans:
        return matches
    starts = iter([*spans, (len(caption), len(caption))])
    start, end = next(starts)
    words_kept = []
    for match in matches:
        while match.start() >= end and start < len(caption):
            start, end = next(starts)
        if match.start() < start:
            words_kept.append(match)
    return words_kept


def _phrase_ends(caption: str, matches: Matches) -> list[int]:
    """For each word the index after the last word of its phrase: phrases end at punctuation."""
    ends = [0] * len(matches)
    end = len(matches)
    for i in range(len(matches) - 1, -1, -1):
        ends[i] = end
        if i and not _JOINED.fullmatch(caption, matches[i - 1].end(), matches[i].start()):
            end = i
    return ends


def _listed(words: list[Word], at: int, end: int) -> bool:
    """Whether "and" and another attribute follow: the first word of "orange and white"."""
    return at + 2 < end and words[at + 1].text in ("and", "or") and words[at + 2].attribute
