from __future__ import annotations

import pytest

from anytag import Tag, Vocabulary
from anytag.server.suggestions import MAX_SUGGESTIONS, Suggestions

VOCABULARY = Vocabulary(
    [
        Tag("dog", "dog", "object", names={"de": "Hund", "es": "perro", "zh": "狗"}, synonyms=("hound",)),
        Tag("hot dog", "hot dog", "object", names={"de": "Hotdog"}),
        Tag("tree", "tree", "object", names={"es": "árbol"}),
        Tag("crane", "crane", "object"),
        Tag("crane-2", "crane", "object", synonyms=("crane bird",)),
        Tag("watchdog", "watchdog", "object"),
    ]
)


def found(text: str, *own: str) -> list[tuple[str, str | None]]:
    return [(one.name, one.by) for one in Suggestions(VOCABULARY).find(text, own)]


def test_beginnings_come_before_words_and_words_before_parts() -> None:
    assert found("dog") == [("dog", None), ("hot dog", None), ("watchdog", None)]
    assert found("dog", "dog rose", "my dog") == [
        ("dog", None), ("dog rose", None), ("my dog", None), ("hot dog", None), ("watchdog", None),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "name", "by"),
    [
        ("hun", "dog", "Hund"),
        ("PERRO", "dog", "perro"),
        ("狗", "dog", "狗"),
        ("arb", "tree", "árbol"),
        ("houn", "dog", "hound"),
        ("hot-d", "hot dog", None),
        ("  hot   do ", "hot dog", None),
    ],
)
def test_any_name_in_any_language_finds_a_tag(text: str, name: str, by: str | None) -> None:
    assert found(text) == [(name, by)]


def test_what_is_suggested_finds_the_tag() -> None:
    assert [name for name, _ in found("crane")] == ["crane", "crane-2"]
    vocabulary = [*VOCABULARY]
    assert [VOCABULARY.find(name) for name, _ in found("crane")] == vocabulary[3:5]


def test_a_tag_is_suggested_once_and_not_too_many() -> None:
    own = [f"cat {number}" for number in range(100)]
    assert [name for name, _ in found("", "dog")].count("dog") == 1
    assert found("cat", *own) == [(name, None) for name in own[:MAX_SUGGESTIONS]]
    assert found("nothing of this name") == []
