"""Extract tags from captions: the objects, scenes, attributes and actions that they say are in the photo."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from anytag.parsing.discovery import compound, is_new_noun
from anytag.parsing.grammar import NO_WORD, ROLES, Word, is_verb
from anytag.parsing.lexicon import Kind, Lexicon, default_lexicon, normal
from anytag.parsing.negation import DENYING, OPENERS, Negation
from anytag.parsing.tables import Entry, NamedTag, free_tables, vocabulary_tables
from anytag.parsing.text import is_foreign, quoted

_WORD = re.compile(r"[^\W_]+")
_JOINED = re.compile(r"[\s\-'’_]*")  # separators within a phrase; anything else ends it
_CACHED_WORDS = 200_000

Matches = Sequence[re.Match[str]]


@dataclass(frozen=True, slots=True)
class ParsedTag:
    """A tag in a caption; caption[start:end] is its first mention."""

    name: str
    kind: Kind
    start: int
    end: int


class CaptionParser(Protocol):
    """The interface of parsers: `Parser` uses only its lexicon, `SpacyParser` a trained model."""

    @property
    def lexicon(self) -> Lexicon: ...

    def parse(self, caption: str) -> tuple[ParsedTag, ...]:
        """Return the distinct tags in order of appearance."""
        ...


class Parser:
    """Extracts tags from captions, without a model.

    Args:
        lexicon: by default the one that ships with anytag.
        vocabulary: find only these tags, by name; by default all names in the lexicon.
        discover: also find unknown things ("a hoverboard") and compounds of known words ("dog park"), by
            their position in the phrase; for finding new tags.
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
        """The words used for parsing."""
        return self._lexicon

    def parse(self, caption: str) -> tuple[ParsedTag, ...]:
        """Return the distinct tags in order of appearance, in time linear in the caption's length.

        Skipped: negated things ("no people"), quotations (the writing on a sign), and words of the lexicon
        in captions of another language.
        """
        matches = unquoted_words(caption)
        return self._walk(caption, matches, [self._word(match.group()) for match in matches])

    def _walk(self, caption: str, matches: Matches, words: list[Word]) -> tuple[ParsedTag, ...]:
        """Scan the words from left to right, matching the longest name at each."""
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
            negated = negation is not None and negation.covers(at, stop, thing=thing)
            if not negated and not (thing and self._is_modifier(caption, matches, words, whole)):
                new = compound(words, at, ends[at]) if self._discover and whole == at + 1 else None
                named = [(Entry(new, "object"), at + 2)] if new else []
                for entry, last in (*named, *((entry, whole) for entry in entries)):
                    span = matches[at].start(), matches[last - 1].end()
                    tags.setdefault(entry, ParsedTag(entry.name, entry.kind, *span))
            at = stop
        if is_foreign(words):
            return tuple(tag for tag in tags.values() if not self._is_english(tag.name))
        return tuple(tags.values())

    def _at(self, words: list[Word], at: int, end: int) -> tuple[int, tuple[Entry, ...], int]:
        """The next position, the tags at this word, and the end of their wording."""
        phrase = self._tables.longest(words, at, end) if at + 1 < end else None
        if phrase is not None and (phrase[1] or not self._acts(words, at, end)):
            whole, entries = phrase
            # "walking a dog" contains a dog as well: an action consumes only its verb
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
        after = words[at + 1] if at + 1 < end else NO_WORD
        before = words[at - 1] if at > 0 else NO_WORD
        attribute = tables.attributes.get(word.text)
        if attribute is not None and (word.noun is None or after.nominal or _listed(words, at, end)):
            return attribute
        # "a type of", "the rest": stop-listed as nouns, and not verbs either
        is_unambiguous = word.noun is None and not (word.stop and word.form in ("base", "third"))
        if word.verb is not None and (is_unambiguous or is_verb(before, word, after)):
            return tables.verbs.get(word.verb)
        return tables.nouns.get(word.singular)

    def _acts(self, words: list[Word], at: int, end: int) -> bool:
        """Whether a stop-listed phrase starts with a verb: "a man stands in", but not a stand-in."""
        word = words[at]
        before = words[at - 1] if at else NO_WORD
        return word.verb in self._tables.verbs and is_verb(
            before, word, words[at + 1] if at + 1 < end else NO_WORD
        )

    @staticmethod
    def _is_modifier(caption: str, matches: Matches, words: list[Word], stop: int) -> bool:
        """A "duck-shaped" boat, a "dog-free" park and an "apple-green" sofa contain no duck, dog or apple."""
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
        homograph = verb in lexicon.homographs
        return Word(
            text=text,
            keys=tuple(dict.fromkeys(key for key in (text, singular, None if homograph else verb) if key)),
            role=ROLES.get(text, ""),
            noun=singular if known else None,
            singular=singular,
            verb=verb,
            form=form,
            attribute=attribute,
            animate=known and lexicon.is_animate(singular),
            homograph=homograph,
            stop=singular in lexicon.stop,
        )


def unquoted_words(caption: str) -> list[re.Match[str]]:
    """The words of a caption outside quotations."""
    matches = list(_WORD.finditer(caption))
    spans = quoted(caption)
    if not spans:
        return matches
    remaining = iter([*spans, (len(caption), len(caption))])
    start, end = next(remaining)
    words_kept = []
    for match in matches:
        while match.start() >= end and start < len(caption):
            start, end = next(remaining)
        if match.start() < start:
            words_kept.append(match)
    return words_kept


def _phrase_ends(caption: str, matches: Matches) -> list[int]:
    """For each word the index after the last word of its phrase, which ends at punctuation."""
    ends = [0] * len(matches)
    end = len(matches)
    for i in range(len(matches) - 1, -1, -1):
        ends[i] = end
        if i and not _JOINED.fullmatch(caption, matches[i - 1].end(), matches[i].start()):
            end = i
    return ends


def _listed(words: list[Word], at: int, end: int) -> bool:
    """Whether "and" and another attribute follow, as after the first word of "orange and white"."""
    return at + 2 < end and words[at + 1].text in ("and", "or") and words[at + 2].attribute
