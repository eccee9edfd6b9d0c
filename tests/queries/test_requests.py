"""Sentences in other languages, whose names a vocabulary translates."""

from __future__ import annotations

import pytest

from anytag.queries.requests import in_english
from anytag.vocabulary import Tag, Vocabulary

VOCABULARY = Vocabulary(
    [
        Tag("cat", "cat", "object", names={"de": "Katze", "zh": "猫"}),
        Tag("polar bear", "polar bear", "object", names={"fr": "ours blanc"}),
    ]
)


@pytest.mark.parametrize(
    ("text", "english"),
    [
        ("Katze!", "cat!"),
        ("(Katze), Hund", "(cat), Hund"),
        ("猫。", "cat。"),
        ("un ours blanc.", "un polar bear."),
        ("ours, blanc", "ours, blanc"),
        ("... Katze", "... cat"),
    ],
)
def test_punctuation_hides_no_name(text: str, english: str) -> None:
    assert in_english(text, ["Katze", "Hund", "猫", "ours", "blanc", "un"], VOCABULARY) == english
