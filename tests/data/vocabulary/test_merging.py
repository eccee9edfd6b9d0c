"""Which candidates are one tag: what each witness says, and what convinces."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from anytag.data.vocabulary.merging import (
    Merge,
    MergeRules,
    by_spelling,
    by_synset,
    by_vectors,
    count_swaps,
    propose,
)
from anytag.data.vocabulary.wordnet import WordNet
from anytag.parsing import Candidate, Kind, Parser, default_lexicon
from anytag.parsing.build import Tally

LEXICON = default_lexicon()


class Directions:
    """A text encoder with given directions in a plane, in degrees; it is asked for nothing else."""

    dim = 2

    def __init__(self, degrees: dict[str, float]) -> None:
        self.degrees = degrees

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        angles = np.radians([self.degrees[text] for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def thing(name: str, kind: Kind = "object") -> Candidate:
    return Candidate(name, kind, 9, (), ())


NOUNS = """00000001 06 n 02 sofa 0 couch 0 000 | a seat; "he sat"
00000002 06 n 02 plate 0 home_plate 0 000 | a base
"""
INDEX = """sofa n 1 0 1 0 00000001
couch n 1 0 1 0 00000001
plate n 1 0 1 0 00000002
home_plate n 1 0 1 0 00000002
"""


@pytest.fixture
def wordnet(tmp_path: Path) -> WordNet:
    (tmp_path / "data.noun").write_text(NOUNS)
    (tmp_path / "index.noun").write_text(INDEX)
    return WordNet(tmp_path)


def test_spelling() -> None:
    keys: list[tuple[str, Kind]] = [
        ("sandcastle", "object"),
        ("sand castles", "scene"),
        ("Sand-Castle", "action"),
    ]
    (merge,) = by_spelling(keys, LEXICON)
    assert (merge.name, merge.into, merge.sure) == (keys[1], keys[0], True)
    assert merge.why.startswith("lemma: ")


def test_synsets(wordnet: WordNet) -> None:
    keys: list[tuple[str, Kind]] = [
        ("sofa", "object"), ("couch", "object"), ("plate", "object"),
        ("home plate", "object"), ("couch", "action"),
    ]  # fmt: skip
    couch, plate = by_synset(keys, wordnet)
    assert couch == Merge(keys[1], keys[0], "WordNet: both are 'a seat'", sure=True)
    assert not plate.sure  # they share a word


def test_vectors_pair_what_is_near_and_of_one_kind() -> None:
    encoder = Directions({"sofa": 0, "couch": 20, "lamp": 90, "sit": 1})
    keys: list[tuple[str, Kind]] = [
        ("sofa", "object"),
        ("couch", "object"),
        ("lamp", "object"),
        ("sit", "action"),
    ]
    pairs = by_vectors(keys, encoder, 0.9)
    assert list(pairs) == [(keys[0], keys[1])]
    assert pairs[keys[0], keys[1]] == pytest.approx(np.cos(np.radians(20)), abs=1e-6)
    assert by_vectors([], encoder, 0.9) == {}


PHOTOS = [
    *[("a blorp in a room", "a glorp in a room")] * 4,
    ("a lamp and a plant", "a lamp and a plant"),
    ("a blorp",),
]


def counted(photos: Sequence[Sequence[str]]) -> Tally:
    tally = Tally(Parser(discover=True))
    for captions in photos:
        for caption in captions:
            tally.add(caption)
    return tally


def test_photos_that_swap_names() -> None:
    tally = counted(PHOTOS)
    blorp, glorp, lamp, plant = ((name, "object") for name in ("blorp", "glorp", "lamp", "plant"))
    swaps = count_swaps([(blorp, glorp), (lamp, plant)], PHOTOS, tally.names)  # type: ignore[list-item]
    assert (swaps[blorp, glorp].swapped, swaps[blorp, glorp].both, swaps[blorp, glorp].rarer) == (4, 0, 4)  # type: ignore[index]
    assert (swaps[lamp, plant].swapped, swaps[lamp, plant].both) == (0, 2)  # type: ignore[index]


@pytest.mark.parametrize(("swaps", "sure"), [(4, True), (5, False)])
def test_vectors_and_photos_convince_together(swaps: int, sure: bool) -> None:
    tally = counted(PHOTOS)
    found = [c for c in tally.candidates(min_count=2) if c.name.endswith("lorp")]
    encoder = Directions({"blorp": 0, "glorp": 5})
    (merge,) = propose(
        found,
        LEXICON,
        encoder=encoder,
        photos=lambda: PHOTOS,
        read=tally.names,
        rules=MergeRules(swaps=swaps),
    )
    assert (merge.name[0], merge.into[0], merge.sure) == ("glorp", "blorp", sure)
    assert "embedding: cosine 1.00; co-occurrence: of 4 photos 4 " in merge.why


def test_vectors_alone_only_ask() -> None:
    encoder = Directions({"sofa": 0, "couch": 5})
    (merge,) = propose([thing("sofa"), thing("couch")], LEXICON, encoder=encoder)
    assert not merge.sure


def test_what_is_broader_is_no_synonym(wordnet: WordNet) -> None:
    encoder = Directions({"dog": 0, "puppy": 1})
    assert propose([thing("dog"), thing("puppy")], LEXICON, encoder=encoder) == []
    assert propose([], LEXICON, wordnet=wordnet, encoder=encoder) == []


def test_the_surer_witness_is_heard_first(wordnet: WordNet) -> None:
    encoder = Directions({"sofa": 0, "couch": 5})
    (merge,) = propose([thing("sofa"), thing("couch")], LEXICON, wordnet=wordnet, encoder=encoder)
    assert merge.why.startswith("WordNet")
