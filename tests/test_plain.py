"""`anytag.plain`: captions that tags bear out, and plain words."""

from __future__ import annotations

import pytest

from anytag.parsing import Parser
from anytag.plain import Support
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
    ]
)


@pytest.fixture
def support() -> Support:
    return Support(WORDS, Parser(vocabulary=WORDS))


def tags(**scores: float) -> list[TagScore]:
    return [TagScore(name, name, score, "vocabulary") for name, score in scores.items()]


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["dog"], "a photo of a dog"),
        (["umbrella", "dog"], "a photo of an umbrella and a dog"),
        (["dog", "water", "glasses"], "a photo of a dog, water and glasses"),
        ([], "a photo"),
    ],
)
def test_plain_words(support: Support, names: list[str], text: str) -> None:
    assert support.plain(tags(**dict.fromkeys(names, 0.9))) == text


def test_what_no_tag_sees_is_unsupported(support: Support) -> None:
    text = "a dog sits on a table under a red umbrella"
    assert support.unsupported(text, {"dog": 0.9, "table": 0.04}, 0.05) == ["table", "umbrella"]


def test_kin_of_the_main_thing_names_it(support: Support) -> None:
    assert support.names("a beagle runs", "dog") and support.names("an animal runs", "dog")
    assert not support.names("an umbrella on a table", "dog")


def test_sure_are_things_and_the_narrowest(support: Support) -> None:
    given = tags(red=0.99, animal=0.98, dog=0.95, beagle=0.9, table=0.3)
    assert [tag.id for tag in support.sure(given, 0.6)] == ["beagle"]
