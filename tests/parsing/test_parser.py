"""Captions -> tags: an example for each rule, and what must hold for any text."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anytag.parsing import Parser, default_lexicon

FREE = Parser()


@dataclass(frozen=True)
class Row:
    name: str
    kind: str = "object"
    synonyms: tuple[str, ...] = ()


def names(caption: str, parser: Parser = FREE) -> list[str]:
    return [tag.name for tag in parser.parse(caption)]


def kinds(caption: str) -> dict[str, str]:
    return {tag.name: tag.kind for tag in FREE.parse(caption)}


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        # inflection
        ("Two dogs and three geese", ["dog", "goose"]),
        ("women, children and people", ["woman", "child", "person"]),
        ("leaves, knives and buses", ["leaf", "knife", "bus"]),
        ("glasses beside a glass", ["glasses", "glass"]),
        ("a man rode; a dog ran; a girl sat", ["man", "ride", "dog", "run", "girl", "sit"]),
        ("firemen and policemen", ["firefighter", "police officer"]),
        # longest name first
        ("a fire truck", ["fire truck"]),
        ("two hot dogs on a plate", ["hot dog", "plate"]),
        ("a T-shirt, a t shirt", ["t-shirt"]),
        ("the double-decker bus", ["double decker bus"]),
        # punctuation parts names
        ("fire, truck", ["fire", "truck"]),
        # synonyms
        ("a bike, a couch and a tv", ["bicycle", "sofa", "television"]),
        ("a boy, a man and a lady", ["boy", "man", "woman"]),
        # stop list
        ("a picture of a group of someone in the background", []),
        ("the front of a lot of things at the same time", []),
        ("one two three", []),
        ("a young man and an old woman", ["man", "elderly person"]),
        # actions of several words keep what they show
        ("a girl is riding a horse", ["girl", "ride a horse", "horse"]),
        ("he talks on his cell phone", ["talk on the phone", "cell phone"]),
        ("doing tricks", ["do a trick"]),
        ("a dog drinks water outside", ["dog", "drink water", "water"]),
        ("a day of water skiing", ["waterskiing"]),
        # absent things
        ("a street with no people", ["street"]),
        ("a man without a hat on a horse", ["man", "horse"]),
        ("a boy without hat or gloves in snow", ["boy", "snow"]),
        ("a man is not wearing a helmet on a street", ["man", "street"]),
        ("a man with no shirt", ["man", "shirtless"]),
    ],
)
def test_names(caption: str, expected: list[str]) -> None:
    assert names(caption) == expected


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        # denied
        ("Nobody is sitting on the bench", ["bench"]),
        ("no one is on the boat", ["boat"]),
        ("There isn't anyone in the room but a chair", ["room", "chair"]),
        ("None of the dogs are wearing collars in the park", ["dog", "park"]),
        ("a beach empty of people", ["beach", "empty"]),
        ("a street free of cars", ["street"]),
        ("a cat instead of a dog on a chair", ["cat", "chair"]),
        ("a kitchen lacking a stove with a sink", ["kitchen", "sink"]),
        ("a street with no cars, trucks or bicycles, a dog", ["street", "dog"]),
        ("a plate with neither fork nor knife beside a cup", ["plate", "cup"]),
        ("no sign of the dog", []),
        ("a dog-free park", ["park"]),
        # not denied
        ("not only a dog but also a cat", ["dog", "cat"]),
        ("without a doubt a dog", ["dog"]),
        ("no doubt a dog", ["dog"]),
        ("nothing but sand", ["sand"]),
        # quoted
        ('a sign says "no dogs" near a road', ["sign", "road"]),
        ("a box labeled “apples” and \u2018pears’", ["box"]),
        ("a t-shirt saying 'I love cats' on a boy's dog", ["t-shirt", "boy", "dog"]),
        ('a " stop " sign', ["sign"]),
        ('"A dog on a beach"', ["dog", "beach"]),
        ('thumbs up" next to his dog."', ["thumbs up", "dog"]),
        ('a 6" pipe and a 3" nail', ["pipe", "nail"]),
        # likened
        ("a duck-shaped boat, an apple-green sofa", ["boat", "green", "sofa"]),
        ("a hat-less man", ["man"]),
        # verbs that are spelled like things
        ("he leaves the house", ["house"]),
        ("brown leaves on the ground", ["brown", "leaf", "ground"]),
        ("a woman lights a candle", ["woman", "candle"]),
        ("two boys face each other", ["boy"]),
        ("a face in the window", ["face", "window"]),
        ("kids building a sand castle", ["child", "sandcastle"]),
        # other languages in Latin letters
        ("Ein Hund läuft über die Wiese", []),
        ("A van passes another van on a road", ["van", "pass", "road"]),
        ("A man and his die van beside a white van", ["man", "die", "van", "white"]),
        ("Un chien qui court sur la plage", []),
        ("El gato duerme en la mesa de la cocina", []),
        ("people at the La Salle train station", ["person", "train station"]),
    ],
)
def test_what_is_there_and_what_is_only_said(caption: str, expected: list[str]) -> None:
    assert names(caption) == expected


def test_a_no_parking_sign_is_there() -> None:
    assert names("a no parking sign")[-1].endswith("sign")


@pytest.mark.parametrize(
    ("caption", "name", "kind"),
    [
        ("a tall building", "building", "object"),
        ("he is painting a wall", "paint", "action"),
        ("a painting on the wall", "painting", "object"),
        ("a woman watches birds", "watch", "action"),
        ("a woman wears a watch", "watch", "object"),
        ("people watch a game", "watch", "action"),
        ("the kids swing", "swing", "action"),
        ("a child on a swing", "swing", "object"),
        ("a big jump", "jump", "action"),
        ("a dog sitting down", "sit", "action"),
        ("an orange on a plate", "orange", "object"),
        ("an orange shirt", "orange", "attribute"),
        ("orange and white buses", "orange", "attribute"),
        ("a glass tower", "glass", "attribute"),
        ("a glass of milk", "glass", "object"),
        ("snow covered hills", "snowy", "attribute"),
        ("hills in the snow", "snow", "scene"),
        ("a busy city street", "city street", "scene"),
    ],
)
def test_context_settles_the_kind(caption: str, name: str, kind: str) -> None:
    assert kinds(caption).get(name) == kind


def test_a_count_is_no_action() -> None:
    assert names("a type of show for the rest of the cut") == []


def test_tags_are_distinct_and_in_order() -> None:
    tags = FREE.parse("A dog chases dogs past a tree and another dog")
    assert [tag.name for tag in tags] == ["dog", "chase", "tree"]


def test_spans_are_the_wording() -> None:
    caption = "Two Fire-Trucks, bikes"
    assert [caption[tag.start : tag.end] for tag in FREE.parse(caption)] == ["Fire-Trucks", "bikes"]


class TestVocabulary:
    def test_only_its_tags_under_its_names(self) -> None:
        parser = Parser(vocabulary=[Row("Bike", synonyms=("velocipede",)), Row("running", "action")])
        assert names("A man runs past velocipedes, bicycles and dogs", parser) == ["running", "Bike"]

    def test_other_things_hide_their_parts(self) -> None:
        parser = Parser(vocabulary=[Row("dog"), Row("truck"), Row("fire")])
        assert names("a hot dog and a fire truck", parser) == ["truck"]
        assert names("a dog by a fire and a truck", parser) == ["dog", "fire", "truck"]

    def test_words_that_the_lexicon_lacks(self) -> None:
        parser = Parser(vocabulary=[Row("quokka"), Row("blorp wug"), Row("凧"), Row("glorped", "attribute")])
        assert names("glorped quokkas and two blorp wugs, 凧", parser) == [
            "glorped",
            "quokka",
            "blorp wug",
            "凧",
        ]

    def test_longest_wins(self) -> None:
        parser = Parser(vocabulary=[Row("tennis"), Row("racket"), Row("tennis racket")])
        assert names("tennis rackets", parser) == ["tennis racket"]

    def test_own_words_in_another_language(self) -> None:
        parser = Parser(vocabulary=[Row("Hund"), Row("Wiese"), Row("die")])
        assert names("Ein Hund läuft über die Wiese", parser) == ["Hund", "Wiese"]

    def test_empty(self) -> None:
        assert names("a dog", Parser(vocabulary=[])) == []


class TestDiscovery:
    def test_unknown_things_by_their_place(self) -> None:
        parser = Parser(discover=True)
        assert names("a boy on a shiny hoverbord near two blorps.", parser) == [
            "boy",
            "shiny",
            "hoverbord",
            "blorp",
        ]

    def test_compounds_beside_their_words(self) -> None:
        assert names("a tiger costume on a bed", Parser(discover=True)) == [
            "tiger costume",
            "tiger",
            "costume",
            "bed",
        ]

    @pytest.mark.parametrize(
        "caption", ["the man zorps a ball", "a dog zorps", "zorply blue", "he is zorping"]
    )
    def test_verbs_and_looks_are_no_things(self, caption: str) -> None:
        assert {*names(caption, Parser(discover=True))} <= {"man", "ball", "dog", "blue"}

    def test_not_asked_not_done(self) -> None:
        assert names("a hoverbord on a bed") == ["bed"]


@pytest.mark.parametrize(
    "caption", ["", " ", "...", "\0", "“quoted” dog's “hat”", "犬が走る", "Собака бежит", "كلب", "🐕 dog"]
)
def test_odd_text(caption: str) -> None:
    assert all(tag.name in ("dog", "hat") for tag in FREE.parse(caption))


def test_long_captions() -> None:
    assert len(FREE.parse("a dog runs without a hat, " * 400)) == 2
    assert FREE.parse("ride " + "a " * 5000 + "horse")
    assert FREE.parse("dog" * 4000) == ()


def calls(caption: str) -> int:
    """Python functions that reading a caption takes."""
    count = 0

    def note(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(note)
    try:
        FREE.parse(caption)
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize(
    "piece",
    [
        "a dog runs without a hat, ",
        "no ",
        "no cats or ",
        "ride a ",
        "'a ",
        '"a dog" ',
        "of free ",
        "der ",
        "a fire ",
    ],
)
def test_time_is_linear(piece: str) -> None:
    FREE.parse(piece)  # words are read once
    short, long = (calls(piece * (letters // len(piece))) for letters in (5_000, 10_000))
    assert long <= 2.2 * short


SOME = (
    "a the no not without none of free empty nobody fire truck dog ride is to orange and or - , . ' \" leaves"
)
WORDS = st.sampled_from(SOME.split())


@settings(deadline=None)
@given(st.one_of(st.text(), st.lists(WORDS).map(" ".join)))
def test_spans_lie_in_the_text_and_tags_are_distinct(caption: str) -> None:
    tags = FREE.parse(caption)
    assert all(0 <= tag.start < tag.end <= len(caption) for tag in tags)
    assert len({(tag.name, tag.kind) for tag in tags}) == len(tags)
    assert FREE.parse(caption) == tags


NAMES = sorted(set().union(*default_lexicon().kinds.values()))


def same(name: str) -> set[str]:
    """The tags that a name may lead to: itself, or what it is another word for."""
    lexicon = default_lexicon()
    return {
        lexicon.display_name(name),
        *(names[name] for names in lexicon.synonyms.values() if name in names),
    }


def finds_itself(name: str) -> bool:
    """Alone, or as what people do where the word alone says nothing ("look"); "cocci", "coccus" are one."""
    singular, actions = default_lexicon().inflection.singular, default_lexicon().kinds["action"]
    found = set(names(name)) or (set(names(f"people {name}")) if name in actions else set())
    return bool(found & same(name)) or singular(name) in {singular(other) for other in found}


def test_every_name_of_the_lexicon_finds_itself() -> None:
    """All of them; "don" is the first word of "don't"."""
    assert [name for name in NAMES if not finds_itself(name)] == ["don"]


@pytest.mark.parametrize(
    "name", ["sports car", "sports jacket", "punching bag", "oil painting", "water skis", "playing card"]
)
def test_a_name_as_it_is_written_goes_before_another_of_its_lemmas(name: str) -> None:
    assert names(name) == [name]


# "don" is read in "don't", "newborn" before a noun only.
READABLE = [name for name in NAMES if name not in ("don", "newborn")]


def said(name: str) -> str:
    """A name as captions have it: "a comb" is a thing, "people comb" is what they do."""
    kind = default_lexicon().kind(name)
    return {"action": f"people {name}", "attribute": name}.get(kind or "", f"a {name}")


@settings(max_examples=15, deadline=None)  # each builds a vocabulary's tables
@given(st.lists(st.sampled_from(READABLE), max_size=8, unique=True))
def test_a_vocabulary_finds_only_itself(chosen: list[str]) -> None:
    lexicon = default_lexicon()
    parser = Parser(vocabulary=[Row(name, lexicon.kind(name) or "object") for name in chosen])
    for name in chosen:
        found = names(said(name), parser)
        assert name in found
        assert set(found) <= set(chosen)
