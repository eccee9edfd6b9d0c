"""Lookup tables of names and synonyms, which find the longest name at each word of a caption."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Protocol

from anytag.parsing.grammar import ROLES, Word
from anytag.parsing.lexicon import KINDS, Kind, Lexicon, normal


class NamedTag(Protocol):
    """The part of a vocabulary's tag that the parser needs."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def synonyms(self) -> Sequence[str]: ...


@dataclass(frozen=True, slots=True)
class Entry:
    """A tag that a phrase is mapped to."""

    name: str
    kind: Kind


@dataclass(slots=True)
class Node:
    """A node of the phrase trie: the following words, and the tags of a name that ends here, if any."""

    following: dict[str, Node] = field(default_factory=dict)
    entries: tuple[Entry, ...] | None = None


@dataclass(frozen=True)
class Tables:
    """Single words by part of speech, and longer names as a trie of words."""

    nouns: dict[str, Entry] = field(default_factory=dict)
    verbs: dict[str, Entry] = field(default_factory=dict)
    attributes: dict[str, Entry] = field(default_factory=dict)
    phrases: Node = field(default_factory=Node)

    def add(self, phrase: str, entry: Entry, lexicon: Lexicon) -> None:
        """Map a phrase to a tag; existing entries are kept."""
        words = normal(phrase).split()
        if len(words) == 1:
            self._single(entry.kind).setdefault(_lemma(words[0], entry.kind, lexicon), entry)
        elif words:
            self.add_phrase(words, (entry,), lexicon)

    def add_phrase(self, words: Sequence[str], entries: tuple[Entry, ...], lexicon: Lexicon) -> None:
        """Map several words to tags, or to none, which hides the words that they consist of."""
        verb = lexicon.inflection.verb(words[0])
        action = bool(entries) and entries[0].kind == "action"
        spelled = [list(words), [*words[:-1], lexicon.inflection.singular(words[-1])]]
        if action:
            spelled = [[word for word in spelling if ROLES.get(word) != "determiner"] for spelling in spelled]
            spelled += [[verb[0], *spelling[1:]] for spelling in spelled] if verb else []
        for spelling in spelled:
            node = self.phrases
            for word in spelling:
                node = node.following.setdefault(word, Node())
            if node.entries is None:
                node.entries = entries

    def _single(self, kind: Kind) -> dict[str, Entry]:
        return {"action": self.verbs, "attribute": self.attributes}.get(kind, self.nouns)

    def longest(self, words: Sequence[Word], start: int, end: int) -> tuple[int, tuple[Entry, ...]] | None:
        """End and tags of the longest name at `start`, within words[start:end]; None if there is none."""
        best: tuple[int, tuple[Entry, ...]] | None = None
        verbal = words[start].verb is not None and not words[start].homograph
        open_paths = [(self.phrases, start)]
        while open_paths:
            node, at = open_paths.pop()
            if node.entries is not None and (best is None or at > best[0]):
                best = at, node.entries
            if at >= end:
                continue
            reached = [node.following[key] for key in words[at].keys if key in node.following]
            if not reached and verbal and at > start and words[at].role == "determiner":
                reached = [node]  # "ride a horse" is stored as "ride horse"
                if node.entries is not None:
                    continue
            # a stack, so that words as written are tried before their lemmas
            open_paths += [(child, at + 1) for child in reversed(reached)]
        return best


def _lemma(word: str, kind: Kind, lexicon: Lexicon) -> str:
    if kind == "attribute":
        return word
    if kind == "action":
        verb = lexicon.inflection.verb(word)
        return verb[0] if verb else word
    return lexicon.inflection.singular(word)


@cache
def free_tables(lexicon: Lexicon) -> Tables:
    """Tables of all names and synonyms in the lexicon; stop-listed phrases map to no tag."""
    tables = Tables()
    for phrase, entry in _lexicon_phrases(lexicon):
        tables.add(phrase, entry, lexicon)
    for phrase in sorted(lexicon.stop):
        if " " in phrase:
            tables.add_phrase(phrase.split(), (), lexicon)
    return tables


def vocabulary_tables(lexicon: Lexicon, tags: Iterable[NamedTag]) -> Tables:
    """Tables of a vocabulary's names, their synonyms in both, and compounds that hide their parts."""
    tables = Tables()
    by_name: dict[tuple[str, bool], Entry] = {}
    rows = [(tag, Entry(tag.name, _kind(tag.kind))) for tag in tags]
    for tag, entry in rows:
        by_name.setdefault((normal(tag.name), _is_noun(entry.kind)), entry)
        tables.add(tag.name, entry, lexicon)
    for tag, entry in rows:
        for synonym in tag.synonyms:
            by_name.setdefault((normal(synonym), _is_noun(entry.kind)), entry)
            tables.add(synonym, entry, lexicon)
    for phrase, entry in _lexicon_phrases(lexicon):
        known = by_name.get((normal(entry.name), _is_noun(entry.kind)))
        if known is not None:
            tables.add(phrase, known, lexicon)
        elif " " in phrase and _is_noun(entry.kind):
            tables.add_phrase(phrase.split(), _parts(phrase, entry.name, lexicon, by_name), lexicon)
    return tables


def _parts(
    phrase: str, name: str, lexicon: Lexicon, by_name: Mapping[tuple[str, bool], Entry]
) -> tuple[Entry, ...]:
    """Words of a compound that are broader names of it: a fire truck is a truck but not a fire."""
    broader = set(lexicon.parents(normal(name)))
    words = (lexicon.canonical(lexicon.inflection.singular(word), "object") for word in phrase.split())
    entries = (by_name.get((word, True)) for word in words if word in broader)
    return tuple(entry for entry in entries if entry is not None)


def _lexicon_phrases(lexicon: Lexicon) -> Iterator[tuple[str, Entry]]:
    for kind in KINDS:
        for name in sorted(lexicon.kinds[kind]):
            yield name, Entry(lexicon.display_name(name), kind)
        for other, name in lexicon.synonyms[kind].items():
            yield (
                other,
                Entry(lexicon.display_name(name), lexicon.kind(name) or kind if _is_noun(kind) else kind),
            )


def _is_noun(kind: Kind) -> bool:
    return kind in ("object", "scene")


def _kind(word: str) -> Kind:
    return next((kind for kind in KINDS if kind == word), "object")
