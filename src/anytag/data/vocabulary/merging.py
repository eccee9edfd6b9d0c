"""Which candidates of a vocabulary are one tag under two names, and why: every proposal can be explained.

Four witnesses: the spelling ("sand castle", "sandcastle"), WordNet (one synset), the text encoder (near
vectors), the photos (one caption says "couch", another of the same photo "sofa", none says both). The first
two convince alone, the last two only together; names that share a word are left to a person ("home plate").
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
"""Gives the corpus again: the captions of one photo after the other."""

_BLOCK = 1024  # rows of the similarity matrix at once
_NEAREST = 5


@dataclass(frozen=True, slots=True)
class Merge:
    """A proposal: `name` is another word for `into`, which captions use more.

    Attributes:
        why: the witnesses and what they say.
        sure: whether that is enough without a person.
    """

    name: Key
    into: Key
    why: str
    sure: bool


@dataclass(frozen=True)
class MergeRules:
    """When witnesses are heard.

    Attributes:
        similarity: cosine from which the encoder speaks for a pair.
        swaps: photos at least in which different captions use the two names.
        swap_share: such photos at least, as a share of those that show the rarer name.
        both_share: captions at most that use both, as a share of such photos.
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
    """Proposals for candidates of one kind, at most one for each name; never for a name and what is broader.

    Args:
        candidates: most used first: of two names, the first stays.
        lexicon: knows forms of words and what is broader.
        wordnet, encoder: witnesses; without them they are not heard.
        photos, read: the corpus, and what says the names in a caption; both or none.
        rules: the limits.
    """
    rules = rules or MergeRules()
    keys = [(c.name, c.kind) for c in candidates]
    merges: dict[Key, Merge] = {}
    for witness in (by_spelling(keys, lexicon), by_synset(keys, wordnet) if wordnet else ()):
        for merge in witness:
            if not _related(merge.name, merge.into, lexicon):
                merges.setdefault(merge.name, merge)
    if encoder is not None:
        pairs = by_vectors(keys, encoder, rules.similarity)
        pairs = {p: s for p, s in pairs.items() if p[1] not in merges and not _related(*p, lexicon)}
        swaps = count_swaps(pairs, photos(), read) if photos and read else {}
        for merge in _weighed(pairs, swaps, rules):
            merges.setdefault(merge.name, merge)
    return [merges[key] for key in keys if key in merges]


def by_spelling(keys: Sequence[Key], lexicon: Lexicon) -> Iterator[Merge]:
    """Names that differ in spaces, hyphens, apostrophes or number alone."""
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
    """Things whose most used sense is the same synset."""
    first: dict[int, Key] = {}
    for key in keys:
        sense = wordnet.first_sense(key[0]) if _is_thing(key[1]) else None
        if sense is not None:
            into = first.setdefault(sense, key)
            if into != key:
                why = f"WordNet: both are {wordnet.synsets[sense].gloss!r}"
                yield Merge(key, into, why, sure=not _share_a_word(key, into))


def by_vectors(keys: Sequence[Key], encoder: TextEncoder, similarity: float) -> dict[tuple[Key, Key], float]:
    """Pairs (more used, less used) of one kind whose vectors are near, with their cosine."""
    if not keys:
        return {}
    vectors = encoder.encode([name for name, _ in keys])  # K×D, rows of length 1
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
    """How two names share photos: those of the rarer one, those whose captions differ, captions with both."""

    rarer: int = 0
    swapped: int = 0
    both: int = 0

    def speaks(self, rules: MergeRules) -> bool:
        """Whether captions use one name in place of the other."""
        often = self.swapped >= max(rules.swaps, rules.swap_share * self.rarer)
        return often and self.both <= rules.both_share * self.swapped


def count_swaps(
    pairs: Iterable[tuple[Key, Key]], photos: Iterable[Sequence[str]], read: Callable[[str], set[Key]]
) -> dict[tuple[Key, Key], Swaps]:
    """Goes through the corpus once more, for these pairs alone; photos with a single caption say nothing."""
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


def _weighed(
    pairs: dict[tuple[Key, Key], float], swaps: dict[tuple[Key, Key], Swaps], rules: MergeRules
) -> Iterator[Merge]:
    """The nearest pair of each name first; those that the photos speak for before all others."""
    ranked = sorted(pairs, key=lambda p: (not _speaks(swaps.get(p), rules), -pairs[p]))
    for into, name in ranked:
        why = f"embedding: cosine {pairs[into, name]:.2f}"
        counted = swaps.get((into, name))
        if counted is not None:
            why += (
                f"; co-occurrence: of {counted.rarer} photos {counted.swapped} have captions with one name"
                f" each, {counted.both} captions have both"
            )
        yield Merge(name, into, why, sure=_speaks(counted, rules) and not _share_a_word(name, into))


def _speaks(counted: Swaps | None, rules: MergeRules) -> bool:
    return counted is not None and counted.speaks(rules)


def _related(one: Key, other: Key, lexicon: Lexicon) -> bool:
    """Whether one is broader than the other: a puppy is a dog, but no other word for it."""
    a, b = normal(one[0]), normal(other[0])
    return a in lexicon.parents(b) or b in lexicon.parents(a)


def _share_a_word(one: Key, other: Key) -> bool:
    """Names of things that share a word mostly differ by the other one."""
    words = set(normal(one[0]).split()) & set(normal(other[0]).split())
    return bool(words) and _is_thing(one[1])


def _is_thing(kind: Kind) -> bool:
    return kind in ("object", "scene")


def _same_kind(one: Kind, other: Kind) -> bool:
    return one == other or (_is_thing(one) and _is_thing(other))
