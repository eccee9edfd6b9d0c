"""The caption head learns a toy world, a run goes on where it stopped, and what is shipped says the same."""

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
from anytag.data.rows import Row, write_rows
from anytag.models.folder import ModelFolder
from anytag.parsing import Parser
from anytag.text_encoders.wordpiece import WordPieces
from anytag.torch.training.caption_data import (
    CaptionCorpus,
    PhotoTokens,
    encode_tokens,
    tag_texts,
)
from anytag.torch.training.captions import SMALL, CaptionRecipe, CaptionStudent, CaptionTrainer, make_head
from anytag.torch.training.report import Reporter
from anytag.torch.training.values import parse_numbers
from anytag.torch.training.wordpieces import train_wordpieces
from anytag.vocabulary import Vocabulary
from scripts.release_captions import Judge, read_head, ship
from tests.tiny import make_tiny_model

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220), "white": (240, 240, 240)}
RECIPE = CaptionRecipe(
    steps=60, batch_size=16, rate=3e-3, warmup=5, ema=0.9, precision="no",
    head=dataclasses.replace(SMALL, words=120, layers=1, width=32, mlp=32, heads=2, tag_length=8),
)  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """rows.jsonl with photos of one colour each, and a tiny model beside it."""
    folder = tmp_path_factory.mktemp("world")
    rows = []
    for number in range(32):
        name = list(COLOURS)[number % 4]
        Image.new("RGB", (20, 20), COLOURS[name]).save(folder / f"{number}.png")
        captions = (f"A {name} dog on the beach .", f"The {name} cat .")
        split = "dev" if number >= 24 else "train"
        rows.append(Row(f"{number}.png", "toy", split, captions if number % 2 else captions[:1]))
    rows.append(Row("0.png", "toy", "train"))  # nobody said anything of it
    write_rows(folder / "rows.jsonl", rows)
    make_tiny_model(folder / "model")
    return folder


@pytest.fixture(scope="module")
def tokens(world: Path) -> PhotoTokens:
    return encode_tokens(
        world / "rows.jsonl", ModelFolder.open(world / "model"), world / "tokens", report=Reporter()
    )


@cache  # ids of equally frequent pieces differ from one training of them to the next; a run keeps its own
def wordpieces(world: Path) -> WordPieces:
    names = [tag.name for tag in Vocabulary.read(world / "model" / "vocabulary.jsonl")]
    captions = [f"a {name} dog on the beach the {name} cat" for name in COLOURS]
    return train_wordpieces(captions, names, size=120)


def make_corpus(world: Path, tokens: PhotoTokens, *, unguided: float = 0.35) -> CaptionCorpus:
    vocabulary = Vocabulary.read(world / "model" / "vocabulary.jsonl")
    return CaptionCorpus(tokens, vocabulary, wordpieces(world), tag_length=8, unguided=unguided, kept=1.0)


def make_trainer(
    world: Path, tokens: PhotoTokens, out: Path, *, recipe: CaptionRecipe = RECIPE
) -> CaptionTrainer:
    corpus = make_corpus(world, tokens)
    out.mkdir(exist_ok=True)
    student = CaptionStudent(make_head(recipe, corpus.pieces, tokens), smoothing=0.0)
    return CaptionTrainer(student, corpus, recipe, out)


def test_photos_with_captions_are_encoded_once(world: Path, tokens: PhotoTokens) -> None:
    assert len(tokens.photos) == 32
    assert tokens.place[:3].tolist() == [[0, 1], [1, 2], [3, 1]]  # two captions: plain and mirrored
    assert tokens(np.array([0, 5])).shape == (2, 16, 8)
    before = {file: file.stat().st_mtime_ns for file in (world / "tokens").iterdir()}
    folder = ModelFolder.open(world / "model")
    encode_tokens(world / "rows.jsonl", folder, world / "tokens", report=Reporter())
    changed = {file.name for file, time in before.items() if file.stat().st_mtime_ns != time}
    assert changed <= {"tokens.json"}
    other = world / "other.jsonl"
    write_rows(other, tokens.photos[:2])
    with pytest.raises(AnytagError, match="tokens of other rows"):
        encode_tokens(other, folder, world / "tokens", report=Reporter())


def test_a_batch_tells_tags_that_its_captions_name(world: Path, tokens: PhotoTokens) -> None:
    corpus = make_corpus(world, tokens, unguided=0.0)
    names = {
        name
        for pair in tag_texts(
            Parser(vocabulary=Vocabulary.read(world / "model" / "vocabulary.jsonl")),
            "A red dog on the beach .",
        )
        for name in pair
    }
    assert {"red", "dog", "beach"} <= names
    for batch in corpus.batches(0, batch_size=8, seed=0):
        assert batch.tokens.shape == (8, 16, 8)
        assert batch.guide.shape == (8, 8)
        for guide, text in zip(batch.guide.tolist(), batch.text.tolist(), strict=True):
            asked = set(corpus.pieces.decode(guide).replace("|", " ").split())
            assert asked
            assert asked <= set(corpus.pieces.decode(text).split())
    free = make_corpus(world, tokens, unguided=1.0)
    assert all((batch.guide[:, 2:] == 0).all() for batch in free.batches(0, batch_size=8, seed=0))


def test_an_epoch_shows_every_caption_in_an_order_of_its_own(world: Path, tokens: PhotoTokens) -> None:
    corpus = make_corpus(world, tokens)
    epochs = [[batch.text.tolist() for batch in corpus.batches(n, batch_size=4, seed=0)] for n in (0, 0, 1)]
    assert epochs[0] == epochs[1] != epochs[2]
    assert [b.text.tolist() for b in corpus.batches(0, batch_size=4, seed=0, start=3)] == epochs[0][3:]
    assert len(epochs[0]) == corpus.steps_per_epoch(4) == len(corpus.views) // 4


def test_a_run_that_is_killed_goes_on(world: Path, tokens: PhotoTokens, tmp_path: Path) -> None:
    short = dataclasses.replace(RECIPE, steps=8)
    make_trainer(world, tokens, tmp_path / "whole", recipe=short).run()
    broken = make_trainer(world, tokens, tmp_path / "broken", recipe=short)
    stream = broken.stream()
    for _ in range(5):
        broken._step(next(stream))
    broken.save()
    resumed = make_trainer(world, tokens, tmp_path / "broken", recipe=short)
    resumed.resume()
    resumed.run()
    whole, broken_off = (
        torch.load(tmp_path / name / "student.pt", weights_only=True) for name in ("whole", "broken")
    )
    assert whole.keys() == broken_off.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(broken_off[name], tensor, rtol=1e-3, atol=1e-5)


def test_it_learns_to_see_and_to_obey_and_is_shipped(
    world: Path, tokens: PhotoTokens, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    trainer = make_trainer(world, tokens, run, recipe=dataclasses.replace(RECIPE, steps=240))
    (run / "recipe.json").write_text(json.dumps(dataclasses.asdict(trainer.recipe)))
    (run / "vocab.txt").write_text("".join(f"{one}\n" for one in trainer.corpus.pieces.entries[:-2]))
    trainer.run()
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["plain"] < 0.5 * lines[0]["plain"]
    model = make_tiny_model(tmp_path / "model")
    ship(run, model)
    ModelFolder.open(model, verify=True)
    captioner = Captioner.load(model, device="cpu")
    dev = [row for row in tokens.photos if row.split == "dev"]
    judge = Judge(captioner, dev, world, batch=3)
    spec = dataclasses.replace(captioner.spec, min_length=2)
    texts = judge.texts(spec)
    seen = [row.captions[0].split()[1] in text.split() for row, text in zip(dev, texts, strict=True)]
    assert np.mean(seen) > 0.7, texts
    asked = [["cat"] if number % 2 else ["dog"] for number in range(len(dev))]
    guided = judge.texts(spec, asked)
    assert judge.obeyed(guided, asked) > 0.9, guided
    assert judge.obeyed(["a dog", ""], [["dog"], ["cat"]]) == 0.5


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no finished run"):
        read_head(tmp_path)


def test_numbers_of_the_head_are_numbers_of_the_recipe() -> None:
    recipe = parse_numbers(CaptionRecipe(), ["steps=7", "head.layers=2", "precision=no"])
    assert (recipe.steps, recipe.head.layers, recipe.precision) == (7, 2, "no")
