"""The words that ship with anytag."""

from __future__ import annotations

import pytest

from anytag.parsing import default_lexicon
from anytag.parsing.lexicon import KINDS

LEXICON = default_lexicon()


@pytest.mark.parametrize(
    ("name", "above"),
    [
        ("dog", "animal"),
        ("poodle", "dog"),
        ("fire truck", "vehicle"),
        ("banana", "fruit"),
        ("sofa", "furniture"),
        ("t shirt", "clothing"),
        ("church", "building"),
        ("oak", "plant"),
        ("boy", "child"),
        ("surgeon", "person"),
        ("guitar", "instrument"),
        ("wine bottle", "bottle"),
        ("owl", "bird"),
        ("golden retriever", "dog"),
    ],
)
def test_parents(name: str, above: str) -> None:
    assert above in LEXICON.parents(name)


@pytest.mark.parametrize(
    ("name", "not_above"), [("hot dog", "dog"), ("tiger", "person"), ("sea lion", "lion"), ("toy gun", "gun")]
)
def test_no_false_parents(name: str, not_above: str) -> None:
    assert not_above not in LEXICON.parents(name)


@pytest.mark.parametrize(
    ("form", "lemma"),
    [
        ("caves", "cave"),
        ("lenses", "lens"),
        ("crosses", "cross"),
        ("syringes", "syringe"),
    ],
)
def test_plurals_that_the_rules_would_miss(form: str, lemma: str) -> None:
    assert LEXICON.inflection.singular(form) == lemma


def test_plurals_of_scenes() -> None:
    regular = [name for name in LEXICON.kinds["scene"] if " " not in name and name[-1] not in "shxy"]
    others = {name for name in regular if LEXICON.inflection.singular(f"{name}s") != name}
    assert others <= {"wood", "firework", "crossroad", "rapid"}, "which have other meanings"
    assert len(regular) > 100


def test_no_name_is_its_own_ancestor() -> None:
    assert not [name for name, above in LEXICON.broader.items() if name in above]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("dog", "object"),
        ("beach", "scene"),
        ("striped", "attribute"),
        ("jump", "action"),
        ("time", None),
        ("bike", None),
    ],
)
def test_kind(name: str, kind: str | None) -> None:
    assert LEXICON.kind(name) == kind


@pytest.mark.parametrize(
    ("word", "kind", "name"), [("bike", "object", "bicycle"), ("grey", "attribute", "gray")]
)
def test_canonical(word: str, kind: str, name: str) -> None:
    found = next(k for k in KINDS if k == kind)
    assert LEXICON.canonical(word, found) == name
    assert LEXICON.canonical(name, found) == name


def test_synonyms_lead_to_names_and_no_further() -> None:
    for kind in KINDS:
        for word, name in LEXICON.synonyms[kind].items():
            assert name not in LEXICON.synonyms[kind], (
                f"{word} -> {name} -> {LEXICON.synonyms[kind].get(name)}"
            )
            assert any(name in LEXICON.kinds[k] for k in KINDS), f"{word} leads to {name}, which is no name"


@pytest.mark.parametrize(
    ("word", "noun"),
    [
        ("dogs", "dog"),
        ("berries", "berry"),
        ("churches", "church"),
        ("glass", "glass"),
        ("bus", "bus"),
        ("firemen", "fireman"),
    ],
)
def test_nouns(word: str, noun: str) -> None:
    assert LEXICON.inflection.singular(word) == noun


@pytest.mark.parametrize(
    ("word", "noun"), [("zorks", "zork"), ("zorches", "zorch"), ("zorries", "zorry"), ("zoss", "zoss")]
)
def test_unknown_nouns_follow_the_rules(word: str, noun: str) -> None:
    assert LEXICON.inflection.singular(word) == noun


@pytest.mark.parametrize(
    ("word", "verb", "form"),
    [
        ("running", "run", "ing"),
        ("jogging", "jog", "ing"),
        ("rides", "ride", "third"),
        ("lying", "lie", "ing"),
        ("stood", "stand", "past"),
        ("carried", "carry", "past"),
        ("jump", "jump", "base"),
        ("watches", "watch", "third"),
    ],
)
def test_verbs(word: str, verb: str, form: str) -> None:
    assert LEXICON.inflection.verb(word) == (verb, form)


def test_no_verb() -> None:
    assert LEXICON.inflection.verb("ceiling") is None
