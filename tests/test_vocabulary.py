"""`anytag.vocabulary`: tags, vocabularies and their files, asked tags."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anytag.errors import OutputError, VocabularyError
from anytag.queries.requests import CustomTag, parse_custom_tag
from anytag.vocabulary import KINDS, Tag, Vocabulary

DOG = Tag("dog", "dog", "object", {"de": "Hund"}, ("puppy", "house dog"), ("animal",), 0.4)
HOT_DOG = Tag("hot dog", "hot dog", "object", {"fr": "hot-dog géant"}, ("frankfurter",), ("food",), 0.3)
BASS_FISH = Tag("bass (fish)", "bass", "object")
BASS_GUITAR = Tag("bass (instrument)", "bass", "object", synonyms=("dog",))
BEACH = Tag("beach", "beach", "scene", {"de": "Straße am Meer", "ja": "ビーチ"}, ("Hund",))
TAGS = (DOG, HOT_DOG, BASS_FISH, BASS_GUITAR, BEACH)


@pytest.fixture
def vocabulary() -> Vocabulary:
    return Vocabulary(TAGS)


texts = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1).filter(lambda t: t == t.strip())
tags = st.builds(
    Tag,
    id=texts.filter(lambda t: not t.startswith("custom:")),
    name=texts,
    kind=st.sampled_from(KINDS),
    names=st.dictionaries(texts, texts, max_size=3),
    synonyms=st.lists(texts, max_size=3).map(tuple),
    parents=st.lists(texts, max_size=3).map(tuple),
    threshold=st.floats(0, 1),
)
vocabularies = st.lists(tags, max_size=6, unique_by=lambda tag: tag.id).map(Vocabulary)
files = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


# --- tags ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": ""}, "id: expected a text"),
        ({"id": 3}, "id: expected a text"),
        ({"id": "custom:dog"}, "reserved for custom tags"),
        ({"name": " dog"}, "name: expected a text .*' dog'"),
        ({"name": "dog\x1b[31m"}, "control characters"),
        ({"name": "\ud800"}, "name: expected a text"),
        ({"kind": "animal"}, "kind: 'animal' is unknown, expected one of object, scene, attribute, action"),
        ({"kind": ["object"]}, "kind: "),
        ({"names": ["Hund"]}, "names: expected names by language code"),
        ({"names": {"de": ""}}, r"names\.de: "),
        ({"synonyms": "puppy"}, "synonyms: expected a list of texts"),
        ({"synonyms": ("",)}, "synonyms: expected a text"),
        ({"parents": (None,)}, "parents: expected a text"),
        ({"threshold": 1.01}, "threshold: expected a number from 0 to 1, got 1.01"),
        ({"threshold": -0.1}, "threshold"),
        ({"threshold": math.nan}, "threshold"),
        ({"threshold": True}, "threshold"),
        ({"threshold": "0.5"}, "threshold"),
    ],
)
def test_a_tag_checks_its_fields(change: dict[str, Any], message: str) -> None:
    fields: dict[str, Any] = {"id": "dog", "name": "dog", "kind": "object", **change}
    with pytest.raises(VocabularyError, match=message):
        Tag(**fields)


def test_a_tag_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        DOG.name = "cat"  # type: ignore[misc]


# --- a vocabulary as a sequence ---


def test_order_length_and_places(vocabulary: Vocabulary) -> None:
    assert tuple(vocabulary) == TAGS
    assert len(vocabulary) == 5
    assert vocabulary[0] is vocabulary["dog"] is DOG
    assert vocabulary[-1] is BEACH
    assert vocabulary.index("beach") == 4
    assert vocabulary.ids == ("dog", "hot dog", "bass (fish)", "bass (instrument)", "beach")
    assert "dog" in vocabulary
    assert DOG in vocabulary
    assert "cat" not in vocabulary
    assert Tag("dog", "another", "object") not in vocabulary
    assert repr(vocabulary) == "Vocabulary(5 tags)"
    assert len(Vocabulary([])) == 0


def test_an_unknown_id_names_what_looks_like_it(vocabulary: Vocabulary) -> None:
    with pytest.raises(
        VocabularyError, match=r"no tag of these 5 has the id 'hotdog'; did you mean 'hot dog'"
    ):
        vocabulary["hotdog"]
    with pytest.raises(VocabularyError, match="'zzz'"):
        vocabulary.index("zzz")
    with pytest.raises(IndexError):  # as any sequence
        vocabulary[5]


def test_ids_are_unique_and_names_may_repeat() -> None:
    with pytest.raises(VocabularyError, match="row 3: id 'dog' is already used in row 1"):
        Vocabulary([DOG, BEACH, Tag("dog", "hound", "object")])


def test_equality() -> None:
    assert Vocabulary(TAGS) == Vocabulary(list(TAGS))
    assert Vocabulary(TAGS) != Vocabulary(reversed(TAGS))
    assert Vocabulary(TAGS) != TAGS


# --- find ---


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("dog", DOG),  # the id, before the guitar's synonym
        ("DOG", DOG),
        ("  House-Dog ", DOG),
        ("house\u2011dog", DOG),  # non-breaking hyphen
        ("hotdog", HOT_DOG),
        ("Hot_Dog", HOT_DOG),
        ("ｈｏｔ　ｄｏｇ", HOT_DOG),  # noqa: RUF001  full width, with an ideographic space
        ("HOT-DOG GÉANT", HOT_DOG),
        ("bass", BASS_FISH),  # the first of two
        ("bass (instrument)", BASS_GUITAR),
        ("hund", BEACH),  # a synonym comes before a name in another language
        ("strasse am meer", BEACH),
        ("ビーチ", BEACH),
        ("cat", None),
        ("", None),
        (" - ", None),
    ],
)
def test_find(vocabulary: Vocabulary, text: str, tag: Tag | None) -> None:
    assert vocabulary.find(text) is tag


@given(vocabularies)
@settings(deadline=None)
def test_every_id_is_found_as_itself_or_an_earlier_tag(vocabulary: Vocabulary) -> None:
    for place, tag in enumerate(vocabulary):
        found = vocabulary.find(tag.id)
        assert found is None or vocabulary.index(found.id) <= place
        assert found is vocabulary.find(f" {tag.id} ")


@pytest.mark.parametrize("wrong", [None, 5, ["dog"], b"dog"])
def test_what_is_no_text_is_refused(vocabulary: Vocabulary, wrong: Any) -> None:
    with pytest.raises(VocabularyError, match="expected a text"):
        vocabulary.find(wrong)
    with pytest.raises(VocabularyError, match="has the id"):
        vocabulary.index(wrong)
    assert wrong not in vocabulary
    with pytest.raises(VocabularyError, match="expected a name by id"):
        vocabulary.rename(wrong)
    if not isinstance(wrong, list):
        with pytest.raises(VocabularyError, match=r"expected a list of ids|has the id"):
            vocabulary.subset(wrong)


def test_tags_can_be_put_into_sets() -> None:
    assert len({*TAGS, *TAGS, Tag(**DOG.to_dict() | {"synonyms": DOG.synonyms, "parents": DOG.parents})}) == 5


def test_find_all_finds_what_is_narrower_too() -> None:
    puppy = Tag("young dog", "puppy", "object", {"de": "Welpe"}, parents=("dog",))
    few = Vocabulary([puppy, BEACH, DOG, Tag("animal", "animal", "object")])
    assert few.find_all(["animal"]) == ("young dog", "dog", "animal")
    assert few.find_all(["House-Dog"]) == ("young dog", "dog")
    assert few.find_all(["welpe", "beach"]) == ("young dog", "beach")
    assert few.find_all([]) == ()
    with pytest.raises(VocabularyError, match="did you mean 'beach'"):
        few.find_all(["beahc"])


# --- new vocabularies ---


def test_names_in_a_language(vocabulary: Vocabulary) -> None:
    german = vocabulary.in_language("de")
    assert [tag.name for tag in german] == ["Hund", "hot dog", "bass", "bass", "Straße am Meer"]
    assert german.ids == vocabulary.ids
    assert vocabulary.in_language("DE") == german
    assert german["beach"].threshold == BEACH.threshold
    for name in ("beach", "strasse am meer"):
        assert german.find(name) is german["beach"]
    with pytest.raises(VocabularyError, match="available: de, fr, ja"):
        vocabulary.in_language("xx")


def test_subset_keeps_the_order_given(vocabulary: Vocabulary) -> None:
    assert list(vocabulary.subset(["beach", "dog"])) == [BEACH, DOG]
    assert len(vocabulary) == 5
    with pytest.raises(VocabularyError, match="'cat'"):
        vocabulary.subset(["dog", "cat"])
    with pytest.raises(VocabularyError, match="'dog' is already used"):
        vocabulary.subset(["dog", "dog"])
    with pytest.raises(VocabularyError, match=r"use \['dog'\]"):
        vocabulary.subset("dog")


def test_exclude(vocabulary: Vocabulary) -> None:
    assert list(vocabulary.exclude(["hot dog", "beach"])) == [DOG, BASS_FISH, BASS_GUITAR]
    with pytest.raises(VocabularyError, match="'cat'"):
        vocabulary.exclude(["cat"])


def test_merge(vocabulary: Vocabulary) -> None:
    cat = Tag("cat", "cat", "object")
    assert list(vocabulary.merge(Vocabulary([cat, DOG]))) == [*TAGS, cat]
    with pytest.raises(VocabularyError, match="id 'dog' is defined differently"):
        vocabulary.merge(Vocabulary([Tag("dog", "dog", "scene")]))


def test_rename(vocabulary: Vocabulary) -> None:
    renamed = vocabulary.rename({"dog": "hound"})
    assert renamed["dog"].name == "hound"
    assert renamed.ids == vocabulary.ids
    assert vocabulary["dog"].name == "dog"
    with pytest.raises(VocabularyError, match="tag 'dog': name: expected a text"):
        vocabulary.rename({"dog": ""})
    with pytest.raises(VocabularyError, match="'cat'"):
        vocabulary.rename({"cat": "kitten"})


def test_with_thresholds(vocabulary: Vocabulary) -> None:
    assert {tag.threshold for tag in vocabulary.with_thresholds(0.7)} == {0.7}
    some = vocabulary.with_thresholds({"beach": 1, "dog": 0})
    assert [tag.threshold for tag in some] == [0, 0.3, 0.5, 0.5, 1]
    with pytest.raises(VocabularyError, match=r"tag 'dog': threshold: .* got 2"):
        vocabulary.with_thresholds(2)


# --- files ---


@given(vocabularies)
@files
def test_a_file_gives_back_what_was_written(tmp_path: Path, vocabulary: Vocabulary) -> None:
    path = tmp_path / "vocabulary.jsonl"
    vocabulary.write(path)
    assert Vocabulary.read(path) == vocabulary
    assert os.listdir(tmp_path) == ["vocabulary.jsonl"]  # noqa: PTH208


def test_rows_are_readable(tmp_path: Path, vocabulary: Vocabulary) -> None:
    path = tmp_path / "vocabulary.jsonl"
    vocabulary.write(str(path))
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 5
    assert "ビーチ" in lines[4]
    assert json.loads(lines[0]) == DOG.to_dict()


def test_reading_is_lenient_where_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.jsonl"
    row = '{"id": "dog", "name": "dog", "kind": "object", "threshold": 1}'
    path.write_bytes(
        b"\xef\xbb\xbf" + row.encode() + b"\r\n\r\n"
    )  # a byte order mark, Windows lines, an empty one
    assert list(Vocabulary.read(path)) == [Tag("dog", "dog", "object", threshold=1)]


GOOD = {"id": "dog", "name": "dog", "kind": "object", "threshold": 0.5}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("3", "expected a JSON object with the fields id, name, kind"),
        ("{}", "lacks the field id, name, kind, threshold"),
        (json.dumps({**GOOD, "id": "cat", "synonym": []}), "unknown field synonym; expected id, name"),
        (json.dumps({**GOOD, "id": "cat", "synonyms": "kitten"}), "synonyms: expected a list"),
        (json.dumps({**GOOD, "id": "cat", "threshold": math.nan}), "threshold: .* got nan"),
        (json.dumps({**GOOD, "id": "cat", "names": None}), "names: "),
        (json.dumps(GOOD), "id 'dog' is already used in line 1"),
    ],
)
def test_a_wrong_row_is_named_by_file_line_and_field(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "vocabulary.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n\n{row}\n")
    with pytest.raises(VocabularyError, match=message) as caught:
        Vocabulary.read(path)
    assert str(caught.value).startswith(f"{path}, line 3: ")


def test_a_file_that_cannot_be_read_or_written(tmp_path: Path, vocabulary: Vocabulary) -> None:
    binary = tmp_path / "binary.jsonl"
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "none.jsonl", tmp_path, binary):
        with pytest.raises(VocabularyError, match="cannot be read as a vocabulary"):
            Vocabulary.read(path)
    with pytest.raises(OutputError, match=r"none/v\.jsonl cannot be written"):
        vocabulary.write(tmp_path / "none" / "v.jsonl")


def test_writing_over_what_cannot_be_replaced_leaves_nothing_behind(
    tmp_path: Path, vocabulary: Vocabulary
) -> None:
    (tmp_path / "v.jsonl").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        vocabulary.write(tmp_path / "v.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["v.jsonl"]


@given(st.binary(max_size=200))
@files
def test_any_file_is_a_vocabulary_or_an_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "any.jsonl"
    path.write_bytes(data)
    try:
        Vocabulary.read(path)
    except VocabularyError as error:
        assert str(path) in str(error)


# --- asked tags ---


@pytest.mark.parametrize(
    ("line", "asked"),
    [
        ("dog", CustomTag("dog")),
        ("  red\t bicycle \n", CustomTag("red bicycle")),
        ("dog:", CustomTag("dog")),
        ("dog: furry; ;  four   legs;", CustomTag("dog", ("furry", "four legs"))),
        ("dog:a: b", CustomTag("dog", ("a: b",))),
    ],
)
def test_parse_asked(line: str, asked: CustomTag) -> None:
    assert parse_custom_tag(line) == asked


@pytest.mark.parametrize("line", ["", "  ", ":", ";", "?! …", " : furry", "dog\x1b[2J", "dog: \x00"])
def test_parse_asked_refuses(line: str) -> None:
    with pytest.raises(VocabularyError):
        parse_custom_tag(line)


@given(st.text())
@settings(deadline=None)
def test_parse_asked_gives_clean_text_or_an_error(line: str) -> None:
    try:
        asked = parse_custom_tag(line)
    except VocabularyError:
        return
    for text in (asked.name, *asked.descriptions):
        assert text == " ".join(text.split()) != ""
