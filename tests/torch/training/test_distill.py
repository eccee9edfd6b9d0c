from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anytag import Tagger
from anytag.errors import AnytagError
from anytag.torch.training.distill import distill, photos_in, soft_targets, student_recipe, summary
from anytag.torch.training.photo_dataset import PhotoDataset, Photos
from anytag.torch.training.report import Reporter
from anytag.torch.training.run import Run
from tests.command import run
from tests.runs import RUN_OPTIONS, recipe_of, small_recipe, write_photos
from tests.tiny import make_tiny_model


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = write_photos(tmp_path / "photos", count=24).parent
    (folder / "rows.jsonl").unlink()
    (folder / "broken.jpg").write_text("no photo")
    return folder


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    return make_tiny_model(tmp_path / "teacher")


def test_the_student_hears_what_the_teacher_believes(photos: Path, teacher: Path, tmp_path: Path) -> None:
    tagger, paths = Tagger.load(teacher), photos_in(photos)
    said = soft_targets(tagger, paths, tmp_path / "teacher", report=Reporter())
    assert np.isnan(said[paths.index(photos / "broken.jpg")]).all()
    first = tagger.tag(paths[0], threshold=0)
    assert said[0, tagger.vocabulary.index("dog")] == pytest.approx(
        next(tag.score for tag in first.tags if tag.id == "dog"), abs=1e-3
    )
    assert np.array_equal(
        soft_targets(tagger, paths, tmp_path / "teacher", report=Reporter()), said, equal_nan=True
    )
    with pytest.raises(AnytagError, match="of other photos, other views or another model"):
        soft_targets(tagger, paths[1:], tmp_path / "teacher", report=Reporter())
    with pytest.raises(AnytagError, match="of other photos, other views or another model"):  # as many
        soft_targets(tagger, [*paths[1:], paths[0]], tmp_path / "teacher", report=Reporter())


def test_soft_targets_reach_the_batch(photos: Path, teacher: Path, tmp_path: Path) -> None:
    from anytag.data.rows import Row

    vocabulary = Tagger.load(teacher).vocabulary
    rows = [Row(f"{n}.png", "", "train") for n in range(4)]
    target = np.random.default_rng(0).random((4, len(vocabulary))).astype(np.float16)
    corpus = PhotoDataset(Photos(rows, photos, vocabulary, soft=target), size=16, batch_size=4, seed=0)
    (batch,) = corpus.stream(0, 1)
    order = [number for _, number in corpus.keys(0)]
    assert np.allclose(batch.require("tags").numpy(), target[order])


def test_the_command(photos: Path, teacher: Path, tmp_path: Path) -> None:
    numbers = ["steps=2", "batch_size=4", "network.size=32", "backbone=resnet10t"]
    numbers += ["--photos", str(photos), "--output", str(tmp_path / "out"), "--workers", "0"]
    done = run("distill", teacher, "flickr8k-tiny", *numbers)
    assert done.exit_code == 1, "broken.jpg is left out"
    assert "broken.jpg" in done.stderr
    if "agreement with" in done.stdout:  # the teacher gives the one photo some tag
        assert "on 1 held-out photo." in done.stdout
    assert Tagger.load(tmp_path / "out" / "model").vocabulary.ids == Tagger.load(teacher).vocabulary.ids


@pytest.mark.parametrize("pair", ["objective.aligns=true", "vocabulary=mine.jsonl"])
def test_values_without_effect(pair: str) -> None:
    with pytest.raises(AnytagError, match=f"{pair.partition('=')[0]}.* has no effect here"):
        student_recipe("small", [pair])


def test_what_cannot_be_taught(photos: Path, teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(AnytagError, match="a caption head cannot be trained"):
        distill(Tagger.load(teacher), Run(recipe_of("ram"), photos, tmp_path / "out", RUN_OPTIONS))
    (tmp_path / "empty").mkdir()
    with pytest.raises(AnytagError, match="contains no photos"):
        distill(Tagger.load(teacher), Run(small_recipe(), tmp_path / "empty", tmp_path / "out", RUN_OPTIONS))


def test_how_many_photos_measure_the_student_is_said(tmp_path: Path) -> None:
    soft_targets = np.zeros((45, 3), np.float16)
    soft_targets[:5] = np.nan
    (tmp_path / "teacher" / "shard-0000").mkdir(parents=True)
    np.save(tmp_path / "teacher" / "shard-0000" / "scores.npy", soft_targets)
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"step": 1, "mAP": 0.5}\n')
    assert summary(tmp_path) == "agreement with the teacher's tags: mAP 0.500 on 2 held-out photos"
