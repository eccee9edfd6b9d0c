"""`anytag.queries` through `Tagger`: broader tags, and each tag's own line of calibration."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from anytag import AnytagError, CustomTag, ModelError, Tag, Tagger, TagResult, Vocabulary, VocabularyError
from anytag.models.card import Card, Fewest
from anytag.models.folder import write_card
from anytag.queries import build
from tests.tiny import make_tiny_model, with_parents

TAGS = 7
PICTURES = [
    np.random.default_rng(seed).integers(0, 256, (2, 2, 3), np.uint8).repeat(12, 0).repeat(12, 1)
    for seed in range(12)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in which no tag is broader than another."""
    at = tmp_path_factory.mktemp("models")
    return with_parents(make_tiny_model(at / "tiny", tags=TAGS), at / "flat", parents={})


@pytest.fixture(scope="module")
def flat(folder: Path) -> Tagger:
    return Tagger.load(folder)


def scores(result: TagResult) -> dict[str, float]:
    return {tag.id: tag.score for tag in result.tags}


def test_a_broader_tag_scores_no_less_than_what_it_includes(
    flat: Tagger, folder: Path, tmp_path: Path
) -> None:
    parents = {"dog": ("animal",), "cat": ("animal",)}
    tagger, raised = Tagger.load(with_parents(folder, tmp_path / "broader", parents=parents)), 0
    for picture in PICTURES:
        alone = scores(flat.tag(picture, threshold=0))
        highest = max(alone[id] for id in ("animal", "dog", "cat"))
        raised += highest > alone["animal"]
        wanted = {**alone, "animal": highest}
        assert scores(tagger.tag(picture, threshold=0)) == pytest.approx(wanted, abs=1e-5)
        asked = tagger.tag(picture, tags=["animal", "zebra"])  # dog and cat are decoded, but not shown
        assert sorted(asked.names) == ["animal", "zebra"]
        assert scores(asked)["animal"] == pytest.approx(highest, abs=1e-5)
    assert raised


@pytest.mark.parametrize("narrow", [("dog", "animal", "red"), ("red", "animal", "dog")])
def test_the_broadest_tag_scores_no_less_than_the_narrowest(
    flat: Tagger, folder: Path, tmp_path: Path, narrow: tuple[str, str, str]
) -> None:
    """Whether or not a tag names its grandparents, and in whichever order the tags are."""
    low, middle, high = narrow
    parents = {low: (middle,), middle: (high,)}
    chain = Tagger.load(with_parents(folder, tmp_path / "chain", parents=parents))
    for picture in PICTURES:
        alone = scores(flat.tag(picture, threshold=0))
        found = scores(chain.tag(picture, threshold=0))
        assert found[middle] == pytest.approx(max(alone[low], alone[middle]), abs=1e-5)
        assert found[high] == pytest.approx(max(alone[id] for id in narrow), abs=1e-5)
        for id in (middle, high):
            assert scores(chain.tag(picture, tags=[id]))[id] == pytest.approx(found[id], abs=1e-5)


def with_line(copy: Path, line: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Path:
    """The model in `copy` with another line tensor."""
    save_file({**load_file(copy / "queries.safetensors"), "line": line}, copy / "queries.safetensors")
    write_card(copy, Card.read(copy / "card.json"))
    return copy


def log_odds(score: float) -> float:
    return float(np.log(score / (1 - score)))


def test_each_tag_has_a_line_of_its_own(flat: Tagger, folder: Path, tmp_path: Path) -> None:
    line = np.ones((TAGS, 2), np.float32)
    line[:, 0], line[:, 1] = np.linspace(0.5, 1.5, TAGS), np.linspace(-1, 1, TAGS)
    tagger = Tagger.load(with_line(with_parents(folder, tmp_path / "line", parents={}), line))
    before = scores(flat.tag(PICTURES[0], threshold=0))
    after = scores(tagger.tag(PICTURES[0], threshold=0))
    for id, (slope, offset) in zip(tagger.vocabulary.ids, line, strict=True):
        assert log_odds(after[id]) == pytest.approx(slope * log_odds(before[id]) + offset, abs=1e-3)
        assert scores(tagger.tag(PICTURES[0], tags=[id])) == pytest.approx({id: after[id]}, abs=1e-5)
    own = [scores(one.tag(PICTURES[0], tags=["zebra"])) for one in (flat, tagger)]
    assert own[0] == own[1]


def test_a_line_that_does_not_fit_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = with_line(with_parents(folder, tmp_path / "line", parents={}), np.ones((TAGS, 3), np.float32))
    with pytest.raises(ModelError, match=r"expected line 7×2, got .*line float32 \(7, 3\)"):
        Tagger.load(copy).tag(PICTURES[0])


def test_a_described_tag_is_asked_as_described(flat: Tagger) -> None:
    described = {"cat": ["an animal outdoors", "a photo of food"]}
    forms: list[Any] = [
        ["cat: an animal outdoors; a photo of food"],
        [CustomTag("cat", ("an animal outdoors", "a photo of food"))],
        described,
        {"cat": iter(described["cat"])},
    ]
    for form in forms:
        (tag,) = flat.tag(PICTURES[0], tags=form).tags
        assert (tag.id, tag.name, tag.source) == ("custom:cat", "cat", "custom")
        assert tag.score != flat.tag(PICTURES[0], tags=["cat"]).tags[0].score
    single, listed = ({"cat": said} for said in ("an animal", ["an animal"]))
    assert flat.tag(PICTURES[0], tags=single) == flat.tag(PICTURES[0], tags=listed)


def test_a_described_tag_takes_the_place_of_the_vocabularys(flat: Tagger) -> None:
    plain = scores(flat.tag(PICTURES[0], threshold=0))
    found = flat.tag(PICTURES[0], also=["Cat: an animal outdoors"], threshold=0)
    assert sorted(scores(found)) == sorted({*plain, "custom:Cat"} - {"cat"})
    assert {id: plain[id] for id in plain if id != "cat"}.items() <= scores(found).items()
    found = flat.tag(PICTURES[0], also=["house cat: an animal outdoors"], threshold=0)
    assert sorted(scores(found)) == sorted({*plain, "custom:house cat"})


@pytest.mark.parametrize(
    "tags", [["cat", "cat: a pet"], ["cat: a pet", "cat: food"], [Tag("x", "cat", "action"), "cat"]]
)
def test_one_name_for_two_tags_is_refused(flat: Tagger, tags: list[Any]) -> None:
    with pytest.raises(VocabularyError, match=r"(rename one of them|give it once)"):
        flat.tag(PICTURES[0], tags=tags)


def test_tags_of_the_vocabulary_can_be_given(flat: Tagger) -> None:
    plain = scores(flat.tag(PICTURES[0], threshold=0))
    assert scores(flat.tag(PICTURES[0], tags=flat.vocabulary)) == pytest.approx(plain, abs=1e-5)
    (tag,) = flat.tag(PICTURES[0], tags=[Tag("new", "blue house", "object")]).tags
    assert (tag.id, tag.source) == ("new", "custom")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tags": 5}, "tags is 5: expected a list"),
        ({"tags": [("cat", ["a pet"])]}, "a tag cannot be a tuple"),
        ({"tags": {"cat": 5}}, "expected descriptions by name"),
        ({"tags": {5: ["a pet"]}}, "expected descriptions by name"),
        ({"tags": {"cat": [5]}}, "expected a text"),
        ({"also": CustomTag("cat")}, "also is the single tag"),
        ({"tags": ["x" * 50_000 + "\x1b"]}, "xxx\\.\\.\\.xxx"),
        ({"tags": ["\udce9"]}, "expected a text without control characters"),
        ({"tags": ["dog: "]}, None),
        ({"threshold": "0.5"}, "threshold is '0.5'"),
        ({"threshold": True}, "threshold is True"),
        ({"top_k": 2.5}, "top_k is 2.5"),
        ({"top_k": True}, "top_k is True"),
        ({"top_k": np.int64(2), "threshold": np.float32(0.5)}, None),
    ],
)
def test_wrong_requests_are_named(flat: Tagger, options: dict[str, Any], says: str | None) -> None:
    if says is None:
        flat.tag(PICTURES[0], **options)
        return
    with pytest.raises(AnytagError, match=says) as caught:
        flat.tag(PICTURES[0], **options)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "arguments", [("a\x1b[31m",), ("",), (" cat",), ("cat", "a pet"), ("cat", (5,)), (5,)]
)
def test_asked_holds_clean_text(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(VocabularyError):
        CustomTag(*arguments)


# --- a vocabulary at work ---


def test_a_vocabulary_says_which_tags_are_given_their_names_and_thresholds(
    flat: Tagger, folder: Path, tmp_path: Path
) -> None:
    plain = scores(flat.tag(PICTURES[0], threshold=0))
    mine = (
        flat.vocabulary.subset(["beach", "cat", "dog"]).rename({"cat": "Mieze"}).with_thresholds({"dog": 1})
    )
    mine.write(tmp_path / "mine.jsonl")
    for tagger in (
        flat.with_vocabulary(mine),
        flat.with_vocabulary(tmp_path / "mine.jsonl"),
        Tagger.load(folder, vocabulary=str(tmp_path / "mine.jsonl")),
    ):
        assert tagger.vocabulary == mine
        every = tagger.tag(PICTURES[0], threshold=0)
        assert scores(every) == {id: plain[id] for id in ("beach", "cat", "dog")}
        assert {tag.name for tag in every.tags} == {"beach", "Mieze", "dog"}
        given = tagger.tag(PICTURES[0])
        assert scores(given) == {id: plain[id] for id in ("beach", "cat") if plain[id] >= 0.5}
        assert scores(tagger.tag(PICTURES[0], tags=["Mieze", "red"])).keys() == {"cat", "red"}
        assert scores(tagger.tag(PICTURES[0], also=["red"], threshold=0)).keys() == {
            "beach",
            "cat",
            "dog",
            "red",
        }
    assert scores(flat.tag(PICTURES[0], threshold=0)) == plain
    assert flat.with_vocabulary(mine).with_vocabulary(None).vocabulary == flat.vocabulary


@pytest.mark.parametrize("bar", [0.0, 0.05, 0.9])
def test_thresholds_of_a_vocabulary_are_used(flat: Tagger, bar: float) -> None:
    """Lower ones too, which the first pass, made for the model's own, would lose."""
    tagger = flat.with_vocabulary(flat.vocabulary.with_thresholds(bar))
    for picture in PICTURES:
        given, wanted = scores(tagger.tag(picture)), scores(flat.tag(picture, threshold=bar))
        assert given == wanted if bar < 0.5 else given.items() <= wanted.items()


def test_a_photo_gets_the_fewest_tags_by_the_models_own_thresholds(
    flat: Tagger, folder: Path, tmp_path: Path
) -> None:
    """Whatever names they have and however many are left; not by thresholds of the user's."""
    thresholds = flat.vocabulary.with_thresholds(0.99)
    shutil.copytree(folder, tmp_path / "fewest")
    thresholds.write(tmp_path / "fewest" / "vocabulary.jsonl")
    card = Card.read(folder)
    write_card(tmp_path / "fewest", replace(card, shortlist=TAGS, fewest=Fewest(tags=2, share=1e-6)))
    tagger, (first, *_) = Tagger.load(tmp_path / "fewest"), thresholds.ids
    for picture in PICTURES[:3]:
        every = tagger.tag(picture, threshold=0).tags
        least = [tag.id for tag in every if tag.id != first][:2]
        assert [tag.id for tag in tagger.tag(picture).tags] == [tag.id for tag in every[:2]]
        others = tagger.with_vocabulary(tagger.vocabulary.exclude([first]))
        assert [tag.id for tag in others.tag(picture).tags] == least
        strict = tagger.with_vocabulary(tagger.vocabulary.with_thresholds(0.995))
        assert not strict.tag(picture).tags
        assert not tagger.tag(picture, threshold=0.99).tags


def test_what_is_left_out_still_raises_what_is_broader(folder: Path, tmp_path: Path) -> None:
    parents = {"dog": ("animal",), "cat": ("animal",)}
    tagger = Tagger.load(with_parents(folder, tmp_path / "broader", parents=parents))
    mine = tagger.with_vocabulary(tagger.vocabulary.exclude(["dog", "cat"]))
    for picture in PICTURES:
        assert scores(mine.tag(picture)).get("animal") == scores(tagger.tag(picture)).get("animal")


def test_a_tag_that_the_model_did_not_learn_is_asked_by_its_words(flat: Tagger) -> None:
    new = Tag("blue-house", "blue house", "object", threshold=0.01)
    tagger = flat.with_vocabulary(Vocabulary([flat.vocabulary["dog"], new]))
    found = {tag.id: tag for tag in tagger.tag(PICTURES[0], threshold=0).tags}
    assert sorted(found) == ["blue-house", "dog"]
    (own,) = flat.tag(PICTURES[0], tags=["blue house"]).tags
    assert (found["blue-house"].score, found["blue-house"].source) == (own.score, "custom")
    assert "blue-house" in scores(tagger.tag(PICTURES[0])) or own.score < 0.01
    with pytest.raises(VocabularyError, match="the tag 'mao' of the vocabulary is not one of the model's"):
        flat.with_vocabulary(Vocabulary([Tag("mao", "猫咪", "object")])).tag(PICTURES[0])


def test_the_kind_tells_tags_of_one_name_apart(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "m")
    homograph: dict[str, Any] = {"cat": {"name": "dog", "kind": "action"}}
    tags = [replace(tag, **homograph.get(tag.id, {})) for tag in Vocabulary.read(folder / "vocabulary.jsonl")]
    Vocabulary(tags).write(tmp_path / "m" / "vocabulary.jsonl")
    write_card(tmp_path / "m", Card.read(tmp_path / "m" / "card.json"))
    tagger = Tagger.load(tmp_path / "m")
    plain = scores(tagger.tag(PICTURES[0], threshold=0))

    def score(tag: Tag) -> tuple[Any, str]:
        (found,) = tagger.with_vocabulary(Vocabulary([tag])).tag(PICTURES[0], threshold=0).tags
        assert found.id == tag.id
        return found.score, found.source

    assert score(Tag("dog", "dog", "scene")) == (pytest.approx(plain["dog"], abs=1e-5), "vocabulary")
    assert score(Tag("dog", "dog", "action")) == (pytest.approx(plain["cat"], abs=1e-5), "vocabulary")
    assert score(Tag("my-dog", "Dog", "object")) == (pytest.approx(plain["dog"], abs=1e-5), "vocabulary")
    assert score(Tag("dog", "dog", "attribute"))[1] == "custom"
    both = Vocabulary([Tag("dog", "dog", "object"), Tag("hound", "dog", "object", threshold=0)])
    found = scores(tagger.with_vocabulary(both).tag(PICTURES[0], threshold=0))
    assert found == pytest.approx({"dog": plain["dog"], "hound": plain["dog"]}, abs=1e-5)


def test_what_is_no_vocabulary_is_refused(flat: Tagger, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    for wrong in (tmp_path / "none.jsonl", tmp_path / "empty.jsonl", Vocabulary([]), ["dog"], 5):
        with pytest.raises(VocabularyError):
            flat.with_vocabulary(wrong)  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        flat.vocabulary = flat.vocabulary  # type: ignore[misc]


# --- low scores and unknown words ---


def test_low_scores_of_the_users_custom_tags_are_told(flat: Tagger) -> None:
    own, dog = flat.tag(PICTURES[0], tags=["blue house", "dog"]).tags
    assert (own.name, own.score > dog.score) == ("blue house", True)
    for bar in (0.0, dog.score / 2, (own.score + dog.score) / 2, (1 + own.score) / 2):
        for found in (
            flat.tag(PICTURES[0], also=["blue house", "dog"], threshold=bar),
            *flat.tag_many([PICTURES[0]], also=["blue house", "dog"], threshold=bar),
        ):
            assert (own in found.tags, dog in found.tags) == (bar <= own.score, bar <= dog.score)
            assert found.below == tuple(tag for tag in (own, dog) if tag.score < bar)
            assert found.to_dict().get("below", []) == [tag.to_dict() for tag in found.below]
    assert flat.tag(PICTURES[0], tags=["blue house"], threshold=1).below == ()


def test_a_requested_trained_tag_has_the_threshold_of_custom_tags(
    flat: Tagger,
) -> None:
    (dog,) = flat.tag(PICTURES[0], tags=["dog"]).tags
    for own, returned in ((0.99, dog.score >= 0.5), (dog.score / 2, True)):
        tagger = flat.with_vocabulary(flat.vocabulary.with_thresholds({"dog": own}))
        found = tagger.tag(PICTURES[0], also=["dog"])
        assert [tag for tag in found.tags if tag.id == "dog"] == [dog] * returned
        assert found.below == (dog,) * (not returned)


def test_unknown_words(flat: Tagger) -> None:
    asked = ["dog", "Katze", "close view", "Katzenklo: a red box, écharpe!", "猫 view"]
    assert flat.unknown_words(asked) == ("Katzenklo", "box", "écharpe", "猫")
    assert flat.unknown_words(["dog", "ice-cream", "what people call animal"]) == ()


def test_names_in_another_language_are_read(flat: Tagger) -> None:
    encoded = flat.encode(PICTURES[0])
    for text, english in (
        ("rote Katze outdoors", "rote cat outdoors"),
        ("Eis", "ice cream"),
        ("outdoors Hund", "outdoors dog"),
    ):
        assert (flat.queries([text]) == flat.queries([english])).all()
    (found,) = flat.score(encoded, tags=["outdoors: a Katze"]).tags
    (wanted,) = flat.score(encoded, tags=["outdoors: a cat"]).tags
    assert found == wanted
    with pytest.raises(VocabularyError, match="write it in English, or use a name of the vocabulary"):
        flat.queries(["кошка"])
    with pytest.raises(VocabularyError, match="not Unicode"):
        flat.queries(["\udce9"])
    with pytest.raises(VocabularyError, match="expected a text"):
        flat.queries([None])  # type: ignore[list-item]


def test_few_vectors_of_custom_tags_are_remembered_and_scores_stay(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "_CACHE_BYTES", 2000)
    tagger = Tagger.load(folder)
    asked = [CustomTag(f"thing {n}", tuple(f"text {n} {k}" for k in range(n % 4))) for n in range(100)]
    first = [scores(tagger.tag(PICTURES[0], [tag])) for tag in asked]
    remembered = tagger.questions._own
    assert 0 < sum(queries.nbytes for queries in remembered.values()) <= 2000
    assert [scores(tagger.tag(PICTURES[0], [tag])) for tag in asked] == first
    together = {key: value for row in first for key, value in row.items()}
    # the order of sums, and so the last digit, depends on the processor
    assert scores(tagger.tag(PICTURES[0], asked)) == pytest.approx(together, abs=2e-6)
