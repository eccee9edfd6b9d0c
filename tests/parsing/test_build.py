"""Captions -> candidates for a vocabulary."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from anytag.parsing import Candidate, build_vocabulary

CAPTIONS = [
    "A dog on a bike.",
    "Two dogs chase a bicycle",
    "A puppy and another puppy and an animal",
    "The dog rides bikes in the background",
]


def by_name(candidates: list[Candidate]) -> dict[str, Candidate]:
    return {candidate.name: candidate for candidate in candidates}


def test_counts_captions_not_mentions() -> None:
    found = by_name(build_vocabulary(CAPTIONS, min_count=1))
    assert found["dog"].count == 3
    assert found["puppy"].count == 1
    assert "background" not in found


def test_synonyms_are_merged_and_explained() -> None:
    bicycle = by_name(build_vocabulary(CAPTIONS, min_count=1))["bicycle"]
    assert bicycle.count == 3
    assert bicycle.synonyms == ("bike",)
    assert bicycle.merged == ("bike (2): listed as another word (object) of bicycle",)
    assert by_name(build_vocabulary(CAPTIONS, min_count=1))["dog"].synonyms == ()  # a plural is no synonym


def test_given_synonyms() -> None:
    found = by_name(build_vocabulary(CAPTIONS, min_count=1, synonyms={"puppy": "dog"}))
    assert "puppy" not in found
    assert found["dog"].count == 4
    assert found["dog"].merged == ("puppy (1): given as a synonym of dog",)


def test_ranked_and_cut() -> None:
    candidates = build_vocabulary(CAPTIONS, min_count=2)
    assert [candidate.name for candidate in candidates] == ["bicycle", "dog"]
    assert candidates[0].examples[0] == CAPTIONS[0]


def test_parents_are_candidates() -> None:
    found = by_name(build_vocabulary(CAPTIONS, min_count=1))
    assert found["puppy"].parents == ("dog", "animal")
    assert by_name(build_vocabulary(CAPTIONS[:2], min_count=1))["dog"].parents == ()


@settings(deadline=None)
@given(st.lists(st.sampled_from([*CAPTIONS, "", "犬", "no dogs"])), st.integers(1, 4))
def test_counts_are_bounded(captions: list[str], min_count: int) -> None:
    candidates = build_vocabulary(captions, min_count=min_count)
    assert all(min_count <= candidate.count <= len(captions) for candidate in candidates)
    assert len({(candidate.name, candidate.kind) for candidate in candidates}) == len(candidates)
    assert [c.count for c in candidates] == sorted((c.count for c in candidates), reverse=True)
