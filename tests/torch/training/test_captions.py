"""Runs of the small caption head: it learns a toy world, a run is resumed, and its graphs agree with it."""

from __future__ import annotations

import dataclasses
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anytag import AnytagError, Captioner, ModelError
from anytag.data.rows import Row, read_rows, write_rows
from anytag.models.folder import ModelFolder
from anytag.parsing import Parser
from anytag.text_encoders.wordpiece import WordPieces
from anytag.torch.training.caption_samples import CaptionSamples, tag_texts
from anytag.torch.training.feature_cache import FeatureCache
from anytag.torch.training.feature_dataset import FeatureDataset
from anytag.torch.training.fit import train
from anytag.torch.training.mini import cache_tokens, caption_student
from anytag.torch.training.objectives import Guidance
from anytag.torch.training.recipes import Recipe, find
from anytag.torch.training.report import Reporter
from anytag.torch.training.run import Run, RunOptions
from anytag.torch.training.trainer import Trainer
from anytag.torch.training.wordpieces import train_wordpieces
from anytag.vocabulary import Vocabulary
from scripts.release_captions import CaptionEvaluator, read_head, write_head
from tests.tiny import make_tiny_model

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220), "white": (240, 240, 240)}
RUN_OPTIONS = RunOptions(tensorboard=False)


def tiny_recipe() -> Recipe:
    """`mini-captions`, tiny."""
    made = find("mini-captions")
    assert made.network.captions is not None
    head = dataclasses.replace(
        made.network.captions, words=120, layers=1, width=32, mlp=32, heads=2, tag_length=8
    )
    return dataclasses.replace(
        made, network=dataclasses.replace(made.network, captions=head), steps=60, batch_size=16, rate=3e-3,
        warmup=5, ema=0.9, precision="no",
    )  # fmt: skip


RECIPE = tiny_recipe()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """rows.jsonl with single-coloured photos, and a tiny model in the same folder."""
    folder = tmp_path_factory.mktemp("world")
    rows = []
    for number in range(32):
        name = list(COLOURS)[number % 4]
        Image.new("RGB", (20, 20), COLOURS[name]).save(folder / f"{number}.png")
        captions = (f"A {name} dog on the beach .", f"The {name} cat .")
        split = "dev" if number >= 24 else "train"
        rows.append(Row(f"{number}.png", "toy", split, captions if number % 2 else captions[:1]))
    rows.append(Row("0.png", "toy", "train"))  # without tags and captions
    write_rows(folder / "rows.jsonl", rows)
    make_tiny_model(folder / "model")
    return folder


def photos_of(world: Path) -> list[Row]:
    return [row for row in read_rows(world / "rows.jsonl") if row.captions]


@pytest.fixture(scope="module")
def tokens(world: Path) -> FeatureCache:
    folder = ModelFolder.open(world / "model")
    return cache_tokens(photos_of(world), world, folder, world / "tokens", report=Reporter())


@cache  # learned once for all tests
def wordpieces(world: Path) -> WordPieces:
    names = [tag.name for tag in Vocabulary.read(world / "model" / "vocabulary.jsonl")]
    captions = [f"a {name} dog on the beach the {name} cat" for name in COLOURS]
    return train_wordpieces(captions, names, size=120)


def make_samples(world: Path, tokens: FeatureCache, *, unguided: float = 0.35) -> CaptionSamples:
    vocabulary = Vocabulary.read(world / "model" / "vocabulary.jsonl")
    guidance = Guidance(unguided=unguided, kept=1.0)
    return CaptionSamples(
        photos_of(world), tokens, vocabulary, wordpieces(world), tag_length=8, guidance=guidance
    )


def make_trainer(world: Path, tokens: FeatureCache, out: Path, *, recipe: Recipe = RECIPE) -> Trainer:
    samples = make_samples(world, tokens)
    out.mkdir(exist_ok=True)
    dataset = FeatureDataset(samples, batch_size=recipe.batch_size, seed=recipe.seed)
    return Trainer(caption_student(recipe, samples), dataset, recipe, out, run_options=RUN_OPTIONS)


def test_photos_with_captions_are_encoded_once(world: Path, tokens: FeatureCache) -> None:
    samples = make_samples(world, tokens)
    assert len(samples.view_range) == 32
    assert samples.view_range[:3, 1].tolist() == [1, 2, 1]  # two captions: plain and mirrored
    assert tokens.take("tokens", np.array([0, 5])).shape == (2, 16, 8)
    shard = world / "tokens" / "shard-0000" / "tokens.npy"
    before, folder = shard.stat().st_mtime_ns, ModelFolder.open(world / "model")
    cache_tokens(photos_of(world), world, folder, world / "tokens", report=Reporter())
    assert shard.stat().st_mtime_ns == before
    with pytest.raises(AnytagError, match="features of other photos"):
        cache_tokens(photos_of(world)[:2], world, folder, world / "tokens", report=Reporter())


def test_a_batch_tells_tags_that_its_captions_name(world: Path, tokens: FeatureCache) -> None:
    samples = make_samples(world, tokens, unguided=0.0)
    names = {
        name
        for pair in tag_texts(
            Parser(vocabulary=Vocabulary.read(world / "model" / "vocabulary.jsonl")),
            "A red dog on the beach .",
        )
        for name in pair
    }
    assert {"red", "dog", "beach"} <= names
    for batch in FeatureDataset(samples, batch_size=8, seed=0).stream(0, 4):
        assert batch.tokens is not None and batch.tag_ids is not None and batch.caption_ids is not None
        assert batch.tokens.shape == (8, 16, 8)
        assert batch.tag_ids.shape == (8, 8)
        for guide, text in zip(batch.tag_ids.tolist(), batch.caption_ids.tolist(), strict=True):
            asked = set(samples.pieces.decode(guide).replace("|", " ").split())
            assert asked
            assert asked <= set(samples.pieces.decode(text).split())
    for batch in FeatureDataset(make_samples(world, tokens, unguided=1.0), batch_size=8, seed=0).stream(0, 4):
        assert batch.tag_ids is not None and (batch.tag_ids[:, 2:] == 0).all()


def test_an_epoch_shows_every_caption_in_an_order_of_its_own(world: Path, tokens: FeatureCache) -> None:
    dataset = FeatureDataset(make_samples(world, tokens), batch_size=4, seed=0)
    each = dataset.steps_per_epoch()

    def texts(first: int, last: int) -> list[list[list[int]]]:
        found = [batch.caption_ids for batch in dataset.stream(first, last)]
        return [ids.tolist() for ids in found if ids is not None]

    epochs = [texts(0, each), texts(0, each), texts(each, 2 * each)]
    assert epochs[0] == epochs[1] != epochs[2]
    assert texts(3, each) == epochs[0][3:]
    assert len(epochs[0]) == each == len(dataset.samples) // 4


def test_a_run_that_is_killed_goes_on(world: Path, tokens: FeatureCache, tmp_path: Path) -> None:
    short = dataclasses.replace(RECIPE, steps=8)
    make_trainer(world, tokens, tmp_path / "whole", recipe=short).fit()
    broken = make_trainer(world, tokens, tmp_path / "broken", recipe=short)
    for batch in broken.dataset.stream(0, 5):
        broken._step(batch)
    broken.save()
    resumed = make_trainer(world, tokens, tmp_path / "broken", recipe=short)
    resumed.resume()
    resumed.fit()
    whole, broken_off = (
        torch.load(tmp_path / name / "student.pt", weights_only=True) for name in ("whole", "broken")
    )
    assert whole.keys() == broken_off.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(broken_off[name], tensor, rtol=1e-3, atol=1e-5)


def test_it_learns_to_see_and_to_obey_and_is_shipped(
    world: Path, tokens: FeatureCache, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    objective = dataclasses.replace(RECIPE.objective, smoothing=0.0, guidance=Guidance(kept=1.0))
    recipe = dataclasses.replace(RECIPE, steps=240, objective=objective, start=str(world / "model"))
    run.mkdir()
    (run / "vocab.txt").write_text("".join(f"{one}\n" for one in wordpieces(world).entries[:-2]))
    assert train(Run(recipe, world / "rows.jsonl", run, RUN_OPTIONS, cache=world / "tokens")).is_file()
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["caption"] < 0.5 * lines[0]["caption"]
    model = make_tiny_model(tmp_path / "model")
    write_head(run, model)
    ModelFolder.open(model, verify=True)
    captioner = Captioner.load(model, device="cpu")
    dev = [row for row in photos_of(world) if row.split == "dev"]
    evaluator = CaptionEvaluator(captioner, dev, world, batch=3)
    spec = dataclasses.replace(captioner.spec, min_length=2)
    texts = evaluator.texts(spec)
    seen = [row.captions[0].split()[1] in text.split() for row, text in zip(dev, texts, strict=True)]
    assert np.mean(seen) > 0.7, texts
    asked = [["cat"] if number % 2 else ["dog"] for number in range(len(dev))]
    guided = evaluator.texts(spec, asked)
    assert evaluator.mentioned_share(guided, asked) > 0.9, guided
    assert evaluator.mentioned_share(["a dog", ""], [["dog"], ["cat"]]) == 0.5


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no finished run"):
        read_head(tmp_path)


def test_rows_without_captions_teach_no_head(world: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", [Row("0.png", "toy", "train", tags=("red",))])
    recipe = dataclasses.replace(RECIPE, start=str(world / "model"))
    with pytest.raises(AnytagError, match="no training photo has a caption"):
        train(Run(recipe, tmp_path / "rows.jsonl", tmp_path / "out", RUN_OPTIONS))
