from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import load_file

from anytag import (
    AnytagError,
    CustomTag,
    DeviceError,
    ImageError,
    Tagger,
    TagResult,
    UnknownModelError,
    VocabularyError,
)
from anytag.images import load, prepare
from anytag.models.folder import write_card
from anytag.queries.bank import Bank
from anytag.text_encoders import StaticTextEncoder
from tests.tiny import make_tiny_model, with_parents

TAGS = 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny", tags=TAGS)


@pytest.fixture(scope="module")
def tagger(folder: Path) -> Tagger:
    return Tagger.load(folder)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Twelve different pictures, PNG because it keeps every pixel."""
    at = tmp_path_factory.mktemp("photos")
    paths = [at / f"{i:02}.png" for i in range(12)]
    for i, path in enumerate(paths):
        Image.fromarray(pixels(i)).save(path)
    return paths


def pixels(seed: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (3, 4, 3), np.uint8))
    return np.asarray(coarse.resize((40, 30), Image.Resampling.NEAREST))


@pytest.fixture(scope="module")
def flat(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Tagger:
    """The same model, but no tag is broader than another."""
    return Tagger.load(with_parents(folder, tmp_path_factory.mktemp("models") / "flat", parents={}))


def scores(result: TagResult) -> dict[str, float]:
    return {tag.id: tag.score for tag in result.tags}


def expected(tagger: Tagger, queries: Any, image: Any, *, own: bool) -> Any:
    """Probabilities by the contract: encode, score, the card's calibration."""
    photo = prepare(load(image), size=tagger.card.image.size)
    logits = tagger.runtime.score(*tagger.runtime.encode(photo[None]), queries[None])[0]
    line = tagger.card.calibration.own if own else tagger.card.calibration.vocabulary
    return 1 / (1 + np.exp(-(line.scale * logits + line.bias)))


def test_every_tag_has_the_calibrated_score_of_its_trained_query(
    flat: Tagger, folder: Path, photos: list[Path]
) -> None:
    tagger = flat
    found = load_file(folder / "queries.safetensors")
    queries = found["rows"].astype(np.float32) * found["scale"].astype(np.float32)[..., None]
    result = tagger.tag(photos[0], threshold=0)
    wanted = dict(zip(tagger.vocabulary.ids, expected(tagger, queries, photos[0], own=False), strict=True))
    assert scores(result) == pytest.approx(wanted, abs=1e-5)
    assert [tag.score for tag in result.tags] == sorted(scores(result).values(), reverse=True)
    assert {tag.source for tag in result.tags} == {"vocabulary"}
    assert (result.path, result.width, result.height, result.model) == (str(photos[0]), 40, 30, "tiny")


def test_custom_tags_are_made_from_their_words(tagger: Tagger, folder: Path, photos: list[Path]) -> None:
    encoder = StaticTextEncoder.from_folder(folder / "text")
    queries = encoder.project(encoder.encode(["blue house", "walls painted blue", "a house by the sea"]))
    result = tagger.tag(photos[1], tags=["blue house: walls painted blue; a house by the sea"])
    (tag,) = result.tags
    assert (tag.id, tag.name, tag.source) == ("custom:blue house", "blue house", "custom")
    assert tag.score == pytest.approx(
        float(expected(tagger, queries[None], photos[1], own=True)[0]), abs=1e-5
    )


def test_a_tag_alone_scores_as_among_others(tagger: Tagger, photos: list[Path]) -> None:
    """Padding of descriptions and the company of other tags change nothing."""
    many = ["blue house: walls painted blue; a house", "dog", "cat", *(f"house {i}" for i in range(600))]
    together = scores(tagger.tag(photos[2], tags=many))
    assert len(together) == len(many)
    for one in (many[0], "dog", "house 5", "house 599"):
        alone = scores(tagger.tag(photos[2], tags=[one]))
        assert {id: together[id] for id in alone} == pytest.approx(alone, abs=1e-5)


def test_known_names_and_synonyms_are_asked_with_trained_queries(tagger: Tagger, photos: list[Path]) -> None:
    everything = scores(tagger.tag(photos[0], threshold=0))
    result = tagger.tag(photos[0], tags=["Puppy", "ice-cream", "Katze", "zebra"])
    by_name = {tag.name: tag for tag in result.tags}
    assert (by_name["Puppy"].id, by_name["Puppy"].source) == ("dog", "vocabulary")
    assert by_name["Puppy"].score == everything["dog"]
    assert (by_name["ice-cream"].id, by_name["ice-cream"].source) == ("ice cream", "vocabulary")
    assert (by_name["Katze"].id, by_name["Katze"].source) == ("cat", "vocabulary")
    assert by_name["zebra"].source == "custom"


def test_asked_tags_are_answered_each_once(tagger: Tagger, photos: list[Path]) -> None:
    result = tagger.tag(photos[0], tags=["dog", "zebra", "puppy", "dog", CustomTag("zebra")])
    assert sorted(result.names) == ["dog", "puppy", "zebra"]


def test_also_asks_the_vocabulary_and_custom_tags(tagger: Tagger, photos: list[Path]) -> None:
    every = tagger.tag(photos[0], also=["zebra", "dog"], threshold=0)
    assert len(every.tags) == TAGS + 1
    alone = tagger.tag(photos[0], tags=["zebra"]).tags
    assert [tag for tag in every.tags if tag.source == "custom"] == list(alone)
    default = tagger.tag(photos[0], also=["zebra"])
    assert ("custom:zebra" in scores(default)) == (alone[0].score >= 0.5)


def test_first_pass_shortens_the_list_and_changes_no_score(flat: Tagger, photos: list[Path]) -> None:
    tagger = flat
    for photo in photos:
        everything, default = scores(tagger.tag(photo, threshold=0)), scores(tagger.tag(photo))
        assert len(default) <= tagger.card.shortlist
        assert default == pytest.approx({id: everything[id] for id in default}, abs=1e-5)
        assert all(score >= tagger.vocabulary[id].threshold for id, score in default.items())


def test_first_pass_looks_at_the_tags_with_the_best_coarse_logits(
    tagger: Tagger, flat: Tagger, folder: Path, photos: list[Path]
) -> None:
    bank = Bank.read(folder / "queries.safetensors", tags=len(tagger.vocabulary), width=tagger.card.width)
    assert bank.coarse is not None
    coarse = bank.coarse.linear()
    for photo in photos:
        logits = coarse[:, :-1] @ tagger.encode(photo).pooled + coarse[:, -1]
        near = {tagger.vocabulary.ids[i] for i in np.argsort(-logits)[: tagger.card.shortlist]}
        everything = flat.tag(photo, threshold=0)
        wanted = {tag.id: tag.score for tag in everything.tags if tag.id in near and tag.score >= 0.5}
        assert list(scores(flat.tag(photo))) == list(wanted)
        below = max(wanted.get("dog", 0), wanted.get("cat", 0))
        if below > wanted.get("animal", 0):
            wanted["animal"] = below
        assert scores(tagger.tag(photo)) == pytest.approx(wanted, abs=1e-5)


def test_thresholds_alone_decide_where_the_shortlist_is_long(
    folder: Path, photos: list[Path], tmp_path: Path
) -> None:
    copy = make_tiny_model(tmp_path / "long", tags=TAGS)
    tagger = Tagger.load(copy)
    tagger.vocabulary.with_thresholds({"dog": 0.0, "cat": 1.0}).write(copy / "vocabulary.jsonl")
    write_card(copy, replace(tagger.card, shortlist=TAGS))
    tagger = Tagger.load(copy)
    for photo in photos:
        everything = tagger.tag(photo, threshold=0)
        wanted = [tag for tag in everything.tags if tag.score >= tagger.vocabulary[tag.id].threshold]
        assert list(tagger.tag(photo).tags) == wanted
        assert "dog" in scores(tagger.tag(photo))
        assert "cat" not in scores(tagger.tag(photo))


@given(top_k=st.integers(1, TAGS + 3), threshold=st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_top_k_and_threshold_cut_the_full_list(tagger: Tagger, top_k: int, threshold: float) -> None:
    encoded = tagger.encode(pixels(3))
    everything = tagger.score(encoded, threshold=0)
    cut = tagger.score(encoded, top_k=top_k, threshold=threshold)
    # scores are rounded for output after the threshold was applied
    assert cut.tags == everything.tags[: len(cut.tags)]
    assert len(cut.tags) <= top_k
    assert all(tag.score >= threshold - 1e-6 for tag in cut.tags)
    assert len(cut.tags) == top_k or all(
        tag.score <= threshold + 1e-6 for tag in everything.tags[len(cut.tags) :]
    )


def test_explicit_tags_all_come_back_unless_a_threshold_is_given(tagger: Tagger, photos: list[Path]) -> None:
    asked = ["dog", "cat", "zebra", "plum"]
    every = tagger.tag(photos[0], tags=asked)
    assert sorted(every.names) == sorted(asked)
    bar = every.tags[1].score - 1e-6
    assert tagger.tag(photos[0], tags=asked, threshold=bar).tags == every.tags[:2]
    assert tagger.tag(photos[0], tags=asked, top_k=3).tags == every.tags[:3]


def test_every_kind_of_image_gets_the_same_tags(tagger: Tagger, photos: list[Path]) -> None:
    file = io.BytesIO()
    Image.fromarray(pixels(0)).save(file, "PNG")
    wanted = tagger.tag(photos[0], threshold=0)
    assert tagger.tag(str(photos[0]), threshold=0) == wanted
    file.seek(0)
    for image in (file.getvalue(), file, Image.fromarray(pixels(0)), pixels(0)):
        result = tagger.tag(image, threshold=0)
        assert result.path is None
        assert replace(result, path=wanted.path) == wanted


def test_encode_once_ask_often(tagger: Tagger, photos: list[Path]) -> None:
    encoded = tagger.encode(photos[4])
    assert encoded.tokens.shape[1:] == encoded.pooled.shape == (tagger.card.width,)
    for ask in ({}, {"tags": ["dog", "zebra"]}, {"also": ["zebra"]}, {"top_k": 2, "threshold": 0}):
        assert tagger.score(encoded, **ask) == tagger.tag(photos[4], **ask)


@given(count=st.integers(0, 12), batch_size=st.integers(1, 14), workers=st.integers(1, 4), lazy=st.booleans())
@settings(max_examples=25, deadline=None)
def test_many_are_tagged_as_one_is_in_order(
    tagger: Tagger, photos: list[Path], count: int, batch_size: int, workers: int, lazy: bool
) -> None:
    images = photos[:count]
    results = list(
        tagger.tag_many(iter(images) if lazy else images, threshold=0, batch_size=batch_size, workers=workers)
    )
    assert [result.path for result in results] == [str(path) for path in images]
    for path, result in zip(images, results, strict=True):
        assert scores(result) == pytest.approx(scores(tagger.tag(path, threshold=0)), abs=1e-5)


def test_a_photo_that_fails_is_recorded_and_the_rest_is_done(
    tagger: Tagger, photos: list[Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(photos[0].read_bytes()[:60])
    images: list[Any] = [tmp_path / "missing.jpg", photos[0], broken, photos[1], np.zeros((2, 2), np.uint8)]
    results = list(tagger.tag_many(images, batch_size=2, workers=2))
    assert [result.error.type if result.error else None for result in results] == [
        "ImageError", None, "ImageError", None, "ImageError",
    ]  # fmt: skip
    assert results[1] == tagger.tag(photos[0])
    failed = results[0]
    assert failed.error is not None
    assert str(images[0]) in failed.error.message
    assert (failed.path, failed.width, failed.height, failed.tags) == (str(images[0]), 0, 0, ())


def test_on_error_raise_gives_what_came_before(tagger: Tagger, photos: list[Path]) -> None:
    results = tagger.tag_many(
        [*photos[:3], "missing.jpg", photos[3]], on_error="raise", workers=2, batch_size=5
    )
    assert [next(results).path for _ in range(3)] == [str(path) for path in photos[:3]]
    with pytest.raises(ImageError, match=r"missing\.jpg"):
        next(results)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_little_is_read_ahead_and_closing_stops(tagger: Tagger, workers: int) -> None:
    pulled = 0

    def endless() -> Iterator[Any]:
        nonlocal pulled
        while True:
            pulled += 1
            yield pixels(pulled % 5)

    results = tagger.tag_many(endless(), batch_size=2, workers=workers)
    for done in range(1, 40):
        next(results)
        assert pulled - done <= 2 * (2 * workers + 2)
    results.close()
    before = pulled
    assert list(results) == []
    assert pulled == before


def test_what_the_input_raises_reaches_the_caller(tagger: Tagger) -> None:
    def images() -> Iterator[Any]:
        yield pixels(0)
        raise RuntimeError("the camera is gone")

    with pytest.raises(RuntimeError, match="camera"):
        list(tagger.tag_many(images(), workers=2))


def test_one_tagger_serves_several_threads(folder: Path, photos: list[Path]) -> None:
    tagger = Tagger.load(folder)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda path: tagger.tag(path, also=["zebra"]), photos * 3))
    assert together == [tagger.tag(path, also=["zebra"]) for path in photos] * 3


@pytest.mark.parametrize(
    ("ask", "error", "says"),
    [
        ({"tags": "dog"}, VocabularyError, r"tags=\['dog'\]"),
        ({"tags": []}, VocabularyError, "tags is empty"),
        ({"also": []}, VocabularyError, "also is empty"),
        ({"tags": [3]}, VocabularyError, "a tag cannot be a int"),
        ({"tags": ["dog", " "]}, VocabularyError, "is not a tag"),
        ({"tags": ["dog"], "also": ["cat"]}, VocabularyError, "both tags and also"),
        ({"tags": ["zebra: striped", "zebra: a horse"]}, VocabularyError, "'zebra: striped; a horse'"),
        ({"top_k": 0}, AnytagError, "top_k is 0"),
        ({"threshold": 1.5}, AnytagError, "threshold is 1.5"),
        ({"threshold": float("nan")}, AnytagError, "threshold is nan"),
    ],
)
def test_wrong_asks_are_refused_at_once(
    tagger: Tagger, ask: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        tagger.tag(pixels(0), **ask)
    with pytest.raises(error, match=says):
        tagger.tag_many([pixels(0)], **ask)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"images": "photo.jpg"}, "got one image, 'photo.jpg'"),
        ({"images": Path("photo.jpg")}, "use tag"),
        ({"images": io.BytesIO(b"photo")}, "got one image"),
        ({"images": Image.new("RGB", (4, 4))}, "got one image"),
        ({"images": np.zeros((4, 4, 3), np.uint8)}, "got one image"),
        ({"images": 5}, "images is a int: give a list"),
        ({"images": [], "batch_size": 0}, "batch_size is 0"),
        ({"images": [], "workers": 0}, "workers is 0"),
        ({"images": [], "on_error": "ignore"}, "'record' or 'raise'"),
    ],
)
def test_wrong_use_of_tag_many_is_refused_at_once(
    tagger: Tagger, arguments: dict[str, Any], says: str
) -> None:
    with pytest.raises(AnytagError, match=says):
        tagger.tag_many(**arguments)


def test_a_photo_that_cannot_be_read_raises(tagger: Tagger) -> None:
    for ask in (tagger.tag, tagger.encode):
        with pytest.raises(ImageError, match="missing"):
            ask("missing.jpg")


def test_the_limit_of_pixels_is_the_taggers(folder: Path) -> None:
    strict = Tagger.load(folder, max_pixels=30 * 20)
    assert strict.tag(np.zeros((20, 30, 3), np.uint8)).error is None
    large = np.zeros((20, 31, 3), np.uint8)
    with pytest.raises(
        ImageError, match=r"620 pixels, more than the limit of 600.*max_pixels=620 to Tagger\.load"
    ):
        strict.tag(large)
    (result,) = strict.tag_many([large])
    assert result.error is not None
    (encoded,) = strict.encode_many([large])
    assert encoded.error is not None


def test_loading_says_what_is_wrong(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError, match="no-such-model"):
        Tagger.load("no-such-model")
    with pytest.raises(DeviceError, match="'abacus'"):
        Tagger.load(folder, device="abacus")  # type: ignore[arg-type]


def test_queries_that_do_not_fit_the_vocabulary_are_refused(tmp_path: Path) -> None:
    copy = make_tiny_model(tmp_path / "copy", tags=TAGS)
    tagger = Tagger.load(copy)
    tagger.vocabulary.exclude(["dog"]).write(copy / "vocabulary.jsonl")
    write_card(copy, tagger.card)
    with pytest.raises(AnytagError, match=r"queries\.safetensors: expected rows 6×P×R, int8 or float, got"):
        Tagger.load(copy)
    (copy / "queries.safetensors").write_bytes(b"not tensors")
    write_card(copy, tagger.card)
    with pytest.raises(AnytagError, match=r"queries\.safetensors: cannot be read as safetensors"):
        Tagger.load(copy)


def test_results_are_frozen_and_become_dictionaries(tagger: Tagger, photos: list[Path]) -> None:
    result = tagger.tag(photos[0], tags=["dog"])
    with pytest.raises(FrozenInstanceError):
        result.path = "other"  # type: ignore[misc]
    (tag,) = result.tags
    assert result.to_dict() == {
        "path": str(photos[0]),
        "width": 40,
        "height": 30,
        "model": "tiny",
        "tags": [{"id": "dog", "name": "dog", "score": tag.score, "source": "vocabulary"}],
        "error": None,
    }


@pytest.mark.parametrize("tags", [None, ["red saucer: a small round plate in red", "dog"]])
def test_the_embedded_model_gives_a_photo_the_same_scores_alone_and_in_any_batch(
    tags: list[str] | None,
) -> None:
    tagger = Tagger.load()
    paths = sorted((Path(__file__).parents[1] / "examples" / "photos").glob("*.jpg"))
    alone = [tagger.tag(path, tags, threshold=0).to_dict() for path in paths]
    for size in (2, 3, 8):
        together = tagger.tag_many(paths, tags, threshold=0, batch_size=size)
        assert [photo.to_dict() for photo in together] == alone, size


def test_encoded_photos_may_come_one_by_one_and_broken_ones_have_their_error(
    tagger: Tagger, photos: list[Path]
) -> None:
    paths = [photos[0], photos[0].with_name("gone.jpg"), photos[1]]
    expected = list(tagger.tag_many(paths))
    assert tagger.score_many(tagger.encode_many(paths)) == expected
    assert [tagger.score(one) for one in tagger.encode_many(paths)] == expected
    assert tagger.log_odds(tagger.encode_many(photos[:2])).shape == (2, len(tagger.vocabulary))
