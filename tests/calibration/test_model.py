"""`anytag.calibration.model`: what `anytag calibrate` does with a folder of any family."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from anytag import Tagger, TagResult
from anytag.calibration.fit import NO_PAIRS, Goal, fit_lines, fit_tags
from anytag.calibration.model import CalibrationData, calibrate, measure, score_photos
from anytag.data.rows import Row, write_rows
from anytag.errors import AnytagError
from anytag.models.card import Card, Fewest
from anytag.models.folder import ModelFolder, edited_copy, write_card
from anytag.progress import Reporter
from anytag.queries.bank import Bank, identity_lines
from anytag.torch.checkpoints.convert import Options, convert
from anytag.torch.export.export_folder import export_folder
from tests.command import run
from tests.released import make_tensors, write_checkpoint, write_lists
from tests.tiny import make_tiny_model


class Heard(Reporter):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


def drawn(folder: Path, count: int) -> list[Path]:
    """Plain pictures of random colours."""
    random = np.random.default_rng(0)
    paths = [folder / f"{number}.png" for number in range(count)]
    for path in paths:
        Image.new("RGB", (16, 16), tuple(random.integers(0, 256, 3).tolist())).save(path)
    return paths


def rows_of(model: Path, folder: Path, tag: int, *, called: str, count: int = 40) -> Path:
    """Photos whose truth is what the model ranks highest for a tag, so that it can be found again."""
    paths = drawn(folder, count)
    odds = [odds[tag] for _, odds in Tagger.load(model, device="cpu").log_odds_many(paths)]
    rows = [
        Row(path.name, "", "", tags=(called,) if one > np.median(odds) else ())
        for path, one in zip(paths, odds, strict=True)
    ]
    write_rows(folder / "rows.jsonl", [*rows, Row("missing.png", "", "")])
    return folder / "rows.jsonl"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_tiny_model(tmp_path / "tiny")


@pytest.fixture
def data(tmp_path: Path, model: Path) -> Path:
    return rows_of(model, tmp_path, 0, called="hound")


def test_a_tag_is_given_where_it_is(model: Path, data: Path, tmp_path: Path) -> None:
    write_card(model, replace(Card.read(model), fewest=Fewest(tags=3, share=0.75)))
    figures = calibrate(model, data, tmp_path / "out", goal=Goal())
    assert figures["tags"] == 2  # dog, and animal, which is broader
    assert figures["photos"] == 40
    assert figures["after, by halves"]["F1"] > 0.85
    assert figures["after, by halves"]["calibration error"] < figures["before"]["calibration error"]
    card = Card.read(tmp_path / "out")
    assert "best F1 on 40 photos of rows.jsonl" in card.thresholds
    assert "Of the others: 0.5 for every tag, by decree" in card.thresholds
    assert card.fewest is None  # the goal is one of the thresholds alone
    Tagger.load(tmp_path / "out")  # hashes are right


def lively(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Matrices so large that a photo makes a difference to every tag."""
    for name, tensor in tensors.items():
        if name.endswith("weight") and tensor.ndim > 1 and not name.startswith("label_embed"):
            tensor.mul_(30 / tensor[0].numel() ** 0.5)  # of a spread of 0.05
    return tensors


def published(family: str, folder: Path, *, graphs: bool = False) -> Path:
    lists = write_lists(folder / "lists")
    checkpoint = write_checkpoint(folder / f"{family}.pth", lively(make_tensors(family)))
    convert(checkpoint, folder / family, Options(lists=lists, image_size=64, captions=False))
    if graphs:
        export_folder(folder / family, precision="int8")
    return folder / family


FAMILIES: dict[str, Callable[[Path], Path]] = {
    "tag2text": lambda folder: published("tag2text", folder),
    "ram": lambda folder: published("ram", folder),
    "ram-plus": lambda folder: published("ram-plus", folder),
    "ram-plus in int8": lambda folder: published("ram-plus", folder, graphs=True),
    "small": lambda folder: make_tiny_model(folder / "small", tags=12),
}
SLOW = {"ram-plus in int8": [pytest.mark.slow]}


@pytest.mark.parametrize("family", [pytest.param(name, marks=SLOW.get(name, ())) for name in FAMILIES])
def test_every_family_is_fitted(family: str, tmp_path: Path) -> None:
    """What the written folder gives is what was fitted, photo by photo; what was not fitted stays."""
    base = FAMILIES[family](tmp_path)
    before = Tagger.load(base, device="cpu")
    odds = np.stack([odds for _, odds in before.log_odds_many(drawn(tmp_path, 8))])
    number = int(odds.std(0).argmax())
    tag = before.vocabulary[number]
    data = rows_of(base, tmp_path, number, called=tag.name)
    figures = calibrate(base, data, tmp_path / "out", goal=Goal())
    assert figures["after, by halves"]["F1"] > 0.8
    after = Tagger.load(tmp_path / "out", device="cpu")
    assert "anytag calibrate" in after.card.thresholds and "rows.jsonl" in after.card.thresholds
    photos = sorted(tmp_path.glob("*.png"))
    one, two = (list(tagger.tag_many(photos, threshold=0)) for tagger in (before, after))
    changed = {tag.id, *(before.vocabulary[k].id for k in before.vocabulary.broader[number])}
    for id in before.vocabulary.ids:
        same = [score_of(tags, id) for tags in one] == [score_of(tags, id) for tags in two]
        assert same == (id not in changed), id
    given = [tag.id in {found.id for found in tags.tags} for tags in after.tag_many(photos)]
    assert 10 <= sum(given) <= 30  # half of them are right


def score_of(tags: TagResult, id: str) -> float:
    return {tag.id: tag.score for tag in tags.tags}[id]


def test_a_shortlist_follows_the_lines(tmp_path: Path) -> None:
    """The first pass's logits change by what the log-odds change by."""
    base = make_tiny_model(tmp_path / "tiny", tags=12)
    tagger, photos = Tagger.load(base), drawn(tmp_path, 12)
    lines = np.array([[0.5, 9.0]])
    folder = ModelFolder.open(base)
    bank = Bank.read(folder.file("queries.safetensors"), tags=12, width=folder.card.width)
    known = folder.card.calibration.vocabulary
    changed = bank.with_lines(np.array([11]), lines, known=known, thresholds=np.array([0.5]))
    with edited_copy(folder, tmp_path / "out", without=("queries.safetensors",)) as draft:
        changed.write(draft / "queries.safetensors")
        write_card(draft, folder.card)
    pooled = np.stack([tagger.encode(photo).pooled for photo in photos])
    assert bank.coarse is not None and changed.coarse is not None
    old, new = (coarse.logits(pooled)[:, 11] for coarse in (bank.coarse, changed.coarse))
    known, (slope, offset) = folder.card.calibration.vocabulary, bank.line[11].tolist()
    odds = slope * (known.scale * old + known.bias) + offset
    assert new == pytest.approx(old + (0.5 * odds + 9 - odds) / known.scale, abs=1e-3)
    Tagger.load(tmp_path / "out")


def test_a_wanted_precision(model: Path, data: Path, tmp_path: Path) -> None:
    figures = calibrate(model, data, tmp_path / "out", goal=Goal(0.9))
    assert figures["after, by halves"]["precision"] > 0.8


def test_rows_that_name_nothing(model: Path, tmp_path: Path) -> None:
    (path,) = drawn(tmp_path, 1)
    write_rows(tmp_path / "rows.jsonl", [Row(path.name, "", "", tags=("spaceship",))])
    heard = Heard()
    with pytest.raises(AnytagError, match="no tag of the model is on 3 photos"):
        calibrate(model, tmp_path / "rows.jsonl", tmp_path / "out", goal=Goal(), report=heard)
    assert any("spaceship" in line for line in heard.said)
    assert not (tmp_path / "out").exists()


def test_lines_of_one_photo_are_one_row(model: Path, data: Path) -> None:
    """What one of them names is not absent because another does not name it."""
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    more = [{**row, "tags": [], "captions": ["Nothing of the kind."]} for row in rows]
    lines = data.with_name("lines.jsonl")
    lines.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *more]))
    expected, found = (score_photos(Tagger.load(model), file, report=Reporter()) for file in (data, lines))
    np.testing.assert_array_equal(found.truth, expected.truth)


def test_what_a_library_does_not_name_is_unknown(model: Path, data: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    complete = [
        {**row, "source": "library", "absent": [] if row["tags"] else ["animal"]}  # and so no dog
        for row in rows
    ]
    unsaid = [{**row, "source": "library", "absent": []} for row in rows]
    for number, some in enumerate((complete, unsaid)):
        (data.parent / f"{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    same = calibrate(model, data.parent / "0.jsonl", tmp_path / "same", goal=Goal())
    assert same == calibrate(model, data, tmp_path / "plain", goal=Goal())
    with pytest.raises(AnytagError, match="absent from 3 others"):
        calibrate(model, data.parent / "1.jsonl", tmp_path / "none", goal=Goal())


@pytest.mark.parametrize("goal", [Goal(), Goal(0.7)])
def test_pairs_that_are_unknown_count_for_nothing(goal: Goal) -> None:
    random = np.random.default_rng(3)
    logits = random.normal(0, 3, (400, 1))
    truth = (random.random((400, 1)) < 1 / (1 + np.exp(1 - logits))).astype(np.float64)
    known = random.random((400, 1)) < 0.6
    lines, _ = fit_tags(logits, truth, goal, weight=known)
    np.testing.assert_allclose(lines, fit_lines(logits[known[:, 0]], truth[known[:, 0]]), rtol=1e-6)
    other = np.where(known, truth, 1 - truth)  # whatever the unknown ones are
    for one, same in zip(
        fit_tags(logits, truth, goal, weight=known), fit_tags(logits, other, goal, weight=known), strict=True
    ):
        np.testing.assert_array_equal(one, same)


def test_the_command(model: Path, data: Path, tmp_path: Path) -> None:
    done = run("calibrate", model, "--data", data, "--output", tmp_path / "out")
    assert done.exit_code == 1, "missing.png is left out"
    assert "2 tags fitted on 40 photos for best F1." in done.stdout
    assert "missing.png" in done.stderr
    assert "exists" in run("calibrate", model, "--data", data, "--output", tmp_path / "out").stderr
    inside = run("calibrate", model, "--data", data, "--output", model)
    assert (inside.exit_code == 2 and "contains the input" in inside.stderr) or "is an input" in inside.stderr


def test_the_command_needs_no_torch(model: Path, data: Path, tmp_path: Path) -> None:
    script = (
        "import sys\nfor name in ('torch', 'onnx', 'timm', 'scipy', 'fsspec'): sys.modules[name] = None\n"
        "from anytag.cli import main\nmain(sys.argv[1:])"
    )
    arguments = ["calibrate", str(model), "--data", str(data), "--output", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
    assert done.returncode == 1 and "2 tags fitted" in done.stdout, done.stderr


def test_lines_mend_what_is_miscalibrated() -> None:
    random = np.random.default_rng(0)
    true_odds = random.normal(-1, 2, (500, 2))
    truth = (random.random((500, 2)) < 1 / (1 + np.exp(-true_odds))).astype(float)
    answers = made(3 * true_odds + 1, truth)
    lines, thresholds = answers.fit(Goal())
    before = measure(answers, *answers.predict(identity_lines(2).astype(np.float64), answers.thresholds))
    after = measure(answers, *answers.predict(lines, thresholds))
    assert after["calibration error"] < before["calibration error"] / 2
    assert lines[:, 0] == pytest.approx(1 / 3, rel=0.25)


def test_a_tag_that_is_not_fitted_still_raises_a_broader_one() -> None:
    below = np.array([[0, 1]])
    answers = made(np.array([[4.0, -4.0], [-4.0, -4.0]]), np.array([[0.0, 1.0], [0.0, 0.0]]))
    answers = CalibrationData(
        answers.columns, np.array([False, True]), answers.log_odds, answers.truth, answers.thresholds, below
    )
    scores, given = answers.predict(identity_lines(2).astype(np.float64), answers.thresholds)
    assert scores.shape == (2, 1) and given.tolist() == [[True], [False]]


def made(log_odds: np.ndarray, truth: np.ndarray) -> CalibrationData:
    """Return the data of tags that are all fitted and of which none is broader."""
    tags = log_odds.shape[1]
    return CalibrationData(
        np.arange(tags), np.ones(tags, np.bool_), log_odds, truth, np.full(tags, 0.5), NO_PAIRS
    )


def simulated(seed: int, *, photos: int = 600, tags: int = 60) -> CalibrationData:
    """Tags of which most are rare, some well told and some badly, and log-odds that promise too much."""
    random = np.random.default_rng(seed)
    rate, skill = random.uniform(0.005, 0.2, tags), random.uniform(0.5, 4, tags)
    truth = (random.random((photos, tags)) < rate).astype(float)
    log_odds = 2.0 * (skill * (truth - 0.5) + random.normal(size=truth.shape)) + random.normal(size=tags)
    often = np.flatnonzero(truth.sum(0) >= 3)
    return made(log_odds[:, often], truth[:, often])


@pytest.mark.parametrize("precision", [0.6, 0.8, 0.9])
def test_a_precision_is_reached_on_other_photos_and_not_much_more(precision: float) -> None:
    figures = []
    for seed in range(6):
        answers = simulated(seed)
        half = np.arange(len(answers.truth)) % 2 == 0
        others = answers.take(~half)
        figures.append(measure(others, *others.predict(*answers.take(half).fit(Goal(precision)))))
    reached = float(np.mean([one["precision"] for one in figures]))
    assert precision - 0.04 < reached < precision + 0.06
