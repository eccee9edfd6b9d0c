"""`anytag.torch.training`, end to end with small parts: photos, cache, samples, student, trainer.

The backbone and the teacher are the real ones, at 64 pixels; the photos are drawn here.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.numpy import save_file
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor, nn

from anytag.data.descriptions import read_descriptions
from anytag.data.rows import Row, read_rows, write_rows
from anytag.errors import AnytagError, VocabularyError
from anytag.images import load, prepare
from anytag.models.folder import ModelFolder, write_card
from anytag.models.registry import EMBEDDED
from anytag.text_encoders.static import write_projection
from anytag.torch.checkpoints.load import DECODER, save_decoder
from anytag.torch.export.onnx_graphs import export_folder_graphs
from anytag.torch.export.static_int8.quantize import quantize_image_graph
from anytag.torch.nn.backbones import fold_norms, imagenet_backbone
from anytag.torch.nn.configs import EvidenceConfig, NetworkConfig
from anytag.torch.training.batch import Batch
from anytag.torch.training.feature_cache import open_cache
from anytag.torch.training.feature_dataset import FeatureDataset
from anytag.torch.training.fit import prepare as prepare_run
from anytag.torch.training.fit import train
from anytag.torch.training.frozen_stages import cache_stages
from anytag.torch.training.mini import build_student, held_out_tags, sample
from anytag.torch.training.mini_init import ENCODER, start_from_classifier, start_from_folder
from anytag.torch.training.quantized_graph import QuantizedGraph
from anytag.torch.training.recipes import Recipe, find, read_recipe
from anytag.torch.training.report import Reporter
from anytag.torch.training.run import Run, RunOptions
from anytag.torch.training.student import Student
from anytag.torch.training.tag_samples import StageFeatures, TagSamples
from anytag.torch.training.trainer import Trainer
from anytag.vocabulary import Tag, Vocabulary
from scripts.float_weights import read_weights
from scripts.release_mini import draft_card, pixels_of, write_queries

SIZE = 64
CONFIG = NetworkConfig(backbone="tf_efficientnet_lite0", size=SIZE, width=32, heads=4, text_hidden=16)


SAVING = RunOptions(save_minutes=0.0, tensorboard=False)
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
    """A dozen tags in addition to the classifier's thousand classes."""
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


def recipe_of(vocabulary: Path, **changes: Any) -> Recipe:
    """`mini`, tiny."""
    made = find("mini")
    assert made.features is not None
    features = dataclasses.replace(made.features, views="drawn=3")
    return dataclasses.replace(
        made, network=CONFIG, features=features, steps=6, batch_size=8, sampled_tags=60, warmup=2,
        teacher="tf_efficientnet_lite0", vocabulary=str(vocabulary), **changes,
    )  # fmt: skip  # a larger teacher teaches no more here


@dataclasses.dataclass(frozen=True)
class Parts:
    """The inputs of a run."""

    rows: Path
    recipe: Recipe

    @property
    def cache(self) -> Path:
        return self.rows.parent / "cache"

    def features(self) -> StageFeatures:
        return StageFeatures.of(open_cache(self.cache))

    def samples(self, **options: Any) -> TagSamples:
        options = {"sampled": 60, **options}
        return TagSamples.read(self.rows, self.features(), Path(self.recipe.vocabulary), **options)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    photos, vocabulary = tmp_path_factory.mktemp("photos"), tmp_path_factory.mktemp("vocabulary")
    made = Parts(write_photos(photos), recipe_of(write_vocabulary(vocabulary)))
    cache_stages(made.rows, made.recipe, made.cache, report=Reporter())
    return made


@pytest.fixture(scope="module")
def samples(parts: Parts) -> TagSamples:
    return parts.samples()


@pytest.fixture(scope="module")
def built(parts: Parts) -> tuple[Student, nn.Linear]:
    torch.manual_seed(0)
    return build_student(parts.recipe)


@pytest.fixture
def student(built: tuple[Student, nn.Linear]) -> Student:
    """An untrained student with fixed weights."""
    return copy.deepcopy(built[0])


def dataset_of(samples: TagSamples, **options: int) -> FeatureDataset:
    return FeatureDataset(samples, **{"batch_size": 8, "seed": 0, **options})


def trainer_of(student: Student, samples: TagSamples, recipe: Recipe, out: Path) -> Trainer:
    dataset = dataset_of(samples, batch_size=recipe.batch_size)
    return Trainer(student, dataset, recipe, out, run_options=SAVING)


def batch_of(samples: TagSamples) -> Batch:
    return next(dataset_of(samples).stream(0, 1))


@pytest.mark.parametrize("wrong", ["drawn=0", "drawn=-1", "drawn=2,other=0", "drawn", "drawn=x"])
def test_views_are_numbers_from_one(parts: Parts, tmp_path: Path, wrong: str) -> None:
    assert parts.recipe.features is not None
    recipe = dataclasses.replace(
        parts.recipe, features=dataclasses.replace(parts.recipe.features, views=wrong)
    )
    with pytest.raises(AnytagError, match="expected one view or more"):
        cache_stages(parts.rows, recipe, tmp_path / "cache", report=Reporter())


def test_cache_holds_three_views_of_a_training_photo_and_one_of_others(parts: Parts) -> None:
    cache = parts.features()
    assert cache.features.shape == (20 * 3 + 4, 80, 4, 4)
    assert cache.logits.shape == (24, 1000)
    for number, row in enumerate(read_rows(parts.rows)):
        views = [0, 1, 2] if row.split == "train" else [0]
        assert cache.view[cache.row == number].tolist() == views


def test_cached_features_are_what_the_network_computes(parts: Parts) -> None:
    cache = parts.features()
    photo = load(parts.rows.parent / "0.jpg", min_side=SIZE)
    pixels = torch.from_numpy(prepare(photo, size=SIZE))[None].float()
    backbone, _ = imagenet_backbone(CONFIG.backbone, size=SIZE)
    with torch.no_grad():
        features = backbone((pixels - 127) / 128, 0, 5)[0].numpy()
    (at,) = np.flatnonzero((cache.row == 0) & (cache.view == 0))
    assert np.abs(features - cache.features[at]).max() < 0.01 * np.abs(features).max()


def test_cache_is_not_written_twice_and_never_mixed(parts: Parts) -> None:
    shard = parts.cache / "shard-0000" / "features.npy"
    written = shard.stat().st_mtime_ns
    cache_stages(parts.rows, parts.recipe, parts.cache, report=Reporter())
    assert shard.stat().st_mtime_ns == written
    assert parts.recipe.features is not None
    other = dataclasses.replace(parts.recipe.features, views="drawn=2")
    with pytest.raises(AnytagError, match="give an empty folder"):
        cache_stages(
            parts.rows, dataclasses.replace(parts.recipe, features=other), parts.cache, report=Reporter()
        )


def test_a_cache_of_other_photos_of_the_same_names_is_refused(parts: Parts, tmp_path: Path) -> None:
    for place in (parts.rows, *parts.rows.parent.glob("*.jpg")):
        shutil.copy2(place, tmp_path)
    rows, cache, shard = tmp_path / "rows.jsonl", tmp_path / "cache", tmp_path / "cache" / "shard-0000"
    shutil.copytree(parts.cache, cache)
    cache_stages(rows, parts.recipe, cache, report=Reporter())
    (shard / "file.npy").unlink()  # as of older versions, which are accepted once
    cache_stages(rows, parts.recipe, cache, report=Reporter())
    (tmp_path / "1.jpg").unlink()
    cache_stages(rows, parts.recipe, cache, report=Reporter())  # all that is needed of it is cached
    draw(tmp_path / "0.jpg", "kite", "blue", ground="field")
    with pytest.raises(AnytagError, match=r"other photos: .*0\.jpg has changed since; .*remove shard-0000"):
        cache_stages(rows, parts.recipe, cache, report=Reporter())


def test_samples_reject_rows_that_were_not_cached(parts: Parts, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", read_rows(parts.rows)[:-1])
    with pytest.raises(AnytagError, match="23 rows, but the cache has 24"):
        TagSamples.read(tmp_path / "rows.jsonl", parts.features(), Path(parts.recipe.vocabulary))


def test_no_cache_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(AnytagError, match="anytag train mini --cache"):
        open_cache(tmp_path)


def test_the_run_caches_trains_and_goes_on(parts: Parts, tmp_path: Path) -> None:
    """As in `anytag train mini`: missing features are computed."""
    recipe = dataclasses.replace(parts.recipe, steps=2)
    run = Run(recipe, parts.rows, tmp_path / "out", SAVING)
    assert train(run) == tmp_path / "out" / "student.pt"
    assert read_recipe(tmp_path / "out" / "recipe.json") == recipe
    shard = tmp_path / "out" / "cache" / "shard-0000" / "features.npy"
    written = shard.stat().st_mtime_ns
    train(dataclasses.replace(run, recipe=dataclasses.replace(recipe, steps=3)))
    lines = (tmp_path / "out" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 3]
    assert shard.stat().st_mtime_ns == written
    with pytest.raises(AnytagError, match="give --vocabulary FOLDER"):
        train(dataclasses.replace(run, recipe=dataclasses.replace(recipe, vocabulary="")))


def test_other_labels_of_the_same_photos_are_refused(parts: Parts, tmp_path: Path) -> None:
    tags = tmp_path / "vocabulary"
    shutil.copytree(parts.recipe.vocabulary, tags)
    recipe = dataclasses.replace(parts.recipe, vocabulary=str(tags))
    run = Run(recipe, parts.rows, tmp_path / "out", SAVING, cache=parts.cache)
    prepare_run(run, Reporter()).save()
    (tags / "descriptions.jsonl").write_text((tags / "descriptions.jsonl").read_text().replace("a d", "D"))
    other = [dataclasses.replace(row, tags=("dog",), absent=()) for row in read_rows(parts.rows)]
    relabelled = parts.rows.with_name("relabelled.jsonl")
    write_rows(relabelled, other)
    trainer = prepare_run(dataclasses.replace(run, data=relabelled), Reporter())
    with pytest.raises(AnytagError, match="contents of vocabulary=, contents of --data have changed since"):
        trainer.resume()


def test_beliefs_follow_what_people_said(samples: TagSamples) -> None:
    at = [tag.id for tag in WORDS].index
    target, weight = samples.soft_targets(np.array([0]))  # a red ball on the beach
    assert [target[0, at(key)].item() for key in ("ball", "toy", "dog")] == [1, 1, 0]
    assert (weight[0, [at("ball"), at("dog")]] == 1).all()


def test_two_sets_of_samples_are_equal(parts: Parts) -> None:
    """A resumed run, and each process of a distributed one, trains its own probes."""
    photos, both = np.arange(4), (parts.samples(), parts.samples())
    for samples in both:
        samples.train_probes()
    assert all(map(torch.equal, *(samples.soft_targets(photos) for samples in both)))


def test_held_out_tags_are_not_supervised(parts: Parts) -> None:
    held_out = held_out_tags(1012, 0.2)
    assert held_out is not None and len(held_out) == 202
    samples = parts.samples(held_out=np.array([0]))  # ball
    _, weight = samples.soft_targets(np.arange(4))
    assert not weight[:, 0].any() and weight[:, 1].all()
    first, last = samples.caption_range[0]  # both captions mention the ball
    assert first == last


def test_batches_go_on_where_they_stopped(samples: TagSamples) -> None:
    whole, rest = (list(dataset_of(samples).stream(first, 14)) for first in (7, 12))
    assert len(whole) == 7 and len(rest) == 2
    assert dataset_of(samples).steps_per_epoch() == 7
    for a, b in zip(whole[5:], rest, strict=True):
        assert all(torch.equal(tensor, b.tensors()[name]) for name, tensor in a.tensors().items())


def test_descriptions_of_every_tag_are_needed(parts: Parts, tmp_path: Path) -> None:
    vocabulary = Vocabulary.read(Path(parts.recipe.vocabulary) / "vocabulary.jsonl")
    (tmp_path / "some.jsonl").write_text('{"id": "ball", "descriptions": ["a round toy"]}')
    with pytest.raises(VocabularyError, match=r"no descriptions for box, .* \(1011 tags in all\)"):
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
    built: tuple[Student, nn.Linear], student: Student, samples: TagSamples
) -> None:
    features = sample(samples)
    start_from_classifier(student, built[1], features)
    with torch.no_grad():
        pooled = student.encode(features).pooled
    assert torch.allclose(pooled.mean(0), torch.zeros(32), atol=1e-3)
    assert torch.allclose(pooled.std(0), torch.ones(32), atol=1e-3)
    assert student.queries.residual[len(WORDS) :].any() and not student.queries.residual[: len(WORDS)].any()


@pytest.fixture(scope="module")
def shipped(
    parts: Parts,
    built: tuple[Student, nn.Linear],
    samples: TagSamples,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Student, ModelFolder]:
    """A student that knows the classes, and its folder in int8."""
    first = build_student(parts.recipe)[0].eval()
    start_from_classifier(first, built[1], sample(samples))
    nn.init.normal_(first.network.folded.key.weight, std=0.1)
    nn.init.constant_(
        first.network.folded.reweight_scale, 0.5
    )  # with a factor of 1 the graph would lack the node
    return first, ship_graphs(first, samples, tmp_path_factory.mktemp("shipped") / "model")


def test_start_at_a_folder(parts: Parts, samples: TagSamples, shipped: tuple[Student, ModelFolder]) -> None:
    """A student that is exported in int8 and loaded again gives the same scores."""
    first, folder = shipped
    other = build_student(parts.recipe)[0].eval()
    features = sample(samples)
    start_from_folder(other, folder, vocabulary=samples.vocabulary)
    with torch.no_grad():
        answers = []
        for student in (first, other):
            tokens, pooled = student.network.encoder.from_stage(features, student.first)
            answers.append(student.network.decoder(tokens, pooled, student.queries()[None]))
    assert torch.corrcoef(torch.stack([a.flatten() for a in answers]))[0, 1] > 0.99


def ship_graphs(student: Student, samples: TagSamples, out: Path) -> ModelFolder:
    """A folder as `scripts.release_mini` writes it, with float weights."""
    shutil.copytree(EMBEDDED / "text", out / "text")
    export_folder_graphs(student.network, out)
    pixels = pixels_of(samples.rows, samples.root, SIZE)
    quantize_image_graph(out / "image.onnx", out / "image.onnx", pixels)
    save_decoder(student.network.folded, out / DECODER)
    evidence, graph = student.network.encoder.evidence, QuantizedGraph(out / "image.onnx")
    names = np.zeros((0, 0)) if evidence is None else evidence.names.numpy()
    weights = read_weights(graph, student.network.encoder.backbone, names)
    save_file(weights, out / ENCODER)
    write_queries(student, out / "queries.safetensors")
    write_projection(student.queries.projection.arrays(), out / "text")
    samples.vocabulary.write(out / "vocabulary.jsonl")
    write_card(out, draft_card(student))
    return ModelFolder.open(out)


def terms_of(student: Student, batch: Batch) -> dict[str, Tensor]:
    torch.manual_seed(1)  # the same descriptions and residuals are dropped
    with torch.no_grad():
        return dict(student(batch))


def test_photos_of_one_caption_are_no_negatives(student: Student, samples: TagSamples) -> None:
    """All photos have the same caption: the alignment term demands no low logit."""
    batch = batch_of(samples)
    assert batch.texts is not None
    alike = dataclasses.replace(batch, texts=batch.texts[:1].expand(8, -1))
    with torch.no_grad():
        student.network.folded.bias.bias.fill_(50.0)  # every logit is high
    assert terms_of(student, alike)["alignment"].item() == pytest.approx(0, abs=1e-3)
    assert terms_of(student, batch)["alignment"].item() > 1


def test_untold_photos_have_no_alignment(student: Student, samples: TagSamples) -> None:
    batch = batch_of(samples)
    assert batch.texts is not None
    untold = dataclasses.replace(batch, texts=torch.zeros_like(batch.texts))
    assert terms_of(student, untold)["alignment"].item() == 0


def test_teacher_is_silent_where_no_class_is_looked_at(student: Student, samples: TagSamples) -> None:
    batch = dataclasses.replace(batch_of(samples), columns=torch.arange(len(WORDS)))
    assert terms_of(student, batch)["distillation"].isfinite()


def test_the_classifier_of_the_evidence_is_distilled(parts: Parts, samples: TagSamples) -> None:
    """A step of the distillation alone lowers its loss, and changes the classifier."""
    network = dataclasses.replace(CONFIG, evidence=EvidenceConfig())
    student = build_student(dataclasses.replace(parts.recipe, network=network))[0]
    classifier = student.network.encoder.evidence.classifier
    with torch.no_grad():
        classifier.bias.normal_()
    batch = batch_of(samples)
    torch.manual_seed(1)
    before = student(batch)["distillation"]
    before.backward()
    assert classifier.bias.grad.abs().sum() > 0
    with torch.no_grad():
        classifier.bias -= 10 * classifier.bias.grad
    assert terms_of(student, batch)["distillation"] < before


def test_shares_of_two_processes_make_the_whole(student: Student, samples: TagSamples) -> None:
    batch = batch_of(samples)
    halves = [next(dataset_of(samples, rank=rank, world=2).stream(0, 1)) for rank in range(2)]
    assert batch.columns is not None
    for half in halves:
        assert half.columns is not None and torch.equal(half.columns, batch.columns)
        assert half.features is not None and len(half.features) == 4
    whole, a, b = (terms_of(student, part) for part in (batch, *halves))
    for name in ("tag", "coarse", "distillation"):  # captions are negatives within one process only
        assert ((a[name] + b[name]) / 2).item() == pytest.approx(whole[name].item(), rel=1e-4)


def test_means_of_features_teach_the_first_pass_alone(student: Student, samples: TagSamples) -> None:
    """As for version 4 of `mini`: no stage is trained, and only pooled features are cached."""
    batch = batch_of(samples)
    assert batch.features is not None
    with torch.no_grad():
        late = student.network.encoder.backbone(batch.features, student.first).mean((2, 3))
    means = terms_of(student, dataclasses.replace(batch, features=late))
    assert set(means) == {"coarse", "subject", "distillation", "alignment", "contrast", "loss"}
    assert means["coarse"].item() == pytest.approx(terms_of(student, batch)["coarse"].item(), rel=0.2)


class Killed(Trainer):
    """Dies before its fourth step."""

    def _step(self, batch: Any) -> dict[str, Tensor]:
        if self.step == 3:
            raise KeyboardInterrupt
        return super()._step(batch)


def test_interrupted_run_ends_where_an_uninterrupted_one_does(
    parts: Parts, student: Student, samples: TagSamples, tmp_path: Path
) -> None:
    whole, broken, recipe = tmp_path / "whole", tmp_path / "broken", parts.recipe
    whole.mkdir()
    broken.mkdir()
    trainer_of(copy.deepcopy(student), samples, recipe, whole).fit()
    with pytest.raises(KeyboardInterrupt):
        Killed(copy.deepcopy(student), dataset_of(samples), recipe, broken, run_options=SAVING).fit()
    other = copy.deepcopy(student)
    for parameter in other.parameters():
        nn.init.constant_(parameter, 0.5)  # must be overwritten
    resumed = trainer_of(other, parts.samples(), recipe, broken)
    resumed.resume()
    assert resumed.step == 3
    resumed.fit()
    expected, found = (torch.load(folder / "student.pt", weights_only=True) for folder in (whole, broken))
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    trained = {name for name, p in student.named_parameters() if p.requires_grad}
    moved = {name for name, tensor in student.state_dict().items() if not torch.equal(tensor, expected[name])}
    assert moved <= trained and len(moved) > 0.8 * len(trained)


def test_loss_falls(student: Student, samples: TagSamples, parts: Parts, tmp_path: Path) -> None:
    before = terms_of(student, batch_of(samples))["tag"]
    recipe = dataclasses.replace(parts.recipe, steps=20)
    trainer_of(student, samples, recipe, tmp_path).fit()
    assert terms_of(student, batch_of(samples))["tag"] < 0.8 * before
    line = json.loads((tmp_path / "log.jsonl").read_text())
    assert line["step"] == 20 and {"tag", "coarse", "alignment", "distillation", "loss"} <= line.keys()


def test_a_state_of_another_recipe_is_refused(
    student: Student, samples: TagSamples, parts: Parts, tmp_path: Path
) -> None:
    recipe = parts.recipe
    trainer_of(student, samples, dataclasses.replace(recipe, steps=1), tmp_path).fit()
    weights = dataclasses.replace(recipe.objective.weights, tag=2.0)
    objective = dataclasses.replace(recipe.objective, weights=weights)
    changed = dataclasses.replace(recipe, rate=1e-4, objective=objective)
    other = trainer_of(student, samples, changed, tmp_path)
    with pytest.raises(
        AnytagError, match=r"\(objective\.weights\.tag=2\.0, was 1\.0; rate=0\.0001, was 0\.0015\)"
    ):
        other.resume()
    longer = trainer_of(student, samples, recipe, tmp_path)
    longer.resume()
    assert longer.step == 1


def test_a_state_without_a_recipe_is_refused(
    student: Student, samples: TagSamples, parts: Parts, tmp_path: Path
) -> None:
    trainer = trainer_of(student, samples, parts.recipe, tmp_path)
    trainer.save()
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    del state["recipe"]
    torch.save(state, tmp_path / "state.pt")
    with pytest.raises(AnytagError, match=r"features\.first=5, was None"):
        trainer.resume()


def test_a_loss_that_is_not_finite_ends_the_run(
    student: Student, samples: TagSamples, parts: Parts, tmp_path: Path
) -> None:
    recipe = dataclasses.replace(parts.recipe, rate=1e30)
    with pytest.raises(AnytagError, match=r"step [45]: .* not finite for 5 steps in a row .* with lower"):
        trainer_of(student, samples, recipe, tmp_path).fit()


def test_too_few_views_for_a_batch(
    student: Student, samples: TagSamples, parts: Parts, tmp_path: Path
) -> None:
    recipe = dataclasses.replace(parts.recipe, batch_size=64)
    with pytest.raises(AnytagError, match="60 training photos are fewer than batch_size=64: give"):
        trainer_of(student, samples, recipe, tmp_path).fit()
