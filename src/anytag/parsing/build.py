"""A corpus of captions -> candidates for a vocabulary: what is named often enough, under one name each."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .lexicon import Kind, Lexicon, default_lexicon, normal
from .parser import Parser

_EXAMPLES = 3


@dataclass(frozen=True)
class Candidate:
    """A name that captions use.

    Attributes:
        name, kind: as the tag would have them.
        count: captions that name it, by any wording.
        synonyms: other words of the corpus for it, most used first; plain inflections left out.
        examples: the first captions that name it.
        merged: why each synonym was merged, in the same order.
        parents: broader names that are candidates themselves, nearest first.
    """

    name: str
    kind: Kind
    count: int
    synonyms: tuple[str, ...]
    examples: tuple[str, ...]
    merged: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()


def build_vocabulary(
    captions: Iterable[str],
    *,
    min_count: int,
    lexicon: Lexicon | None = None,
    synonyms: Mapping[str, str] | None = None,
) -> list[Candidate]:
    """Names that at least `min_count` captions use, most used first.

    A name that captions use as two kinds ("a swing", "swing") is a candidate of each kind used often enough.

    Args:
        captions: read once; one string a caption.
        min_count: captions that must name a candidate.
        lexicon: words of the language; the one that ships with anytag when None.
        synonyms: other word -> name, besides the lexicon's own.
    """
    lexicon = lexicon or default_lexicon()
    parser = Parser(lexicon)
    same = {normal(word): name for word, name in (synonyms or {}).items()}
    counts: Counter[tuple[str, Kind]] = Counter()
    wordings: dict[tuple[str, Kind], Counter[str]] = defaultdict(Counter)
    examples: dict[tuple[str, Kind], list[str]] = defaultdict(list)
    for caption in captions:
        seen = {}
        for tag in parser.parse(caption):
            key = same.get(normal(tag.name), tag.name), tag.kind
            seen[key] = caption[tag.start : tag.end], tag.name
        for key, (wording, said) in seen.items():
            counts[key] += 1
            wordings[key][_base(wording, key[1], lexicon) if said == key[0] else said] += 1
            if len(examples[key]) < _EXAMPLES:
                examples[key].append(caption)
    kept = [(key, count) for key, count in counts.items() if count >= min_count]
    names = {name for (name, _), _ in kept}
    candidates = []
    for (name, kind), count in sorted(kept, key=lambda row: (-row[1], row[0])):
        others = [(word, n) for word, n in wordings[name, kind].most_common() if word != normal(name)]
        why = tuple(f"{word} ({n}): {_why(word, kind, same)} of {name}" for word, n in others)
        above = tuple(
            p for p in map(lexicon.shown, lexicon.parents(normal(name))) if p in names and p != name
        )
        found = tuple(examples[name, kind])
        parents = above if kind in ("object", "scene") else ()
        candidates.append(Candidate(name, kind, count, tuple(w for w, _ in others), found, why, parents))
    return candidates


def _base(wording: str, kind: Kind, lexicon: Lexicon) -> str:
    """A wording without its inflection, so that plurals and verb forms are not called synonyms."""
    *first, last = normal(wording.replace("'", " ").replace("’", " ")).split()
    if kind == "action":
        words = [*first, last]
        found = lexicon.inflection.verb(words[0])
        return " ".join([found[0] if found else words[0], *words[1:]])
    return " ".join([*first, last if kind == "attribute" else lexicon.inflection.singular(last)])


def _why(word: str, kind: Kind, given: Mapping[str, str]) -> str:
    return "given as a synonym" if word in given else f"listed as another word ({kind})"
