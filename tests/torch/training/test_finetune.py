"""`anytag.torch.training.finetune`, with the embedded model and generated photos."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from anytag import Tagger
from anytag.calibration.fit import Goal
from anytag.cli.finetune import table
from anytag.data.rows import Row, write_rows
from anytag.errors import AnytagError, ModelError
from anytag.models.card import Card
from anytag.models.folder import ModelFolder
from anytag.torch.training.comparison import regression_warning
from anytag.torch.training.finetune import Finetune, finetune, is_better
from anytag.torch.training.report import Progress, Reporter
from anytag.torch.training.residuals import LearnedTags
from tests.command import run
from tests.tiny import make_tiny_model

COLOURS = {"crimson": (200, 20, 60), "teal": (0, 128, 128), "ochre": (204, 119, 34)}


class Kept(Reporter):
    """Records messages."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.heard: list[Progress] = []

    def progress(self, progress: Progress) -> None:
        self.heard.append(progress)

    def say(self, message: str) -> None:
        self.said.append(message)


def draw(folder: Path, colour: str, number: int) -> str:
    """Draw a disk of the colour at a random position on grey; returns the file name."""
    where = np.random.default_rng([number, len(colour)]).integers(10, 50, 2).tolist()
    picture = Image.new("RGB", (112, 112), (90 + number, 90, 95))
    ImageDraw.Draw(picture).ellipse((*where, where[0] + 50, where[1] + 50), fill=COLOURS[colour])
    picture.save(folder / f"{colour}-{number}.png")
    return f"{colour}-{number}.png"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of three colours, eight photos each, and one that cannot be read."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "broken.png").write_text("no photo")
    with (folder / "mine.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "tags"])
        table.writerow(["broken.png", "teal"])
        table.writerows([draw(folder, colour, n), colour] for colour in COLOURS for n in range(8))
    return folder / "mine.csv"


@pytest.fixture(scope="module")
def made(data: Path) -> tuple[Path, Mapping[str, Any], Kept]:
    kept = Kept()
    task = Finetune(data, data.parent / "model", epochs=24, held_out=0.25, keep_old=True)
    return task.output, finetune(task, kept), kept


def test_learned_tags_are_given(made: tuple[Path, Mapping[str, Any], Kept], data: Path) -> None:
    folder, figures, _ = made
    held = figures["held out"]
    assert held["after"]["top-1"] == 1.0 and held["after"]["F1"] > 0.7
    assert held["after"]["mAP"] >= held["before"]["mAP"]
    found = Tagger.load(folder).tag(data.parent / "teal-0.png")
    assert "teal" in {tag.id for tag in found.tags}


def test_old_tags_are_not_forgotten(made: tuple[Path, Mapping[str, Any], Kept]) -> None:
    folder, figures, _ = made
    old = figures["held out"]["old tags"]
    assert old["largest score change"] < 1e-5
    assert old["given before"] == old["given after"] == old["given in both"]
    assert len(Tagger.load(folder).vocabulary) == old["tags"] + len(COLOURS)


def test_the_card_tells_how(made: tuple[Path, Mapping[str, Any], Kept]) -> None:
    card = ModelFolder.open(made[0]).card  # verifies all hashes
    assert card.metrics["fine-tuning"] == made[1]
    assert "best F1 on 18 photos" in card.thresholds and "Other tags: " in card.thresholds
    assert "mine.csv" in card.training_data


def test_what_was_left_out_is_said(made: tuple[Path, Mapping[str, Any], Kept]) -> None:
    kept = made[2]
    assert any("broken.png" in line for line in kept.said)
    assert {"read photos", "train"} == {progress.what for progress in kept.heard}


def test_a_vocabulary_of_its_own(data: Path, tmp_path: Path) -> None:
    rows = [Row(str(data.parent / f"{c}-{n}.png"), "", "train", tags=(c,)) for c in COLOURS for n in (1, 2)]
    write_rows(tmp_path / "rows.jsonl", rows)
    task = Finetune(tmp_path / "rows.jsonl", tmp_path / "out", epochs=1, held_out=0, positives_only=True)
    figures = finetune(task)
    assert figures["held out"] == {"photos": 0}
    assert "other tags count as absent" in figures["known"]
    assert "nothing was evaluated" in table(figures)
    assert list(Tagger.load(task.output).vocabulary.ids) == sorted(COLOURS)


@pytest.mark.parametrize("goal", [Goal(), Goal(0.8)])
def test_unlabelled_tags_count_little(data: Path, tmp_path: Path, goal: Goal) -> None:
    """Every second photo of a colour is not labelled, as in a library: the tags are still given."""
    rows = [
        Row(str(data.parent / f"{c}-{n}.png"), "", "", tags=(c,) if n % 2 else ())
        for c in COLOURS
        for n in range(8)
    ]
    write_rows(tmp_path / "rows.jsonl", rows)
    task = Finetune(tmp_path / "rows.jsonl", tmp_path / "out", epochs=24, held_out=0.25, positives_only=True)
    figures = finetune(replace(task, goal=goal))
    assert figures["held out"]["after"]["precision"] > 0.7
    tagger = Tagger.load(task.output)
    given = [
        (c, [tag.id for tag in tagger.tag(data.parent / f"{c}-{n}.png").tags])
        for c in COLOURS
        for n in range(8)
    ]
    assert sum(c in tags for c, tags in given) >= 0.8 * len(given)
    assert sum(c in tags for c, tags in given) >= 0.6 * sum(len(tags) for _, tags in given)


def test_captions_alone_teach_too(data: Path, tmp_path: Path) -> None:
    grounds = ["beach", "field"]
    rows = [
        Row(str(data.parent / f"{c}-{n}.png"), "", "train", (f"A ball on a {grounds[n % 2]}.",))
        for c in COLOURS
        for n in range(4)
    ]
    write_rows(tmp_path / "rows.jsonl", rows)
    kept = Kept()
    finetune(Finetune(tmp_path / "rows.jsonl", tmp_path / "out", epochs=1, held_out=0), kept)
    tags = Tagger.load(tmp_path / "out").vocabulary
    assert {tag.name for tag in tags} >= {"beach", "field", "ball"}
    assert any("all photos, which need photos without them" in line and "ball" in line for line in kept.said)


def test_an_output_that_exists_is_not_touched(data: Path, tmp_path: Path) -> None:
    with pytest.raises(AnytagError, match="exists: give a folder that does not exist yet"):
        finetune(Finetune(data, tmp_path))


def test_another_family_is_refused(data: Path, tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "tiny")
    with pytest.raises(ModelError, match=r"has no decoder\.safetensors"):
        finetune(Finetune(data, tmp_path / "out", model=folder))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny"]  # no partial output is left


def test_the_command(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "made"
    done = run("finetune", "--data", data, "--output", out, "--epochs", "1", "--goal", "precision=0.9")
    assert done.exit_code == 1, "broken.png is left out"
    assert "broken.png" in done.stderr and "1 photo could not be read." in done.stderr
    assert "learned" in done.stdout and f"anytag tag --model {out}" in done.stdout
    assert "precision of 0.9" in Card.read(out).thresholds
    again = run("finetune", "--data", data, "--output", out)
    assert again.exit_code == 2 and "exists" in again.stderr
    wrong = run("finetune", "--data", data, "--output", tmp_path / "x", "--goal", "speed")
    assert wrong.exit_code == 2 and "give f1, or precision=0.8" in wrong.stderr


@pytest.mark.parametrize(
    "rows",
    [
        [Row("teal-0.png", "", "train", tags=("teal",))],
        [Row(f"teal-{n}.png", "", "train", tags=("teal",)) for n in range(4)],
        [Row(f"teal-{n}.png", "", "train" if n else "val", tags=("teal",)) for n in range(2)],
    ],
)
def test_photos_that_tell_nothing_apart(rows: list[Row], data: Path, tmp_path: Path) -> None:
    named = [replace(row, image=str(data.parent / row.image)) for row in rows]
    write_rows(tmp_path / "rows.jsonl", named)
    with pytest.raises(AnytagError, match=r"no tag is present in some of .*; give at least"):
        finetune(Finetune(tmp_path / "rows.jsonl", tmp_path / "out", epochs=1))
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_names_in_other_scripts_are_taught_by_photos(data: Path, tmp_path: Path) -> None:
    names = dict(zip(COLOURS, ("果仁蜜饼", "пахлава", "teal"), strict=True))
    rows = [
        Row(str(data.parent / f"{colour}-{n}.png"), "", "val" if n > 5 else "train", tags=(name,))
        for colour, name in names.items()
        for n in range(8)
    ]
    write_rows(tmp_path / "rows.jsonl", rows)
    kept = Kept()
    task = Finetune(tmp_path / "rows.jsonl", tmp_path / "out", epochs=24)
    figures = finetune(task, kept)
    assert figures["held out"]["after"]["top-1"] == 1.0
    assert any(
        "does not know, learned from photos only: " in line and "пахлава" in line for line in kept.said
    )
    assert set(Tagger.load(task.output).vocabulary.ids) == set(names.values())


def test_what_got_worse_is_said() -> None:
    before = {"mAP": 0.864, "top-1": 0.775, "tags": 10}
    figures = {"before": before, "after": {"mAP": 0.756, "top-1": 0.65, "tags": 10}}
    assert (
        "worse than the base with your tag names (mAP 0.756 against 0.864, top-1 0.650 against 0.775)"
        in regression_warning(figures)
    )
    assert regression_warning({"before": before, "after": before}) == ""
    assert (
        regression_warning({"photos": 0}) == regression_warning({"before": {}, "after": {"mAP": 0.1}}) == ""
    )


def test_each_tag_keeps_the_better_of_two() -> None:
    truth = np.array([[1, 1, 1], [1, 1, 1], [0, 0, 0], [0, 0, 0]], np.float32)
    good, bad = np.array([4, 3, 2, 1], np.float32), np.array([1, 2, 3, 4], np.float32)
    asked, learned = np.stack([bad, good, 2 * good], axis=1), np.stack([good, bad, good], axis=1)
    better = is_better(learned, asked, truth)
    assert better.tolist() == [True, False, False]
    words = np.ones((3, 2, 4), np.float32)
    found = LearnedTags(np.full((3, 4), 0.5, np.float32), np.full(3, 2, np.float32)).only(better)
    assert found.offset.tolist() == [2, 0, 0]
    rows = found.rows(words)
    assert (rows[0] == 1.5).all() and (rows[1:] == 1).all()


def test_what_learning_makes_no_better_is_asked_as_before(data: Path, tmp_path: Path) -> None:
    """Photos that do not differ by their tags: nothing is learned from them, and that is reported."""
    rows = [
        Row(str(data.parent / f"{c}-{n}.png"), "", "train", tags=("dog" if n % 2 else "cat",))
        for c in COLOURS
        for n in range(6)
    ]
    write_rows(tmp_path / "rows.jsonl", rows)
    kept = Kept()
    figures = finetune(Finetune(tmp_path / "rows.jsonl", tmp_path / "out", epochs=1, held_out=0), kept)
    named = [line for line in kept.said if "learning does not improve" in line]
    assert (figures["learned"] < 2) == bool(named)
    assert Card.read(tmp_path / "out").metrics["fine-tuning"]["learned"] == figures["learned"]
