"""Collect vocabulary candidates from a corpus of captions: names that occur often enough, with synonyms."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from anytag.parsing.lexicon import KINDS, Kind, Lexicon, default_lexicon, normal
from anytag.parsing.parser import CaptionParser, ParsedTag, Parser

_EXAMPLES = 3
_LONGEST_EXAMPLE = 160

Key = tuple[str, Kind]


@dataclass(frozen=True)
class Candidate:
    """A name that captions use.

    Attributes:
        name, kind: of the tag.
        count: number of captions that name it, in any wording.
        synonyms: other words for it in the corpus, most frequent first; plain inflections are left out.
        examples: the first captions that name it.
        merged: why each synonym was merged, in the same order.
        parents: broader names that are candidates themselves, nearest first.
        known: whether it is in the lexicon, rather than found by discovery.
    """

    name: str
    kind: Kind
    count: int
    synonyms: tuple[str, ...]
    examples: tuple[str, ...]
    merged: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    known: bool = True


class Tally:
    """Counts the tags of a stream of captions; memory grows with the number of names, not of captions.

    Args:
        parser: extracts tags from the captions.
        synonyms: other word -> name, in addition to the lexicon's.
    """

    def __init__(self, parser: CaptionParser, *, synonyms: Mapping[str, str] | None = None) -> None:
        self.parser, self.lexicon = parser, parser.lexicon
        self.captions = 0
        self.counts: Counter[Key] = Counter()
        self._same = {normal(word): name for word, name in (synonyms or {}).items()}
        self._wordings: dict[Key, Counter[str]] = defaultdict(Counter)
        self._examples: dict[Key, list[str]] = defaultdict(list)

    def add(self, caption: str) -> set[Key]:
        """Count one caption's tags, each once, and return them."""
        self.captions += 1
        found = {self._key(tag): tag for tag in self.parser.parse(caption)}
        for key, tag in found.items():
            self.counts[key] += 1
            wording = caption[tag.start : tag.end]
            self._wordings[key][self._base(wording, key[1]) if tag.name == key[0] else tag.name] += 1
            if len(self._examples[key]) < _EXAMPLES:
                self._examples[key].append(caption[:_LONGEST_EXAMPLE])
        return set(found)

    def names(self, caption: str) -> set[Key]:
        """Return names and kinds of one caption's tags, without counting them."""
        return {self._key(tag) for tag in self.parser.parse(caption)}

    def candidates(
        self, *, min_count: int, top: int | None = None, include: Iterable[str] = ()
    ) -> list[Candidate]:
        """Return names with at least `min_count` captions, at most `top`, and those of `include` that any
        caption names; most frequent first.

        A name that captions use as two kinds ("a swing", "to swing") is a candidate for each frequent one.
        """
        included = listed_words(include, self.lexicon)
        ranked = sorted(self.counts.items(), key=lambda row: (-row[1], row[0]))
        frequent = {key for key, count in ranked[:top] if count >= min_count}
        found = [row for row in ranked if row[0] in frequent or (normal(row[0][0]), row[0][1]) in included]
        names = {name for (name, _), _ in found}
        return [self._candidate(key, count, names) for key, count in found]

    def _key(self, tag: ParsedTag) -> Key:
        return self._same.get(normal(tag.name), tag.name), tag.kind

    def _candidate(self, key: Key, count: int, names: set[str]) -> Candidate:
        name, kind = key
        others = [(word, n) for word, n in self._wordings[key].most_common() if word != normal(name)]
        why = tuple(f"{word} ({n}): {self._why(word, kind)} of {name}" for word, n in others)
        return Candidate(
            name,
            kind,
            count,
            synonyms=tuple(word for word, _ in others),
            examples=tuple(self._examples[key]),
            merged=why,
            parents=self._parents(name, names) if kind in ("object", "scene") else (),
            known=self.lexicon.kind(normal(name)) is not None,
        )

    def _parents(self, name: str, names: set[str]) -> tuple[str, ...]:
        """Broader names among the candidates; an unlisted compound is a kind of its last word."""
        word = normal(name)
        above = self.lexicon.parents(word)
        head = self.lexicon.canonical(word.rpartition(" ")[2], "object")
        if not above and head != word and self.lexicon.kind(word) is None:
            above = (head, *self.lexicon.parents(head))
        return tuple(p for p in map(self.lexicon.display_name, above) if p in names and p != name)

    def _base(self, wording: str, kind: Kind) -> str:
        """Lemmatise a wording, so that plurals and verb forms do not count as synonyms."""
        *first, last = normal(wording.replace("'", " ").replace("’", " ")).split()
        inflection = self.lexicon.inflection
        if kind == "action":
            words = [*first, last]
            verb = inflection.verb(words[0])
            return " ".join([verb[0] if verb else words[0], *words[1:]])
        return " ".join([*first, last if kind == "attribute" else inflection.singular(last)])

    def _why(self, word: str, kind: Kind) -> str:
        return "given as a synonym" if word in self._same else f"listed as another word ({kind})"


def listed_words(words: Iterable[str], lexicon: Lexicon) -> dict[Key, list[str]]:
    """The words of a list by name and kind: the word itself, of any kind, and the name it is a synonym of."""
    found: dict[Key, list[str]] = defaultdict(list)
    for word in dict.fromkeys(words):
        entry = lexicon.entry(normal(word))
        for key in {*((normal(word), kind) for kind in KINDS), *([entry] if entry else ())}:
            found[key].append(word)
    return found


def build_vocabulary(
    captions: Iterable[str],
    *,
    min_count: int,
    lexicon: Lexicon | None = None,
    synonyms: Mapping[str, str] | None = None,
) -> list[Candidate]:
    """Collect names that at least `min_count` captions use, most frequent first.

    Args:
        captions: iterated once.
        min_count: minimum number of captions that name a candidate.
        lexicon: by default the one that ships with anytag.
        synonyms: other word -> name, in addition to the lexicon's.
    """
    tally = Tally(Parser(lexicon or default_lexicon()), synonyms=synonyms)
    for caption in captions:
        tally.add(caption)
    return tally.candidates(min_count=min_count)
