from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anytag import Tagger
from anytag.data.rows import Row, write_rows
from anytag.errors import AnytagError
from anytag.models.card import Card
from anytag.torch.training.calibrate_model import Answers, fit, identity, measure, recalibrate
from anytag.torch.training.calibration import fit_common_threshold
from anytag.torch.training.thresholds import Goal
from tests.command import run
from tests.tiny import make_tiny_model


def drawn(folder: Path, count: int) -> list[Path]:
    """Plain pictures of random colours."""
    random = np.random.default_rng(0)
    paths = [folder / f"{number}.png" for number in range(count)]
    for path in paths:
        Image.new("RGB", (16, 16), tuple(random.integers(0, 256, 3).tolist())).save(path)
    return paths


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_tiny_model(tmp_path / "tiny")


@pytest.fixture
def data(tmp_path: Path, model: Path) -> Path:
    """Photos whose truth is what the model ranks highest for dog, so that it can be found again."""
    paths = drawn(tmp_path, 40)
    scores = [next(iter(tags.tags)).score for tags in Tagger.load(model).tag_many(paths, ["dog"])]
    middle = float(np.median(scores))
    rows = [
        Row(path.name, "", "", tags=("hound",) if score > middle else ())
        for path, score in zip(paths, scores, strict=True)
    ]
    write_rows(tmp_path / "rows.jsonl", [*rows, Row("missing.png", "", "")])
    return tmp_path / "rows.jsonl"


def test_a_tag_is_given_where_it_is(model: Path, data: Path, tmp_path: Path) -> None:
    figures = recalibrate(model, data, tmp_path / "out", goal=Goal())
    assert figures["tags"] == 2  # dog, and animal, which is broader
    assert figures["photos"] == 40
    assert figures["after, by halves"]["F1"] > 0.85
    assert figures["after, by halves"]["calibration error"] < figures["before"]["calibration error"]
    card = Card.read(tmp_path / "out")
    assert "best F1 on 40 photos of rows.jsonl" in card.thresholds
    assert "Of the others: 0.5 for every tag, by decree" in card.thresholds
    Tagger.load(tmp_path / "out")  # hashes are right


def test_a_wanted_precision(model: Path, data: Path, tmp_path: Path) -> None:
    figures = recalibrate(model, data, tmp_path / "out", goal=Goal(0.9))
    assert figures["after, by halves"]["precision"] > 0.8


def test_rows_that_name_nothing(model: Path, tmp_path: Path) -> None:
    (path,) = drawn(tmp_path, 1)
    write_rows(tmp_path / "rows.jsonl", [Row(path.name, "", "", tags=("spaceship",))])
    with pytest.raises(AnytagError, match="no tag of the model is on 3 photos"):
        recalibrate(model, tmp_path / "rows.jsonl", tmp_path / "out", goal=Goal())
    assert not (tmp_path / "out").exists()


def test_the_command(model: Path, data: Path, tmp_path: Path) -> None:
    done = run("calibrate", model, "--data", data, "--output", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    assert "2 tags fitted on 40 photos for best F1." in done.stdout
    assert "missing.png" in done.stderr
    assert "exists" in run("calibrate", model, "--data", data, "--output", tmp_path / "out").stderr


def test_lines_mend_what_is_miscalibrated() -> None:
    random = np.random.default_rng(0)
    true_odds = random.normal(-1, 2, (500, 2))
    truth = (random.random((500, 2)) < 1 / (1 + np.exp(-true_odds))).astype(float)
    answers = Answers(
        np.arange(2), 3 * true_odds + 1, truth, np.full(2, 0.5), np.zeros((0, 2), dtype=np.int64)
    )
    lines, thresholds = fit(answers, Goal())
    before = measure(answers.scores(identity(answers)), truth, answers.thresholds)
    after = measure(answers.scores(lines), truth, thresholds)
    assert after["calibration error"] < before["calibration error"] / 2
    assert lines[:, 0] == pytest.approx(1 / 3, rel=0.25)


def simulated(seed: int, *, photos: int = 600, tags: int = 60) -> Answers:
    """Tags of which most are rare, some well told and some badly, and log-odds that promise too much."""
    random = np.random.default_rng(seed)
    rate, skill = random.uniform(0.005, 0.2, tags), random.uniform(0.5, 4, tags)
    truth = (random.random((photos, tags)) < rate).astype(float)
    log_odds = 2.0 * (skill * (truth - 0.5) + random.normal(size=truth.shape)) + random.normal(size=tags)
    often = np.flatnonzero(truth.sum(0) >= 3)
    below = np.zeros((0, 2), dtype=np.int64)
    return Answers(often, log_odds[:, often], truth[:, often], np.full(len(often), 0.5), below)


@pytest.mark.parametrize("precision", [0.6, 0.8, 0.9])
def test_a_precision_is_reached_on_other_photos_and_not_much_more(precision: float) -> None:
    figures = []
    for seed in range(6):
        answers = simulated(seed)
        half = np.arange(len(answers.truth)) % 2 == 0
        lines, thresholds = fit(answers.take(np.flatnonzero(half)), Goal(precision))
        others = answers.take(np.flatnonzero(~half))
        figures.append(measure(others.scores(lines), others.truth, thresholds))
    reached = float(np.mean([one["precision"] for one in figures]))
    assert precision - 0.04 < reached < precision + 0.06


@pytest.mark.parametrize("precision", [0.3, 0.5, 0.8, 1.0])
def test_the_common_threshold_is_the_lowest_that_is_precise_enough(precision: float) -> None:
    random = np.random.default_rng(5)
    scores = random.random((60, 4)) ** 2
    truth = (random.random(scores.shape) < scores).astype(float)
    right = [
        threshold
        for threshold in np.round(np.arange(0.01, 0.995, 0.01), 2).tolist()
        if (given := scores >= threshold).any() and truth[given].mean() >= precision
    ]
    assert fit_common_threshold(scores, truth, precision=precision) == pytest.approx(right[0])


def test_a_precision_that_no_threshold_has() -> None:
    assert fit_common_threshold(np.full((4, 2), 0.3), np.zeros((4, 2)), precision=0.5) == 0.01
    assert fit_common_threshold(np.zeros((3, 1)), np.zeros((3, 1)), precision=0.5) == 0.5
