"""`anytag.asked` through `Tagger`: broader tags, and each tag's own line of calibration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from anytag import ModelError, Tagger, Tags
from anytag.models.card import Card
from anytag.models.folder import write_card
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


def scores(result: Tags) -> dict[str, float]:
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
