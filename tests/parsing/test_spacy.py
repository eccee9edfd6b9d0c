"""The second parser: spaCy's own objects, with parts of speech that the test gives in place of a model."""

from __future__ import annotations

import pytest
import spacy
from spacy.language import Language
from spacy.tokens import Doc

from anytag.errors import MissingExtraError
from anytag.parsing.spacy import SpacyParser, load_english

POS = {
    "saw": "VERB",
    "saws": "NOUN",
    "watch": "VERB",
    "orange": "ADJ",
    "painting": "VERB",
    "dog": "NOUN",
    "stands": "NOUN",
}


@Language.component("test_parts_of_speech")
def parts_of_speech(doc: Doc) -> Doc:
    for token in doc:
        token.pos_ = POS.get(token.lower_, "X")
    return doc


@pytest.fixture(scope="module")
def parser() -> SpacyParser:
    pipeline = spacy.blank("en")
    pipeline.add_pipe("test_parts_of_speech")
    return SpacyParser(pipeline)


def kinds(parser: SpacyParser, caption: str) -> dict[str, str]:
    return {tag.name: tag.kind for tag in parser.parse(caption)}


def test_the_part_of_speech_settles_the_reading(parser: SpacyParser) -> None:
    assert kinds(parser, "the watch a dog") == {"watch": "action", "dog": "object"}
    assert kinds(parser, "the painting") == {"paint": "action"}
    assert kinds(parser, "this is orange") == {"orange": "attribute"}


def test_what_the_tagger_does_not_know_is_read_by_rules(parser: SpacyParser) -> None:
    assert kinds(parser, "a man feeds the red birds") == {
        "man": "object",
        "feed": "action",
        "red": "attribute",
        "bird": "object",
    }


def test_negation_quotations_and_compounds_are_the_same(parser: SpacyParser) -> None:
    caption = 'A dog isn\'t near the fire-truck; a sign says "no cats".'
    assert list(kinds(parser, caption)) == ["dog", "sign"]
    assert list(kinds(parser, "two fire-trucks, no dog")) == ["fire truck"]


@pytest.mark.parametrize("caption", ["", " ", "\n\t", "犬が走る", "🐕 dog", "don't", "a  b\u00a0c", "'' \""])
def test_odd_text(parser: SpacyParser, caption: str) -> None:
    assert set(kinds(parser, caption)) <= {"dog"}


def test_a_stream_is_read_as_one_by_one(parser: SpacyParser) -> None:
    captions = ["a dog on a bike", "", "no dog"]
    assert list(parser.parse_many(captions)) == [parser.parse(caption) for caption in captions]


def test_spans_are_the_wording(parser: SpacyParser) -> None:
    caption = "Two Fire-Trucks, bikes"
    assert [caption[tag.start : tag.end] for tag in parser.parse(caption)] == ["Fire-Trucks", "bikes"]


def test_a_model_that_is_not_installed_is_said() -> None:
    with pytest.raises(MissingExtraError, match="spacy download en_nothing"):
        load_english("en_nothing")
