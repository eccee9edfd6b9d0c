"""Runs of the embedded model: tags from cached features of frozen stages, captions on a frozen encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt
import torch
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor, nn

from anytag._typing import Bytes, Floats, Ints
from anytag.data.descriptions import read_descriptions
from anytag.data.rows import Row, read_rows
from anytag.errors import AnytagError
from anytag.models.folder import ModelFolder
from anytag.models.registry import EMBEDDED, resolve
from anytag.queries.bank import Bank
from anytag.runtime.onnx import IMAGE, OnnxRuntime
from anytag.text_encoders.captions import clean_caption
from anytag.text_encoders.queries import query_rows
from anytag.text_encoders.static import StaticTextEncoder
from anytag.torch.nn.backbones import fold_norms, imagenet_backbone
from anytag.torch.nn.evidence import Evidence
from anytag.torch.nn.network import TagNetwork
from anytag.torch.nn.query_modules import TagQueries
from anytag.torch.nn.small_caption_head import GuidedHead
from anytag.torch.training.caption_samples import CaptionSamples
from anytag.torch.training.checkpoint import has_state
from anytag.torch.training.distributed import from_main_process
from anytag.torch.training.feature_cache import Array, Encoder, FeatureCache, encode_photos
from anytag.torch.training.feature_dataset import FeatureDataset, Samples
from anytag.torch.training.first_pass import ClassTerm, CoarseTerm, QueryTerm, SubjectTerm
from anytag.torch.training.frozen_stages import cache_stages
from anytag.torch.training.mini_init import start_from_classifier, start_from_folder
from anytag.torch.training.recipes import Features, Recipe
from anytag.torch.training.report import Reporter
from anytag.torch.training.run import Run
from anytag.torch.training.soft_labels import ImageNetClasses, exclusive_subjects
from anytag.torch.training.student import FrozenEncoderNetwork, Student
from anytag.torch.training.tag_samples import StageFeatures, TagSamples, tensor_of
from anytag.torch.training.terms import TagTerm, terms_of
from anytag.torch.training.trainer import Trainer, accelerator_of
from anytag.torch.training.wordpieces import load_or_train_wordpieces
from anytag.vocabulary import Vocabulary


def prepare(run: Run, report: Reporter) -> Trainer:
    """Prepare everything that a run on cached features needs for its first step.

    Raises:
        AnytagError: rows, photos, tags or the start cannot be read.
    """
    accelerator = accelerator_of(run.recipe, run.run_options)
    make = _captions if run.recipe.objective.guidance is not None else _tags
    samples, student, recipe = make(run, report)
    world = accelerator.num_processes
    dataset = FeatureDataset(
        samples, batch_size=recipe.batch_size, seed=recipe.seed, rank=accelerator.process_index, world=world,
        parts=world * run.run_options.accumulate,
    )  # fmt: skip
    dataset.steps_per_epoch()  # raises if there is too little data
    return Trainer(
        student, dataset, recipe, run.out, sources=run.source_hashes(), run_options=run.run_options,
        accelerator=accelerator, report=report,
    )  # fmt: skip


def _tags(run: Run, report: Reporter) -> tuple[Samples, Student, Recipe]:
    """Samples and student for a run that trains tags."""
    recipe, rows, cache = run.recipe, Path(run.data), run.cache or run.out / "cache"
    if not recipe.vocabulary:
        raise AnytagError(
            "mini needs a folder with vocabulary.jsonl, descriptions.jsonl and imagenet.json: give "
            "--vocabulary FOLDER"
        )
    samples = samples_of(recipe, rows, _cached(rows, recipe, cache, report))
    torch.manual_seed(recipe.seed)
    student, classifier = build_student(recipe)
    with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"):
        start(student, classifier, samples, recipe.start)
    return samples, student, recipe


def _cached(rows: Path, recipe: Recipe, folder: Path, report: Reporter) -> StageFeatures:
    """The cached features, computed by the main process and read by all."""
    from_main_process(lambda: len(cache_stages(rows, recipe, folder, report=report).shards))
    return StageFeatures.of(cache_stages(rows, recipe, folder, report=Reporter()))


def samples_of(recipe: Recipe, rows: Path, features: StageFeatures) -> TagSamples:
    """The samples of a recipe of `mini`, without the teacher's scores."""
    folder, numbers = Path(recipe.vocabulary), features_of(recipe)
    count = len(Vocabulary.read(folder / "vocabulary.jsonl"))
    return TagSamples.read(
        rows, features, folder, sampled=recipe.sampled_tags, sources=numbers.sources,
        held_out=held_out_tags(count, numbers.held_out),
    )  # fmt: skip


def features_of(recipe: Recipe) -> Features:
    """The `features` of a recipe that has them."""
    assert recipe.features is not None
    return recipe.features


def held_out_tags(count: int, part: float) -> Ints | None:
    """Columns of tags without supervision, deterministic for a vocabulary size; None if `part` is 0."""
    return np.sort(np.random.default_rng(7).permutation(count)[: round(count * part)]) if part else None


def build_student(recipe: Recipe) -> tuple[Student, nn.Linear]:
    """Build the untrained student of a vocabulary's folder, and the ImageNet classifier of its backbone."""
    folder, config, numbers = Path(recipe.vocabulary), recipe.network, features_of(recipe)
    vocabulary = Vocabulary.read(folder / "vocabulary.jsonl")
    classes = ImageNetClasses.read(folder / "imagenet.json", vocabulary)
    assert isinstance(config.backbone, str)
    backbone, classifier = imagenet_backbone(config.backbone, size=config.size)
    fold_norms(backbone)
    texts = read_descriptions(folder / "descriptions.jsonl", vocabulary)
    encoder = StaticTextEncoder.from_folder(EMBEDDED / "text")
    text = query_rows([tag.name for tag in vocabulary], texts, encoder, prompts="words")
    network = TagNetwork(config, backbone)
    if network.encoder.evidence is not None:
        _init_evidence(network.encoder.evidence, classifier, encoder)
    _freeze(network, before=numbers.trained)
    held_out = held_out_tags(len(vocabulary), numbers.held_out)
    distilled = np.flatnonzero(~np.isin(classes.tags, [] if held_out is None else held_out))
    class_term = ClassTerm(torch.from_numpy(classes.tags), torch.from_numpy(distilled))
    subject_term = SubjectTerm(torch.from_numpy(exclusive_subjects(vocabulary)))
    student = Student(
        network, TagQueries(torch.from_numpy(text), config.width, hidden=config.text_hidden),
        recipe.objective, [TagTerm(), CoarseTerm(), QueryTerm(), subject_term, class_term],
        first=numbers.first,
    )  # fmt: skip
    return student, classifier


def _freeze(network: TagNetwork, *, before: int) -> None:
    """Freeze the stages before `before`, and the projection too if that is all stages."""
    encoder = network.encoder
    for stage in encoder.backbone.stages[:before]:
        stage.requires_grad_(False)
    if before >= len(encoder.backbone.stages):
        encoder.projection.requires_grad_(False)
    encoder.backbone.to(memory_format=torch.channels_last)  # 1.5 times as fast on a CPU


@torch.no_grad()
def _init_evidence(evidence: Evidence, classifier: nn.Linear, encoder: StaticTextEncoder) -> None:
    """Load the backbone's classifier and the text vectors of its class names into the evidence module."""
    evidence.classifier.load_state_dict(classifier.state_dict())
    evidence.names.copy_(torch.from_numpy(class_vectors(encoder)))


def class_vectors(encoder: StaticTextEncoder) -> Floats:
    """Text vectors of the names of ImageNet's 1,000 classes, float32 1000×W."""
    info = ImageNetInfo()
    return encoder.encode([info.index_to_description(k).split(",")[0].lower() for k in range(1000)])


def sample(samples: TagSamples, *, photos: int = 512) -> Tensor:
    """Features of about `photos` views, evenly spaced in the data."""
    views = samples.views[:: max(1, len(samples.views) // photos)]
    return tensor_of(samples.cache.features[views])


def start(student: Student, classifier: nn.Linear, samples: TagSamples, folder: str) -> None:
    """Initialise an untrained student from the recipe's `start`, and give the samples a teacher."""
    if not folder:
        start_from_classifier(student, classifier, sample(samples))
        samples.train_probes()
        return
    model = ModelFolder.open(resolve(folder))
    start_from_folder(student, model, vocabulary=samples.vocabulary)
    samples.set_teacher(scores_of_start(student, model, samples))


@torch.no_grad()
def scores_of_start(student: Student, folder: ModelFolder, samples: TagSamples) -> npt.NDArray[np.float16]:
    """Probabilities of the start's model for the training photos, N×K; 0 for tags that it lacks.

    They are computed by the first pass, which is accurate enough.
    """
    known, line = Vocabulary.read(folder.file("vocabulary.jsonl")), folder.card.calibration.vocabulary
    bank = Bank.read(folder.file("queries.safetensors"), tags=len(known), width=folder.card.width)
    lines = np.zeros((len(samples.vocabulary), 2), np.float32)
    for number, tag in enumerate(samples.vocabulary):
        if tag.id in known:
            slope, offset = bank.line[known.index(tag.id)]
            lines[number] = slope * line.scale, slope * line.bias + offset
    student.eval()
    rows, train = student.queries(), np.flatnonzero(samples.split == "train")
    _, first = np.unique(samples.cache.row, return_index=True)
    out = np.zeros((len(train), len(lines)), np.float16)
    for at in range(0, len(train), 256):
        views = first[train[at : at + 256]]
        pooled = student.encode(tensor_of(samples.cache.features[views])).pooled
        logits = student.network.folded.coarse(pooled, rows).float().numpy()
        out[at : at + 256] = 1 / (1 + np.exp(-np.clip(lines[:, 0] * logits + lines[:, 1], -30, 30)))
    student.train()
    out[:, (lines == 0).all(1)] = 0
    return out


def _captions(run: Run, report: Reporter) -> tuple[Samples, Student, Recipe]:
    """Samples and student for a run that trains a caption head on the encoder of a model folder."""
    recipe, rows, out = run.recipe, Path(run.data), run.out
    guidance, head = recipe.objective.guidance, recipe.network.captions
    assert guidance is not None and head is not None  # of mini-captions
    folder = ModelFolder.open(resolve(recipe.start or None))
    photos = [row for row in read_rows(rows) if row.captions]
    if not any(row.split == "train" for row in photos):
        raise AnytagError(f"{rows}: no training photo has a caption, which this recipe needs")
    cache = run.cache or out / "tokens"
    from_main_process(lambda: len(cache_tokens(photos, rows.parent, folder, cache, report=report).shards))
    tokens = cache_tokens(photos, rows.parent, folder, cache, report=Reporter())
    vocabulary = Vocabulary.read(folder.file("vocabulary.jsonl"))
    captions = [clean_caption(text) for row in photos if row.split == "train" for text in row.captions]
    names = [tag.name for tag in vocabulary]
    file, again = out / "vocab.txt", not has_state(out)
    pieces = from_main_process(
        lambda: load_or_train_wordpieces(
            file, captions, names, size=head.words, again=again, given=recipe.wordpieces
        )
    )
    samples = CaptionSamples(
        photos, tokens, vocabulary, pieces, tag_length=head.tag_length, guidance=guidance
    )
    return samples, caption_student(recipe, samples), recipe


def cache_tokens(
    photos: Sequence[Row], root: Path, folder: ModelFolder, out: Path, *, report: Reporter
) -> FeatureCache:
    """Cache image tokens of photos by a model's image graph.

    Training photos with several captions have a mirrored view too.
    """

    def encode(runtime: OnnxRuntime, pixels: Bytes) -> tuple[Mapping[str, Array], Mapping[str, Array]]:
        each = [runtime.encode(one[None])[0] for one in pixels]  # singly: independent of the batch size
        return {"tokens": np.concatenate(each).astype(np.float16)}, {}

    def views(row: Row, draw: Random) -> list[int]:
        return [0, 1] if row.split == "train" and len(row.captions) > 1 else [0]

    key = {"model": folder.card.files[IMAGE].sha256, "stage": "tokens"}
    size = folder.card.image.size

    def encoder() -> Encoder:
        return partial(encode, OnnxRuntime(folder, device="cpu"))

    return encode_photos(out, photos, root, encoder, views, size=size, key=key, report=report)


def caption_student(recipe: Recipe, samples: CaptionSamples) -> Student:
    """Build the student of a caption run, with an untrained head."""
    torch.manual_seed(recipe.seed)
    config = recipe.network.captions
    assert config is not None
    count, width = samples.cache.shards[0]["tokens"].shape[1:]
    head = GuidedHead(replace(config, words=len(samples.pieces)), width, tokens=count)
    objective = recipe.objective
    return Student(FrozenEncoderNetwork(head), None, objective, terms_of(objective), prompt_length=1)
