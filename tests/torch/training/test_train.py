"""`anytag.torch.training`, end to end with small parts: photos, cache, corpus, student, trainer.

The backbone and the teacher are the real ones, at 64 pixels; the photos are drawn here.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.numpy import save_file
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor, nn

from anytag.data.rows import Row, read_rows, write_rows
from anytag.errors import AnytagError, VocabularyError
from anytag.images import load, prepare
from anytag.models.folder import ModelFolder, write_card
from anytag.models.registry import EMBEDDED
from anytag.text_encoders.static import StaticTextEncoder, write_projection
from anytag.torch.checkpoints.load import DECODER, save_decoder
from anytag.torch.export.onnx_graphs import export_folder_graphs
from anytag.torch.export.static_int8.quantize import quantize_image_graph
from anytag.torch.nn.backbones import imagenet_backbone
from anytag.torch.nn.configs import NetworkConfig
from anytag.torch.training.beginning import ENCODER, start_from_classifier, start_from_folder
from anytag.torch.training.descriptions import read_descriptions
from anytag.torch.training.feature_cache import CacheConfig, build_cache
from anytag.torch.training.feature_dataset import Cache, Corpus
from anytag.torch.training.quantized import QuantizedGraph
from anytag.torch.training.soft_labels import ImageNetClasses
from anytag.torch.training.student import Batch, Student, fold_norms
from anytag.torch.training.train import (
    Recipe,
    Trainer,
    build_student,
    held_out_tags,
    sample,
)
from anytag.vocabulary import Tag, Vocabulary
from scripts.float_weights import read_weights
from scripts.release_mini import draft_card, pixels_of, write_queries

SIZE = 64
CONFIG = NetworkConfig(
    backbone="tf_efficientnet_lite0", size=SIZE, width=32, heads=4, text_hidden=16, memory=5
)


@dataclasses.dataclass(frozen=True)
class Saving(Recipe):
    """Writes its state after every step."""

    save_minutes: float = 0.0


RECIPE = Saving(steps=6, batch_size=8, tags=60, warmup=2)
COLOURS = {"red": (220, 30, 30), "green": (30, 180, 40), "blue": (30, 40, 220), "yellow": (240, 220, 30)}
SHAPES = ("ball", "box", "kite")
WORDS = [
    *(Tag(shape, shape, "object", parents=("toy",)) for shape in SHAPES),
    *(Tag(colour, colour, "attribute") for colour in COLOURS),
    *(Tag(name, name, "scene") for name in ("beach", "field")),
    *(Tag(name, name, "object") for name in ("toy", "sky", "dog")),
]


def draw(path: Path, shape: str, colour: str, *, ground: str) -> None:
    picture = Image.new("RGB", (96, 72), {"beach": (230, 210, 160), "field": (110, 170, 80)}[ground])
    pencil = ImageDraw.Draw(picture)
    pencil.rectangle((0, 0, 96, 24), fill=(150, 200, 250))
    if shape == "ball":
        pencil.ellipse((30, 20, 66, 56), fill=COLOURS[colour])
    else:
        pencil.regular_polygon((48, 38, 20), 4, rotation=45 * (shape == "kite"), fill=COLOURS[colour])
    picture.save(path, quality=90)


def write_photos(folder: Path) -> Path:
    """24 photos, every shape in every colour on two grounds; returns their rows.jsonl."""
    rows = []
    for number in range(24):
        shape, colour = SHAPES[number % 3], list(COLOURS)[number // 3 % 4]
        ground = ("beach", "field")[number // 12]
        draw(folder / f"{number}.jpg", shape, colour, ground=ground)
        captions = (f"A {colour} {shape} on the {ground}.", f"There is a {shape} under the sky.")
        split = "dev" if number % 6 == 5 else "train"
        rows.append(Row(f"{number}.jpg", "drawn", split, captions, (shape,), ("dog",)))
    write_rows(folder / "rows.jsonl", rows)
    return folder / "rows.jsonl"


def write_vocabulary(folder: Path) -> Path:
    """A dozen tags beside the thousand that the classifier must have."""
    info = ImageNetInfo()
    names = [info.index_to_description(number).split(",")[0] for number in range(1000)]
    classes = [Tag(f"class-{number}", name, "object") for number, name in enumerate(names)]
    tags = [*WORDS, *classes]
    Vocabulary(tags).write(folder / "vocabulary.jsonl")
    lines = [json.dumps({"id": tag.id, "descriptions": [f"a drawing of a {tag.name}"]}) for tag in tags]
    (folder / "descriptions.jsonl").write_text("\n".join(lines))
    fields = {
        "classes": [tag.id for tag in classes],
        "below": {"ball": [429, 430], "dog": list(range(151, 269))},
    }
    (folder / "imagenet.json").write_text(json.dumps(fields))
    return folder


@dataclasses.dataclass(frozen=True)
class Parts:
    """Everything that a run reads."""

    cache: CacheConfig
    vocabulary: Path

    def corpus(self, **options: Any) -> Corpus:
        vocabulary = Vocabulary.read(self.vocabulary / "vocabulary.jsonl")
        classes = ImageNetClasses.read(self.vocabulary / "imagenet.json", vocabulary)
        encoder = StaticTextEncoder.from_folder(EMBEDDED / "text")
        cache = Cache.read(self.cache.out)
        return Corpus(
            self.cache.rows, cache, vocabulary=vocabulary, classes=classes, encoder=encoder, **options
        )


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small parts are slower with more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    photos, vocabulary = tmp_path_factory.mktemp("photos"), tmp_path_factory.mktemp("vocabulary")
    backbone = "tf_efficientnet_lite0"  # a larger teacher teaches no more here
    config = CacheConfig(
        write_photos(photos), photos / "cache", {"drawn": 3}, backbone, SIZE, teacher=backbone
    )
    build_cache(config, workers=1)
    return Parts(config, write_vocabulary(vocabulary))


@pytest.fixture(scope="module")
def corpus(parts: Parts) -> Corpus:
    return parts.corpus()


@pytest.fixture(scope="module")
def built(parts: Parts) -> tuple[Student, nn.Linear]:
    torch.manual_seed(0)
    return build_student(parts.vocabulary, RECIPE, config=CONFIG)


@pytest.fixture
def student(built: tuple[Student, nn.Linear]) -> Student:
    """An untrained student of the test's own, always with the same weights."""
    return copy.deepcopy(built[0])


def batch_of(corpus: Corpus) -> Batch:
    return next(corpus.batches(0, batch_size=8, tags=60, seed=0))


def test_cache_holds_three_views_of_a_training_photo_and_one_of_others(parts: Parts) -> None:
    cache = Cache.read(parts.cache.out)
    assert cache.features.shape == (20 * 3 + 4, 80, 4, 4)
    assert cache.logits.shape == (24, 1000)
    for number, row in enumerate(read_rows(parts.cache.rows)):
        views = [0, 1, 2] if row.split == "train" else [0]
        assert cache.view[cache.row == number].tolist() == views


def test_cached_features_are_what_the_network_computes(parts: Parts) -> None:
    cache = Cache.read(parts.cache.out)
    photo = load(parts.cache.rows.parent / "0.jpg", near=SIZE)
    pixels = torch.from_numpy(prepare(photo, size=SIZE))[None].float()
    backbone, _ = imagenet_backbone(CONFIG.backbone, size=SIZE)
    with torch.no_grad():
        features = backbone((pixels - 127) / 128, 0, 5)[0].numpy()
    (at,) = np.flatnonzero((cache.row == 0) & (cache.view == 0))
    assert np.abs(features - cache.features[at]).max() < 0.01 * np.abs(features).max()


def test_cache_is_not_written_twice_and_never_mixed(parts: Parts) -> None:
    shard = parts.cache.out / "shard-0000.npz"
    written = shard.stat().st_mtime_ns
    build_cache(parts.cache, workers=1)
    assert shard.stat().st_mtime_ns == written
    with pytest.raises(AnytagError, match="name an empty folder"):
        build_cache(dataclasses.replace(parts.cache, views={"drawn": 2}), workers=1)


def test_corpus_rejects_rows_that_were_not_cached(parts: Parts, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", read_rows(parts.cache.rows)[:-1])
    cache = dataclasses.replace(parts.cache, rows=tmp_path / "rows.jsonl")
    with pytest.raises(AnytagError, match="23 rows, but the cache is of 24"):
        dataclasses.replace(parts, cache=cache).corpus()


def test_no_cache_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(AnytagError, match=r"python -m anytag\.torch\.training\.feature_cache"):
        Cache.read(tmp_path)


def test_beliefs_follow_what_people_said(corpus: Corpus) -> None:
    at = [tag.id for tag in WORDS].index
    belief, weight = corpus.beliefs(np.array([0]))  # a red ball on the beach
    assert [belief[0, at(key)].item() for key in ("ball", "toy", "dog")] == [1, 1, 0]
    assert (weight[0, [at("ball"), at("dog")]] == 1).all()


def test_two_corpora_are_equal(parts: Parts) -> None:
    """A resumed run, and each process of a distributed one, makes its own."""
    photos, both = np.arange(4), (parts.corpus(), parts.corpus())
    for corpus in both:
        corpus.learn_probes()
    assert all(map(torch.equal, *(corpus.beliefs(photos) for corpus in both)))


def test_held_out_tags_are_not_supervised(parts: Parts) -> None:
    held_out = held_out_tags(1012, 0.2)
    assert held_out is not None and len(held_out) == 202
    corpus = parts.corpus(held_out=np.array([0]))  # ball
    _, weight = corpus.beliefs(np.arange(4))
    assert not weight[:, 0].any() and weight[:, 1].all()
    first, last = corpus.caption_range[0]  # both of its captions speak of the ball
    assert first == last


def test_batches_go_on_where_they_stopped(corpus: Corpus) -> None:
    whole = list(corpus.batches(1, batch_size=8, tags=60, seed=0))
    rest = list(corpus.batches(1, batch_size=8, tags=60, seed=0, start=5))
    assert len(whole) == 7 and len(rest) == 2
    for a, b in zip(whole[5:], rest, strict=True):
        assert all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(Batch))


def test_descriptions_of_every_tag_are_needed(parts: Parts, tmp_path: Path) -> None:
    vocabulary = Vocabulary.read(parts.vocabulary / "vocabulary.jsonl")
    (tmp_path / "some.jsonl").write_text('{"id": "ball", "descriptions": ["a round toy"]}')
    with pytest.raises(VocabularyError, match=r"no descriptions of box, .* \(1011 tags in all\)"):
        read_descriptions(tmp_path / "some.jsonl", vocabulary)
    for line in ('{"image": "1.jpg"}', "[1]", "{", '{"id": "ball", "descriptions": "a round toy"}'):
        (tmp_path / "other.jsonl").write_text(line)
        with pytest.raises(VocabularyError, match=r"other\.jsonl, line 1: expected .*anytag describe"):
            read_descriptions(tmp_path / "other.jsonl", vocabulary)
    with pytest.raises(AnytagError, match=r"gone\.jsonl cannot be read"):
        read_descriptions(tmp_path / "gone.jsonl", vocabulary)


def test_folded_norms_change_nothing() -> None:
    backbone, _ = imagenet_backbone(CONFIG.backbone, size=SIZE)
    pixels = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = backbone(pixels)
        fold_norms(backbone)
        after = backbone(pixels)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in backbone.modules())
    assert torch.allclose(before, after, atol=1e-3)


def test_start_centres_and_scales_the_tokens(
    built: tuple[Student, nn.Linear], student: Student, corpus: Corpus
) -> None:
    views = sample(corpus)
    start_from_classifier(student, built[1], views.features)
    with torch.no_grad():
        _, pooled = student.network.encoder.from_stage(views.features, RECIPE.first, views.memory)
        again = student.network.encoder.from_stage(views.features, RECIPE.first)[1]
    assert torch.allclose(pooled, again, atol=0.02)  # float16 in the cache
    assert torch.allclose(pooled.mean(0), torch.zeros(32), atol=1e-3)
    assert torch.allclose(pooled.std(0), torch.ones(32), atol=1e-3)
    assert student.queries.residual[len(WORDS) :].any() and not student.queries.residual[: len(WORDS)].any()


def test_start_at_a_folder(
    parts: Parts, built: tuple[Student, nn.Linear], corpus: Corpus, tmp_path: Path
) -> None:
    """A student, shipped in int8 and read back, answers as before."""
    first, other = (build_student(parts.vocabulary, RECIPE, config=CONFIG)[0].eval() for _ in range(2))
    views = sample(corpus)
    start_from_classifier(first, built[1], views.features)
    nn.init.normal_(first.network.folded.key.weight, std=0.1)
    nn.init.constant_(first.network.folded.reweight_scale, 0.5)  # a factor of 1 would be no node of the graph
    folder = ship_graphs(first, corpus, tmp_path / "model")
    start_from_folder(other, folder, vocabulary=corpus.vocabulary, classifier=built[1], memory=views.memory)
    with torch.no_grad():
        answers = []
        for student in (first, other):
            tokens, pooled = student.network.encoder.from_stage(views.features, RECIPE.first, views.memory)
            answers.append(student.network.decoder(tokens, pooled, student.queries()[None]))
    assert torch.corrcoef(torch.stack([a.flatten() for a in answers]))[0, 1] > 0.99


def ship_graphs(student: Student, corpus: Corpus, out: Path) -> ModelFolder:
    """What `scripts.release_mini` writes of a network, its queries and words; and the floats."""
    shutil.copytree(EMBEDDED / "text", out / "text")
    export_folder_graphs(student.network, out)
    pixels = pixels_of(corpus.rows, corpus.root, SIZE)
    quantize_image_graph(out / "image.onnx", out / "image.onnx", pixels)
    save_decoder(student.network.folded, out / DECODER)
    weights = read_weights(QuantizedGraph(out / "image.onnx"), student.network.encoder.backbone)
    save_file(weights, out / ENCODER)
    write_queries(student, out / "queries.safetensors")
    write_projection(student.queries.projection.arrays(), out / "text")
    corpus.vocabulary.write(out / "vocabulary.jsonl")
    write_card(out, draft_card(student))
    return ModelFolder.open(out)


def terms_of(student: Student, batch: Batch) -> dict[str, Tensor]:
    torch.manual_seed(1)  # the same descriptions and residuals are dropped
    with torch.no_grad():
        return dict(student(batch))


def test_photos_of_one_caption_are_no_negatives(student: Student, corpus: Corpus) -> None:
    """All photos told alike: nothing of the alignment asks for a low logit."""
    batch = batch_of(corpus)
    alike = dataclasses.replace(batch, captions=batch.captions[:1].expand(8, -1))
    with torch.no_grad():
        student.network.folded.bias.bias.fill_(50.0)  # every logit is high
    assert terms_of(student, alike)["alignment"].item() == pytest.approx(0, abs=1e-3)
    assert terms_of(student, batch)["alignment"].item() > 1


def test_untold_photos_have_no_alignment(student: Student, corpus: Corpus) -> None:
    batch = batch_of(corpus)
    untold = dataclasses.replace(batch, captions=torch.zeros_like(batch.captions))
    assert terms_of(student, untold)["alignment"].item() == 0


def test_teacher_is_silent_where_no_class_is_looked_at(student: Student, corpus: Corpus) -> None:
    batch = dataclasses.replace(batch_of(corpus), tags=torch.arange(len(WORDS)))
    assert terms_of(student, batch)["distillation"].isfinite()


def test_shares_of_two_processes_make_the_whole(student: Student, corpus: Corpus, tmp_path: Path) -> None:
    batch = batch_of(corpus)
    trainer = Trainer(student, corpus, RECIPE, tmp_path)
    halves = []
    for rank in range(2):
        device = torch.device("cpu")
        trainer.accelerator = SimpleNamespace(process_index=rank, num_processes=2, device=device)
        halves.append(trainer._share(batch))
    assert all(torch.equal(half.tags, batch.tags) and len(half.features) == 4 for half in halves)
    whole, a, b = (terms_of(student, part) for part in (batch, *halves))
    for name in ("tag", "coarse", "distillation"):  # captions are each other's negatives in a share only
        assert ((a[name] + b[name]) / 2).item() == pytest.approx(whole[name].item(), rel=1e-4)


class Killed(Trainer):
    """Dies before its fourth step."""

    def _step(self, batch: Any) -> dict[str, Tensor]:
        if self.step == 3:
            raise KeyboardInterrupt
        return super()._step(batch)


def test_interrupted_run_ends_where_an_uninterrupted_one_does(
    parts: Parts, student: Student, corpus: Corpus, tmp_path: Path
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    Trainer(copy.deepcopy(student), corpus, RECIPE, whole).run()
    with pytest.raises(KeyboardInterrupt):
        Killed(copy.deepcopy(student), corpus, RECIPE, broken).run()
    other = copy.deepcopy(student)
    for parameter in other.parameters():
        nn.init.constant_(parameter, 0.5)  # of all this nothing must be left
    resumed = Trainer(other, parts.corpus(), RECIPE, broken)
    resumed.resume()
    assert resumed.step == 3
    resumed.run()
    expected, found = (torch.load(folder / "student.pt", weights_only=True) for folder in (whole, broken))
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    trained = {name for name, p in student.named_parameters() if p.requires_grad}
    moved = {name for name, tensor in student.state_dict().items() if not torch.equal(tensor, expected[name])}
    assert moved <= trained and len(moved) > 0.8 * len(trained)


def test_loss_falls(student: Student, corpus: Corpus, tmp_path: Path) -> None:
    before = terms_of(student, batch_of(corpus))["tag"]
    Trainer(student, corpus, dataclasses.replace(RECIPE, steps=20), tmp_path).run()
    assert terms_of(student, batch_of(corpus))["tag"] < 0.8 * before
    line = json.loads((tmp_path / "log.jsonl").read_text())
    assert line["step"] == 20 and {"tag", "coarse", "alignment", "distillation", "loss"} <= line.keys()


def test_a_state_of_another_recipe_is_refused(student: Student, corpus: Corpus, tmp_path: Path) -> None:
    Trainer(student, corpus, dataclasses.replace(RECIPE, steps=1), tmp_path).run()
    weights = dataclasses.replace(RECIPE.weights, tag=2.0)
    other = Trainer(student, corpus, dataclasses.replace(RECIPE, head_lr=1e-4, weights=weights), tmp_path)
    with pytest.raises(AnytagError, match=r"\(head_lr=0\.0001, was 0\.0015; weights\.tag=2\.0, was 1\.0\)"):
        other.resume()
    longer = Trainer(student, corpus, RECIPE, tmp_path)
    longer.resume()
    assert longer.step == 1


def test_a_state_without_a_recipe_is_refused(student: Student, corpus: Corpus, tmp_path: Path) -> None:
    trainer = Trainer(student, corpus, RECIPE, tmp_path)
    trainer.save()
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    del state["recipe"]
    torch.save(state, tmp_path / "state.pt")
    with pytest.raises(AnytagError, match="first=5, was None"):
        trainer.resume()


def test_a_loss_that_is_not_finite_ends_the_run(student: Student, corpus: Corpus, tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, head_lr=1e30)
    with pytest.raises(AnytagError, match=r"step [45]: 5 steps in a row without .* with lower"):
        Trainer(student, corpus, recipe, tmp_path).run()


def test_too_few_views_for_a_batch(student: Student, corpus: Corpus, tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, batch_size=64)
    with pytest.raises(AnytagError, match="60 photos to train on make no batch of 64: give batch_size=60"):
        Trainer(student, corpus, recipe, tmp_path).run()
