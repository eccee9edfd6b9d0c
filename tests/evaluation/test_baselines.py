"""`anytag.evaluation.baselines`: tiny random models of open_clip and transformers, from folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from anytag.errors import AnytagError
from anytag.evaluation.adapters import adapter
from anytag.evaluation.baselines import ZeroShot, prompt
from anytag.evaluation.tasks import TagTask
from anytag.images import load
from anytag.queries.requests import CustomTag
from anytag.text_encoders.prompts import template_prompts, unit


@pytest.fixture(scope="module")
def open_clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import open_clip

    folder = tmp_path_factory.mktemp("open_clip")
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    mean = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": mean}))
    torch.manual_seed(0)
    model: Any = open_clip.CLIP(**config)
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    return folder


@pytest.fixture(scope="module")
def transformers_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import transformers

    folder = tmp_path_factory.mktemp("transformers")
    letters = [chr(n) for n in range(ord("a"), ord("z") + 1)] + ["."]
    pieces = [*letters, *(f"{one}</w>" for one in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({piece: n for n, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(
        vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), model_max_length=24
    )
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = transformers.CLIPModel(
        transformers.CLIPConfig(
            text_config={
                **sizes,
                "vocab_size": len(pieces),
                "max_position_embeddings": 24,
                "eos_token_id": len(pieces) - 1,
            },
            vision_config={**sizes, "image_size": 32, "patch_size": 16},
            projection_dim=8,
        )
    )
    images = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    model.save_pretrained(folder)
    processor: Any = transformers.CLIPProcessor
    processor(images, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture
def task(tmp_path: Path) -> TagTask:
    random = np.random.default_rng(0)
    photos = [tmp_path / f"{number}.png" for number in range(20)]
    for path in photos:
        Image.fromarray(random.integers(0, 256, (40, 50, 3), np.uint8)).save(path)
    photos[4].write_bytes(b"no photo")
    present = random.random((20, 2)) < 0.5
    return TagTask("some", tuple(photos), (CustomTag("dog"), CustomTag("orange_cat")), present)


def check(baseline: Any, task: TagTask) -> None:
    """Cosines, the same for a photo alone, and the broken photo is said."""
    assert isinstance(baseline, ZeroShot)
    answers = baseline.predict(task)
    assert answers.scores.shape == (20, 2)
    assert np.abs(answers.scores).max() <= 1.001
    assert list(answers.failed) == [4]
    assert not answers.are_probabilities
    alone = baseline.predict(task.part(photos=[7]))
    np.testing.assert_allclose(alone.scores[0], answers.scores[7], atol=1e-5)
    assert answers.scores[0, 0] != answers.scores[0, 1] and answers.scores[0, 0] != answers.scores[1, 0]


def test_open_clip_from_a_folder(open_clip_folder: Path, task: TagTask) -> None:
    check(adapter(f"open_clip:local-dir:{open_clip_folder}"), task)


def test_transformers_from_a_folder(transformers_folder: Path, task: TagTask) -> None:
    check(adapter(f"transformers:{transformers_folder}"), task)


def test_an_ensemble_of_prompts(transformers_folder: Path, task: TagTask) -> None:
    baseline = adapter(f"transformers:{transformers_folder}", prompts="ensemble")
    check(baseline, task)
    assert baseline.name.endswith(", 63 prompts")
    assert isinstance(baseline, ZeroShot)
    texts = template_prompts("dog")
    vectors = unit(baseline.encoder.texts(texts)).mean(0)
    slow = unit(baseline.encoder.photos([load(task.photos[0]).pixels])) @ unit(vectors)
    assert baseline.predict(task).scores[0, 0] == pytest.approx(float(slow[0]), abs=1e-5)


def test_prompts() -> None:
    assert prompt("orange_Cat/dog") == "a photo of an orange cat or dog."


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("open_clip:ViT-B-32", "specifies no weights"),
        ("open_clip:", "lacks a name"),
        ("open_clip:nonesuch@openai", "cannot load 'nonesuch@openai'"),
    ],
)
def test_what_cannot_be_loaded_is_said(spec: str, told: str) -> None:
    with pytest.raises(AnytagError, match=told):
        adapter(spec)


def test_a_folder_without_weights_is_said(transformers_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((transformers_folder / "config.json").read_bytes())
    with pytest.raises(AnytagError, match="transformers cannot load"):
        adapter(f"transformers:{tmp_path}")
