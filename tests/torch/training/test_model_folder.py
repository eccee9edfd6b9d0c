"""`anytag.torch.training.model_folder`: the folder of a run of a published family."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from anytag import Tagger
from anytag.torch.checkpoints.load import load_network
from anytag.torch.training.fit import finish
from anytag.torch.training.photo_dataset import PhotoDataset
from anytag.torch.training.run import Run
from tests.runs import RUN_OPTIONS, recipe_of, retrieval_recipe, small_recipe, trainer_of, write_photos


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough held-out photos to fit thresholds."""
    return write_photos(tmp_path_factory.mktemp("photos"), count=33, held=21)


@pytest.mark.parametrize("family", ["tag2text", "ram", "ram-plus"])
def test_the_folder_scores_as_the_run_did(family: str, data: Path, tmp_path: Path) -> None:
    recipe = recipe_of(family, steps=2, ema=0.5)
    trainer = trainer_of(recipe, data, tmp_path)
    folder = finish(trainer, Run(recipe, data, tmp_path, RUN_OPTIONS))
    assert folder == tmp_path / "model"
    logits = trainer.held_out_logits()  # of the averages
    tagger = Tagger.load(folder, device="cpu")
    assert (tagger.card.family, tagger.card.width) == (family, trainer.plain.network.config.width)
    assert "on 21 held-out photos" in tagger.card.thresholds
    assert set(tagger.card.metrics["held out"]) == {"mAP"}
    _, (slope, bias) = tagger.trained(tagger.vocabulary.ids)
    assert isinstance(trainer.dataset, PhotoDataset)
    for row, known in zip(logits, trainer.dataset.photos.held, strict=True):
        found = {tag.id: tag.score for tag in tagger.tag(data.parent / known.image, threshold=0).tags}
        slow = 1 / (1 + np.exp(-(slope * row + bias)))
        assert [found[id] for id in tagger.vocabulary.ids] == pytest.approx(slow.tolist(), abs=1e-4)


def test_every_trained_tensor_is_kept_once(data: Path, tmp_path: Path) -> None:
    recipe = retrieval_recipe(steps=1)
    trainer = trainer_of(recipe, data, tmp_path)
    finish(trainer, Run(recipe, data, tmp_path, RUN_OPTIONS))
    folder = finish(trainer, Run(recipe, data, tmp_path, RUN_OPTIONS))  # replaces the first
    network = load_network(folder)
    ours = dict(trainer.plain.network.named_parameters())
    theirs = dict(network.named_parameters())
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not list(tmp_path.glob(".model*"))


def test_no_folder_tells_of_a_backbone_of_timms(data: Path, tmp_path: Path) -> None:
    recipe = recipe_of("ram-plus", steps=1, backbone=small_recipe().backbone)
    trainer = trainer_of(recipe, data, tmp_path)
    assert finish(trainer, Run(recipe, data, tmp_path, RUN_OPTIONS)) == tmp_path / "student.pt"
