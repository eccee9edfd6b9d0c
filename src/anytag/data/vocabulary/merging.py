"""Propose merges of vocabulary candidates that are synonyms, with explanations.

There are four criteria: spelling ("sand castle", "sandcastle"), WordNet (a common synset), the text encoder
(similar vectors), and the photos (one caption has "couch", another of the same photo "sofa", and none has
both). The first two suffice alone, the last two only together; names that share a word are left to a person
("home plate").
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from anytag.data.vocabulary.wordnet import WordNet
from anytag.parsing import Candidate, Kind, Lexicon
from anytag.parsing.lexicon import normal
from anytag.text_encoders import TextEncoder

Key = tuple[str, Kind]
Photos = Callable[[], Iterable[Sequence[str]]]
"""Returns a new iteration over the corpus, as the captions of each photo."""

_BLOCK = 1024  # rows of the similarity matrix computed at once
_NEAREST = 5


@dataclass(frozen=True, slots=True)
class Merge:
    """A proposal: `name` is a synonym of `into`, which is more frequent.

    Attributes:
        why: the criteria and their evidence.
        sure: whether this suffices without a person's review.
    """

    name: Key
    into: Key
    why: str
    sure: bool


@dataclass(frozen=True)
class MergeRules:
    """Thresholds of the criteria.

    Attributes:
        similarity: minimum cosine similarity of a pair.
        swaps: minimum number of photos in which different captions use the two names.
        swap_share: minimum number of such photos, as a share of those with the rarer name.
        both_share: maximum number of captions with both names, as a share of such photos.
    """

    similarity: float = 0.8
    swaps: int = 3
    swap_share: float = 0.1
    both_share: float = 0.1


def propose(
    candidates: Sequence[Candidate],
    lexicon: Lexicon,
    *,
    wordnet: WordNet | None = None,
    encoder: TextEncoder | None = None,
    photos: Photos | None = None,
    read: Callable[[str], set[Key]] | None = None,
    rules: MergeRules | None = None,
) -> list[Merge]:
    """Propose merges of candidates of one kind, at most one per name; never of a name and a broader one.

    Args:
        candidates: most frequent first; the first of two names is kept.
        lexicon: provides lemmas and broader names.
        wordnet, encoder: optional sources for criteria.
        photos, read: the corpus, and a function that returns the names in a caption; both or none.
        rules: thresholds.
    """
    rules = rules or MergeRules()
    keys = [(c.name, c.kind) for c in candidates]
    merges: dict[Key, Merge] = {}
    for proposals in (by_spelling(keys, lexicon), by_synset(keys, wordnet) if wordnet else ()):
        for merge in proposals:
            if not _related(merge.name, merge.into, lexicon):
                merges.setdefault(merge.name, merge)
    if encoder is not None:
        pairs = by_vectors(keys, encoder, rules.similarity)
        pairs = {p: s for p, s in pairs.items() if p[1] not in merges and not _related(*p, lexicon)}
        swaps = count_swaps(pairs, photos(), read) if photos and read else {}
        for merge in _by_similarity(pairs, swaps, rules):
            merges.setdefault(merge.name, merge)
    return [merges[key] for key in keys if key in merges]


def by_spelling(keys: Sequence[Key], lexicon: Lexicon) -> Iterator[Merge]:
    """Names that differ only in spaces, hyphens, apostrophes or number."""
    first: dict[tuple[str, bool], Key] = {}
    for name, kind in keys:
        *front, last = normal(name).split()
        letters = re.sub(r"\W", "", "".join([*front, lexicon.inflection.singular(last)]))
        into = first.setdefault((letters, _is_thing(kind)), (name, kind))
        if into != (name, kind) and _same_kind(into[1], kind):
            yield Merge(
                (name, kind), into, f"lemma: both are {letters!r} without spaces and plural", sure=True
            )


def by_synset(keys: Sequence[Key], wordnet: WordNet) -> Iterator[Merge]:
    """Objects and scenes whose most frequent sense is the same synset."""
    first: dict[int, Key] = {}
    for key in keys:
        sense = wordnet.first_sense(key[0]) if _is_thing(key[1]) else None
        if sense is not None:
            into = first.setdefault(sense, key)
            if into != key:
                why = f"WordNet: both are {wordnet.synsets[sense].gloss!r}"
                yield Merge(key, into, why, sure=not _share_a_word(key, into))


def by_vectors(keys: Sequence[Key], encoder: TextEncoder, similarity: float) -> dict[tuple[Key, Key], float]:
    """Pairs (more frequent, less frequent) of one kind with similar vectors, and their cosine."""
    if not keys:
        return {}
    vectors = encoder.encode([name for name, _ in keys])  # K×D, unit vectors
    pairs = {}
    for start in range(0, len(keys), _BLOCK):
        cosines: NDArray[np.float32] = vectors[start : start + _BLOCK] @ vectors.T  # block×K
        nearest = np.argsort(-cosines, axis=1)[:, : _NEAREST + 1]
        for offset, others in enumerate(nearest):
            number = start + offset
            for other in map(int, others):
                cosine = float(cosines[offset, other])
                if other < number and cosine >= similarity and _same_kind(keys[other][1], keys[number][1]):
                    pairs[keys[other], keys[number]] = cosine
    return pairs


@dataclass(slots=True)
class Swaps:
    """Photos with the rarer of two names, photos in which captions use one name each, captions with both."""

    rarer: int = 0
    swapped: int = 0
    both: int = 0

    def are_synonyms(self, rules: MergeRules) -> bool:
        """Whether captions use one name in place of the other."""
        often = self.swapped >= max(rules.swaps, rules.swap_share * self.rarer)
        return often and self.both <= rules.both_share * self.swapped


def count_swaps(
    pairs: Iterable[tuple[Key, Key]], photos: Iterable[Sequence[str]], read: Callable[[str], set[Key]]
) -> dict[tuple[Key, Key], Swaps]:
    """Iterate over the corpus for these pairs; photos with a single caption are not informative."""
    swaps = {pair: Swaps() for pair in pairs}
    keys = {key for pair in swaps for key in pair}
    alone: Counter[Key] = Counter()
    for captions in photos:
        mentions = [read(caption) & keys for caption in captions] if len(captions) > 1 else []
        all_mentions = set[Key]().union(*mentions)
        alone.update(all_mentions)
        for one, other in combinations(sorted(all_mentions), 2):
            pair = (one, other) if (one, other) in swaps else (other, one)
            if pair in swaps:
                both = sum(one in names and other in names for names in mentions)
                swaps[pair].both += both
                swaps[pair].swapped += not both
    for (one, other), counted in swaps.items():
        counted.rarer = min(alone[one], alone[other])
    return swaps


def _by_similarity(
    pairs: dict[tuple[Key, Key], float], swaps: dict[tuple[Key, Key], Swaps], rules: MergeRules
) -> Iterator[Merge]:
    """Merges by descending similarity; those supported by photos come first."""
    ranked = sorted(pairs, key=lambda p: (not _are_synonyms(swaps.get(p), rules), -pairs[p]))
    for into, name in ranked:
        why = f"embedding: cosine {pairs[into, name]:.2f}"
        counted = swaps.get((into, name))
        if counted is not None:
            why += (
                f"; co-occurrence: of {counted.rarer} photos {counted.swapped} have captions with one name"
                f" each, {counted.both} captions have both"
            )
        yield Merge(name, into, why, sure=_are_synonyms(counted, rules) and not _share_a_word(name, into))


def _are_synonyms(counted: Swaps | None, rules: MergeRules) -> bool:
    return counted is not None and counted.are_synonyms(rules)


def _related(one: Key, other: Key, lexicon: Lexicon) -> bool:
    """Whether one is broader than the other: "dog" is broader than "puppy", not a synonym."""
    a, b = normal(one[0]), normal(other[0])
    return a in lexicon.parents(b) or b in lexicon.parents(a)


def _share_a_word(one: Key, other: Key) -> bool:
    """Whether names of things share a word; such names usually differ in meaning by the other word."""
    words = set(normal(one[0]).split()) & set(normal(other[0]).split())
    return bool(words) and _is_thing(one[1])


def _is_thing(kind: Kind) -> bool:
    return kind in ("object", "scene")


def _same_kind(one: Kind, other: Kind) -> bool:
    return one == other or (_is_thing(one) and _is_thing(other))
