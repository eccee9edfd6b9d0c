"""`anytag.caption_check`: captions checked against tags, and plain captions."""

from __future__ import annotations

import pytest

from anytag.caption_check import CaptionChecker
from anytag.parsing import Parser
from anytag.results import TagScore
from anytag.vocabulary import Tag, Vocabulary

WORDS = Vocabulary(
    [
        Tag("animal", "animal", "object"),
        Tag("dog", "dog", "object", parents=("animal",)),
        Tag("beagle", "beagle", "object", parents=("dog",)),
        Tag("umbrella", "umbrella", "object"),
        Tag("table", "table", "object"),
        Tag("water", "water", "object"),
        Tag("glasses", "glasses", "object"),
        Tag("red", "red", "attribute"),
        Tag("drawing", "drawing", "object"),
        Tag("outdoor", "outdoor", "scene"),
    ]
)


@pytest.fixture
def checker() -> CaptionChecker:
    whole = {"with", "small", "town"}
    return CaptionChecker(WORDS, Parser(vocabulary=WORDS), whole.__contains__)


def tags(**scores: float) -> list[TagScore]:
    return [TagScore(name, name, score, "vocabulary") for name, score in scores.items()]


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["dog"], "a photo of a dog"),
        (["umbrella", "dog"], "a photo of an umbrella and a dog"),
        (["dog", "water", "glasses"], "a photo of a dog, water and glasses"),
        ([], "a photo"),
        (["drawing"], "a drawing"),
        (["dog", "drawing"], "a drawing of a dog"),
    ],
)
def test_plain_words(checker: CaptionChecker, names: list[str], text: str) -> None:
    assert checker.plain(tags(**dict.fromkeys(names, 0.9))) == text
    assert checker.plain(tags(**dict.fromkeys(names, 0.9)), {"photo"}) == text.removeprefix(
        "a photo"
    ).removeprefix(" of ")


def test_what_no_tag_sees_is_unsupported(checker: CaptionChecker) -> None:
    text = "a dog sits on a table under a red umbrella"
    assert checker.unsupported(text, {"dog": 0.9, "table": 0.04}, 0.05) == ["table", "umbrella"]


def test_a_word_of_pieces_must_be_known(checker: CaptionChecker) -> None:
    assert checker.misspelled("a shedordog with a small beagle in the town") == ["shedordog"]
    assert checker.misspelled("wakeboarding farmers, an assortment of umbrellas and it's a ditch") == []


def test_kin_of_the_main_thing_names_it(checker: CaptionChecker) -> None:
    assert checker.mentions("a beagle runs", "dog") and checker.mentions("an animal runs", "dog")
    assert not checker.mentions("an umbrella on a table", "dog")


def test_sure_are_things_and_the_narrowest(checker: CaptionChecker) -> None:
    given = tags(red=0.99, animal=0.98, dog=0.95, beagle=0.9, table=0.3)
    assert [tag.id for tag in checker.confident(given, 0.6)] == ["beagle"]


def test_no_caption_needs_to_name_the_setting(checker: CaptionChecker) -> None:
    assert [tag.id for tag in checker.confident(tags(outdoor=0.99, dog=0.7), 0.6)] == ["dog"]
    assert checker.confident(tags(outdoor=0.99), 0.6) == []
