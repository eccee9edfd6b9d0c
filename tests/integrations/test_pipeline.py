from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anytag import ImageError, Tagger, VocabularyError
from anytag.integrations.pipeline import ZeroShotPipeline, pipeline

PHOTOS = sorted((Path(__file__).resolve().parents[2] / "examples" / "photos").glob("*.jpg"))[:5]
LABELS = [
    "cat", "dog", "coffee cup", "flower", "astronaut", "beach", "bicycle", "mountain", "red car", "a person",
    "sleeping cat", "tree", "boat", "pizza", "laptop", "snow", "horse", "train", "bridge", "two birds",
]  # fmt: skip


@pytest.fixture(scope="module")
def pipe() -> ZeroShotPipeline:
    return pipeline()


def test_the_answer_is_what_transformers_makes_of_the_same_scores(pipe: ZeroShotPipeline) -> None:
    """By the code of its own pipeline, which for SigLIP gives each label a probability of its own, too."""
    theirs = pytest.importorskip("transformers.pipelines.zero_shot_image_classification")
    torch = pytest.importorskip("torch")
    siglip = SimpleNamespace(model=SimpleNamespace(config=SimpleNamespace(model_type="siglip")))
    for photo in PHOTOS:
        found: Any = pipe(photo, candidate_labels=LABELS)
        scores = {one["label"]: one["score"] for one in found}
        logits = torch.logit(torch.tensor([scores[label] for label in LABELS], dtype=torch.float64))
        outputs = {"candidate_labels": list(LABELS), "logits": logits[None]}
        expected = theirs.ZeroShotImageClassificationPipeline.postprocess(siglip, outputs)
        assert [list(one) for one in found] == [list(one) for one in expected]
        assert [one["label"] for one in found] == [one["label"] for one in expected]
        assert [one["score"] for one in found] == pytest.approx([one["score"] for one in expected])
        assert all(type(one["score"]) is float and type(one["label"]) is str for one in found)


def test_scores_are_those_of_the_library(pipe: ZeroShotPipeline) -> None:
    tagger = Tagger.load()
    for photo in PHOTOS:
        expected = [{"score": tag.score, "label": tag.name} for tag in tagger.tag(photo, LABELS).tags]
        assert pipe(photo, LABELS) == expected
        assert pipe(photo, LABELS, top_k=3) == expected[:3]
        assert pipe(photo) == [{"score": tag.score, "label": tag.name} for tag in tagger.tag(photo).tags]


def test_a_list_gives_a_list_and_what_yields_photos_a_generator(pipe: ZeroShotPipeline) -> None:
    expected = [pipe(photo, LABELS) for photo in PHOTOS]
    assert pipe(PHOTOS, LABELS) == expected
    assert pipe(tuple(map(str, PHOTOS)), LABELS, batch_size=2) == expected
    found = pipe((photo for photo in PHOTOS), LABELS)
    assert isinstance(found, Iterator) and list(found) == expected
    assert pipe([], LABELS) == []


def test_every_kind_of_photo_is_taken(pipe: ZeroShotPipeline) -> None:
    with Image.open(PHOTOS[0]) as picture:
        given: list[Any] = [
            PHOTOS[0].read_bytes(),
            picture.convert("RGB"),
            np.asarray(picture.convert("RGB")),
        ]
    for one in given:
        assert len(list(pipe(one, LABELS))) == len(LABELS)


def test_wrong_arguments_are_said(pipe: ZeroShotPipeline, tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match=r"expected a list, as in \['cat', 'dog'\]"):
        pipe(PHOTOS[0], "cat, dog")
    with pytest.raises(VocabularyError, match="empty"):
        pipe(PHOTOS[0], [])
    with pytest.raises(ImageError):
        pipe(tmp_path / "missing.jpg", LABELS)
    with pytest.raises(ImageError):
        pipe([PHOTOS[0], b"no photo"], LABELS)
