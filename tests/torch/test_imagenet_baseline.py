"""`anytag.torch.imagenet_baseline`: features as in torch, and probabilities transferred to names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from anytag.evaluation.tasks import TagTask
from anytag.images import load, prepare
from anytag.queries.requests import CustomTag
from anytag.torch import imagenet_baseline as imagenet
from anytag.torch.imagenet_baseline import ClassifierWithText, FrozenBackbone
from tests.networks import TINY, tiny_network

NAME = "tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def rival() -> ClassifierWithText:
    """Four stages of random weights instead of the whole network: it exports in a second."""
    backbone = tiny_network().encoder.backbone
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            imagenet, "imagenet_backbone", lambda _name, size: (backbone, nn.Linear(backbone.width, 1000))
        )
        return ClassifierWithText(NAME, size=TINY.size)


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    random = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.png" for number in range(20)]
    for path in paths:
        Image.fromarray(random.integers(0, 256, (40, 50, 3), np.uint8)).save(path)
    return paths


def test_features_are_those_of_torch(rival: ClassifierWithText, photos: list[Path]) -> None:
    features, failed = rival.frozen.features(photos)
    pixels = np.stack([prepare(load(path, min_side=TINY.size), size=TINY.size) for path in photos])
    with torch.no_grad():
        slow = (
            tiny_network()
            .encoder.backbone((torch.from_numpy(pixels).float() - 127) / 128)
            .mean((2, 3))
            .numpy()
        )
    assert failed == {}
    assert features.dtype == np.float16
    np.testing.assert_allclose(features, slow, rtol=2e-3, atol=2e-3)
    p = rival.frozen.probabilities(features)
    assert p.shape == (20, 1000)
    assert p.sum(1) == pytest.approx(np.ones(20), abs=1e-5)


def test_a_class_carries_its_probability_to_its_own_name(rival: ClassifierWithText) -> None:
    p = np.zeros((2, 1000), np.float32)
    p[0, 207], p[1, 954] = 1, 1  # golden retriever, banana
    for method, scores in rival.transfer(p, ["golden retriever", "banana"]).items():
        assert scores.shape == (2, 2)
        assert scores[0, 0] > scores[0, 1], method
        assert scores[1, 1] > scores[1, 0], method


def test_the_best_method_answers_and_unreadable_photos_are_said(
    rival: ClassifierWithText, photos: list[Path]
) -> None:
    photos[3].write_bytes(b"no photo")
    present = np.zeros((20, 2), dtype=bool)
    present[::2, 0] = present[1::3, 1] = True
    task = TagTask("some", tuple(photos), (CustomTag("dog"), CustomTag("boat")), present)
    answers = rival.predict(task)
    assert answers.scores.shape == (20, 2)
    assert list(answers.failed) == [3] and "3.png" in answers.failed[3]
    assert not answers.are_probabilities


def test_an_unknown_backbone_is_said() -> None:
    with pytest.raises(Exception, match="no ImageNet weights are known for 'nonesuch'"):
        FrozenBackbone("nonesuch")
