"""`anytag.data.engine.generate` and `clean`, and the rows' memory of where each tag came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from anytag import Box, Tagger, VocabularyError
from anytag.data.engine.clean import CleanConfig, Region, clean, cluster, outliers, tokens_in
from anytag.data.engine.generate import generate, parse
from anytag.data.labels import Labeler
from anytag.data.rows import STEPS, Origin, Row, Step
from anytag.images import ImageSource
from anytag.tagger import Encoded
from tests.tiny import make_tiny_model

NAMES = st.sampled_from(["dog", "cat", "beach", "red", "sky"])
ORIGINS = st.sampled_from(["label", "text", "model"])
SAID = st.lists(st.tuples(NAMES, ORIGINS), max_size=6, unique_by=lambda pair: pair[0])


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Tagger:
    return Tagger.load(make_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    """Thirty photos of one plain colour or another; their captions name a dog."""
    random = np.random.default_rng(0)
    made = []
    for number in range(30):
        pixels = random.integers(0, 256, (4, 4, 3), np.uint8).repeat(4, 0).repeat(4, 1)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        made.append(Row(f"{number}.png", "made", "train", captions=("a dog runs on a beach",)))
    return made


@settings(max_examples=80, deadline=None)
@given(said=SAID, added=st.lists(NAMES, max_size=4), gone=st.lists(NAMES, max_size=4))
def test_steps_can_be_undone(said: list[tuple[str, Origin]], added: list[str], gone: list[str]) -> None:
    row = Row("a.jpg", "made", "train").with_origins(said)
    more = row.adding(added, "model")
    assert set(more.tags) == {*row.tags, *added}
    assert dict(more.origins_by_tag) == {**dict.fromkeys(added, "model"), **dict(said)}
    cleaned = more.cleaning(gone)
    assert set(cleaned.tags) == set(more.tags) - set(gone)
    assert set(cleaned.without("clean").origins_by_tag) == set(more.origins_by_tag)
    assert cleaned.adding(gone, "model").tags == tuple(
        dict.fromkeys((*cleaned.tags, *(name for name in gone if name not in more.tags)))
    ), "what cleaning took away is not added again"
    without = cleaned.without("generate")
    assert {origin for _, origin in (*without.origins_by_tag, *without.cleaned)} <= {"label", "text"}
    assert cleaned.without("generate").without("clean") == cleaned.without("clean").without("generate")


def test_absent_tags_are_not_added() -> None:
    row = Row("a.jpg", "made", "train", absent=("cat",))
    assert row.adding(["cat", "dog"], "text").origins_by_tag == (("dog", "text"),)


def test_captions_are_parsed_with_what_is_broader(rows: list[Row], tagger: Tagger) -> None:
    row = next(parse(rows, Labeler(tagger.vocabulary)))
    assert set(row.origins_by_tag) == {
        ("dog", "text"),
        ("animal", "text"),
        ("beach", "text"),
        ("running", "text"),
    }


def test_a_model_adds_what_nobody_said(rows: list[Row], tagger: Tagger, tmp_path: Path) -> None:
    rows[1] = replace(rows[1], tags=("dog",), absent=("cat",))
    missing = Row("gone.png", "made", "train", tags=("red",))
    errors: list[str] = []
    given = [*rows[:3], missing, *rows[3:]]
    made = list(generate(given, str(tmp_path), tagger, probability=0.1, on_error=errors.append))
    assert errors == ["gone.png: no such file"]
    assert made[3] == missing
    for before, after in zip(given, made, strict=True):
        if before is not missing:
            names = set(tagger.tag(tmp_path / before.image, threshold=0.1).names) - set(before.absent)
            assert {name for name, origin in after.origins_by_tag if origin == "model"} == names - set(
                before.tags
            )
            assert after.without("generate") == before
    assert any(row.tags for row in made)


def test_trained_queries_give_the_score_of_a_tag(rows: list[Row], tagger: Tagger, tmp_path: Path) -> None:
    encoded = tagger.encode(tmp_path / rows[0].image)
    queries, (slope, bias) = tagger.trained(["dog", "beach"])
    logits = tagger.runtime.score(encoded.tokens[None], encoded.pooled[None], queries[None])[0]
    scores = {tag.name: tag.score for tag in tagger.score(encoded, ["dog", "beach"]).tags}
    np.testing.assert_allclose(
        1 / (1 + np.exp(-(slope * logits + bias))), [scores["dog"], scores["beach"]], rtol=1e-4
    )
    with pytest.raises(VocabularyError):
        tagger.trained(["no such tag"])


def test_tokens_of_a_box() -> None:
    encoded = Encoded(np.zeros((17, 2), np.float32), np.zeros(2, np.float32), None, 80, 40)
    inside = tokens_in(encoded, Box(20, 0, 60, 20))
    assert not inside[0], "the token of the whole photo"
    np.testing.assert_array_equal(
        inside[1:].reshape(4, 4), [[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    )
    assert tokens_in(encoded, Box(1, 1, 2, 2)).nonzero()[0].tolist() == [1], (
        "the nearest, when none is inside"
    )


def test_outliers_are_what_no_cluster_holds() -> None:
    random = np.random.default_rng(0)
    centres = np.eye(3, 8)
    features = centres[random.integers(0, 3, 60)] + random.normal(0, 0.05, (60, 8))
    features[[7, 20, 33]] = np.eye(8)[[5, 6, 7]]
    features = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)
    odd = outliers(features, clusters=3, share=0.05)
    assert odd.nonzero()[0].tolist() == [7, 20, 33]
    same = np.tile(features[:1], (5, 1))
    assert len(cluster(same, 4)) == 1
    assert not outliers(same, clusters=4, share=0.1).any()


def test_cleaning_takes_away_what_the_model_does_not_see(
    rows: list[Row], tagger: Tagger, tmp_path: Path
) -> None:
    parsed = list(parse(rows, Labeler(tagger.vocabulary)))
    parsed[0] = replace(parsed[0], tags=("dog", "moon"), origins=("label", "text"))
    errors: list[str] = []
    given = [*parsed, Row("gone.png", "made", "train").adding(["dog"], "text")]
    config = CleanConfig(seen=0.75, outliers=0)
    cleaned = list(clean(given, str(tmp_path), tagger, config=config, on_error=errors.append))
    assert len(errors) == 1
    assert cleaned[-1] == given[-1]
    assert cleaned[0] == parsed[0], "people's labels, and tags that the vocabulary lacks, are left alone"
    assert any(row.cleaned for row in cleaned)
    assert all("animal" in row.tags for row in cleaned[1:-1] if "dog" in row.tags)
    assert [set(row.without("clean").origins_by_tag) for row in cleaned] == [
        set(row.origins_by_tag) for row in given
    ]
    nothing = list(clean(parsed, str(tmp_path), tagger, config=CleanConfig(seen=0, outliers=0)))
    assert nothing == parsed
    everything = list(clean(parsed, str(tmp_path), tagger, config=CleanConfig(seen=1, outliers=0)))
    assert not any(row.tags for row in everything[1:])


def test_captions_do_not_say_again_what_cleaning_took_away(tagger: Tagger) -> None:
    labeler = Labeler(tagger.vocabulary)
    (row,) = parse([Row("a.jpg", "made", "train", captions=("a dog on a beach",))], labeler)
    beach = labeler.index["beach"]
    assert beach in labeler.present(row)
    assert labeler.present(row) - labeler.present(row.cleaning(["beach"])) == {beach}


def test_cleaning_takes_away_a_share_of_outliers(rows: list[Row], tagger: Tagger, tmp_path: Path) -> None:
    given = [row.adding(["beach"], "text") for row in rows]
    cleaned = list(clean(given, str(tmp_path), tagger, config=CleanConfig(seen=0, outliers=0.1)))
    assert sum(bool(row.cleaned) for row in cleaned) == 3
    few = list(clean(given[:10], str(tmp_path), tagger, config=CleanConfig(seen=0, outliers=0.1)))
    assert few == given[:10]


def test_a_detector_gives_the_regions(rows: list[Row], tagger: Tagger, tmp_path: Path) -> None:
    asked: list[ImageSource] = []

    def detector(photo: ImageSource) -> Sequence[Region]:
        asked.append(photo)
        return [Region("beach", Box(0, 0, 4, 4)), Region("sofa", Box(0, 0, 1, 1))]

    given = [row.adding(["beach", "dog"], "text") for row in rows[:4]]
    config = CleanConfig(seen=0.5, outliers=0)
    list(clean(given, str(tmp_path), tagger, config=config, detector=detector))
    assert sorted(map(str, asked)) == sorted(f"{tmp_path}/{row.image}" for row in given)


@pytest.mark.parametrize("step", STEPS)
def test_undoing_nothing_changes_nothing(step: Step) -> None:
    row = Row("a.jpg", "made", "train", tags=("dog",))
    assert row.without(step) == row
