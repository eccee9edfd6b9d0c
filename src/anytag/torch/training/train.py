"""Trains the embedded model from cached features.

    python -m anytag.torch.training.train ROWS CACHE VOCABULARY OUT [key=value ...]

Data: Flickr8k, parts of COCO, ImageNet, SUN, Food-101 and GroceryStoreDataset (about 50,000 photos).
Hardware: two CPU cores. VOCABULARY is the folder of scripts/build_vocabulary.py with descriptions.jsonl
beside it. Every few minutes the whole state is written to OUT/state.pt, atomically; a run that is killed goes
on from there with the same data order. The log is OUT/log.jsonl, the result OUT/student.pt (averaged
weights).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from timm.data.imagenet_info import ImageNetInfo
from torch import nn

from anytag._io import atomic_write
from anytag.errors import AnytagError
from anytag.models.folder import ModelFolder
from anytag.models.registry import EMBEDDED, resolve
from anytag.queries.bank import Bank
from anytag.text_encoders.queries import query_rows
from anytag.text_encoders.static import StaticTextEncoder
from anytag.torch.nn.backbones import imagenet_backbone
from anytag.torch.nn.configs import FAMILIES, NetworkConfig
from anytag.torch.nn.evidence import Evidence
from anytag.torch.nn.network import TagNetwork
from anytag.torch.nn.query_modules import TagQueries
from anytag.torch.training.beginning import start_from_classifier, start_from_folder
from anytag.torch.training.checkpoint import STUDENT
from anytag.torch.training.descriptions import read_descriptions
from anytag.torch.training.distributed import check_precision
from anytag.torch.training.feature_dataset import Cache, Corpus, tensor_of
from anytag.torch.training.launch import check_launch, folder_of_run
from anytag.torch.training.photo_dataset import check_batch
from anytag.torch.training.recipes import Precision
from anytag.torch.training.report import Progress, Reporter
from anytag.torch.training.soft_labels import ImageNetClasses, rivals_of
from anytag.torch.training.student import Batch, LossWeights, Student, fold_norms
from anytag.torch.training.trainer import Loop, Machine
from anytag.torch.training.values import parse_numbers
from anytag.vocabulary import Vocabulary


@dataclass(frozen=True)
class Recipe:
    """Numbers of one run.

    Attributes:
        first: the stage whose input the cache holds; 9 where it holds means of the last features.
        trained: the first stage that is trained; 9 trains none, nor the projections to tokens.
        steps: of the whole run.
        batch_size: photos a step, over all processes.
        tags: tags that the decoder looks at in a step; the first pass sees all.
        backbone_lr: peak learning rate of the backbone's stages; `head_lr` of the rest.
        warmup: steps of rising learning rate; a cosine falls to zero after.
        ema: decay of the averaged weights.
        held_out: part of the vocabulary without any supervision (0.2: every fifth tag of a shuffle).
        sources: sources to train on; empty means all.
        start: a model folder, or the name of one, whose weights the run starts from; the backbone's ImageNet
            weights and classifier when empty.
    """

    first: int = 5
    trained: int = 5
    steps: int = 1450
    batch_size: int = 64
    tags: int = 320
    backbone_lr: float = 3e-4
    head_lr: float = 1.5e-3
    weight_decay: float = 0.02
    warmup: int = 100
    ema: float = 0.998
    seed: int = 0
    held_out: float = 0.0
    sources: str = ""
    precision: Precision = "no"
    start: str = ""
    weights: LossWeights = field(default_factory=LossWeights)


def parse_recipe(pairs: list[str]) -> Recipe:
    """`key=value` pairs over the defaults; a loss weight is `weights.tag=2`.

    Raises:
        AnytagError: an unknown key or a value of another type.
    """
    return parse_numbers(Recipe(), pairs)


def read_recipe(path: Path) -> Recipe:
    """The recipe that a run wrote as OUT/recipe.json.

    Raises:
        AnytagError: the file cannot be read, or holds other numbers than a recipe.
    """
    try:
        numbers = json.loads(path.read_text(encoding="utf-8"))
        numbers.pop("save_minutes", None)  # of runs before 0.1: a number of the machine
        return Recipe(**{**numbers, "weights": LossWeights(**numbers["weights"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AnytagError(
            f"{path}: no recipe of a run ({error}); name the folder that train wrote"
        ) from error


def held_out_tags(count: int, part: float) -> np.ndarray | None:
    """Columns without supervision, always the same for the same vocabulary."""
    return np.sort(np.random.default_rng(7).permutation(count)[: round(count * part)]) if part else None


def sample(corpus: Corpus, *, photos: int = 512) -> Batch:
    """About `photos` views from all over the corpus."""
    step = max(1, len(corpus.views) // photos)
    return corpus.batch(corpus.views[::step], draw=np.random.default_rng(0), tags=1)


def start(student: Student, classifier: nn.Linear, corpus: Corpus, folder: str) -> None:
    """Gives an untrained student what the recipe's `start` says, and the corpus a teacher."""
    views = sample(corpus)
    if not folder:
        start_from_classifier(student, classifier, views.features)
        corpus.learn_probes()
        return
    model = ModelFolder.open(resolve(folder))
    start_from_folder(
        student, model, vocabulary=corpus.vocabulary, classifier=classifier, memory=views.memory
    )
    corpus.teach(scores_of_start(student, model, corpus))


@torch.no_grad()
def scores_of_start(student: Student, folder: ModelFolder, corpus: Corpus) -> npt.NDArray[np.float16]:
    """What the folder that a run starts from believes of the training photos: N×K, 0 of tags it lacks.

    By the first pass, whose probabilities are near enough.
    """
    known = Vocabulary.read(folder.file("vocabulary.jsonl"))
    bank = Bank.read(folder.file("queries.safetensors"), tags=len(known), width=folder.card.width)
    line, (scale, bias) = np.zeros((len(corpus.vocabulary), 2), np.float32), _line(folder)
    for number, tag in enumerate(corpus.vocabulary):
        if tag.id in known:
            slope, offset = bank.line[known.index(tag.id)]
            line[number] = slope * scale, slope * bias + offset
    student.eval()
    rows, train = student.queries(), np.flatnonzero(corpus.split == "train")
    _, first = np.unique(corpus.cache.row, return_index=True)
    out = np.zeros((len(train), len(line)), np.float16)
    for at in range(0, len(train), 256):
        views = first[train[at : at + 256]]
        late, memory = (tensor_of(part[views]) for part in (corpus.cache.features, corpus.cache.memory))
        pooled = (
            student.encode(late, memory)[1] if late.ndim > 2 else student.network.encoder.pool(late, memory)
        )
        logits = student.network.folded.coarse(pooled, rows).numpy()
        out[at : at + 256] = 1 / (1 + np.exp(-np.clip(line[:, 0] * logits + line[:, 1], -30, 30)))
    student.train()
    out[:, (line == 0).all(1)] = 0
    return out


def _line(folder: ModelFolder) -> tuple[float, float]:
    line = folder.card.calibration.vocabulary
    return line.scale, line.bias


def build_student(
    folder: Path, recipe: Recipe, *, config: NetworkConfig = FAMILIES["mini"]
) -> tuple[Student, nn.Linear]:
    """The untrained student for a vocabulary folder, and the ImageNet classifier of its backbone."""
    vocabulary = Vocabulary.read(folder / "vocabulary.jsonl")
    classes = ImageNetClasses.read(folder / "imagenet.json", vocabulary)
    backbone, classifier = imagenet_backbone(config.backbone, size=config.size)
    fold_norms(backbone)
    said = read_descriptions(folder / "descriptions.jsonl", vocabulary)
    encoder = StaticTextEncoder.from_folder(EMBEDDED / "text")
    text = query_rows([tag.name for tag in vocabulary], said, encoder, prompts="words")
    queries = TagQueries(torch.from_numpy(text), config.width, hidden=config.text_hidden)
    network = TagNetwork(config, backbone)
    if network.encoder.evidence is not None:
        _know_classes(network.encoder.evidence, classifier)
    held_out = held_out_tags(len(vocabulary), recipe.held_out)
    taught = np.flatnonzero(~np.isin(classes.tags, [] if held_out is None else held_out))
    student = Student(
        network, queries, first=recipe.first, trained=recipe.trained,
        classes=torch.from_numpy(classes.tags), taught=torch.from_numpy(taught),
        rivals=torch.from_numpy(rivals_of(vocabulary)), weights=recipe.weights,
    )  # fmt: skip
    return student, classifier


@torch.no_grad()
def _know_classes(evidence: Evidence, classifier: nn.Linear) -> None:
    """Gives the evidence the backbone's own classifier, and the names of its classes as text vectors."""
    info, encoder = ImageNetInfo(), StaticTextEncoder.from_folder(EMBEDDED / "text")
    names = [info.index_to_description(k).split(",")[0].lower() for k in range(classifier.out_features)]
    evidence.classifier.load_state_dict(classifier.state_dict())
    evidence.names.copy_(torch.from_numpy(encoder.encode(names)))


class Trainer(Loop):
    """The loop over a corpus of cached features."""

    shared = frozenset({"tags"})

    def __init__(
        self,
        student: nn.Module,
        corpus: Any,
        recipe: Any,
        out: Path,
        *,
        machine: Machine | None = None,
        report: Reporter | None = None,
    ) -> None:
        super().__init__(student, recipe, out, machine=machine, report=report)
        self.corpus = corpus

    def groups(self, student: Any) -> list[dict[str, Any]]:
        """The backbone's trained stages, and the rest."""
        backbone = [p for p in student.network.encoder.backbone.parameters() if p.requires_grad]
        ids = {id(p) for p in backbone}
        rest = [p for p in student.parameters() if p.requires_grad and id(p) not in ids]
        groups = [
            {"params": backbone, "lr": self.recipe.backbone_lr},
            {"params": rest, "lr": self.recipe.head_lr},
        ]
        return [group for group in groups if group["params"]]

    def batches(self, epoch: int, *, start: int) -> Iterator[Any]:
        recipe = self.recipe
        batches: Iterator[Any] = self.corpus.batches(
            epoch, batch_size=recipe.batch_size, tags=recipe.tags, seed=recipe.seed, start=start
        )
        return batches

    def data_key(self) -> str:
        ids = "\n".join(self.corpus.vocabulary.ids)
        return hashlib.sha256(self.corpus.views.tobytes() + ids.encode()).hexdigest()

    def steps_per_epoch(self) -> int:
        """Raises AnytagError where there are fewer views than a batch takes."""
        parts = self.machine.accumulate * self.accelerator.num_processes
        check_batch(len(self.corpus.views), self.recipe.batch_size, parts=parts)
        steps: int = self.corpus.steps_per_epoch(self.recipe.batch_size)
        return steps


class _Lines(Reporter):
    """Every report a line on stdout."""

    def progress(self, progress: Progress) -> None:
        terms = " ".join(f"{name}={value:.4f}" for name, value in progress.terms.items())
        left = f"{progress.photos_per_second:.1f} photos/s, {progress.seconds_left / 60:.0f} min left"
        self.say(f"step {progress.done} of {progress.total}: {terms} ({left})")

    def say(self, message: str) -> None:
        sys.stdout.write(f"{message}\n")
        sys.stdout.flush()


def train_mini(
    rows: Path,
    cache: Path,
    vocabulary: Path,
    out: Path,
    *,
    recipe: Recipe,
    machine: Machine | None = None,
    report: Reporter | None = None,
) -> Path:
    """Trains the embedded model from cached features, or goes on; returns OUT/student.pt.

    Raises:
        AnytagError: something cannot be read, or the run fails.
    """
    check_precision(recipe.precision)
    report = report or Reporter()
    check_launch(report)
    with folder_of_run(out):
        trainer = _prepared(rows, cache, vocabulary, out, recipe=recipe, machine=machine, report=report)
        trainer.steps_per_epoch()  # before any work
        trainer.resume()
        with atomic_write(out / "recipe.json") as draft:
            draft.write_text(json.dumps(asdict(recipe), indent=1), encoding="utf-8")
        trainer.run()
    return out / STUDENT


def _prepared(
    rows: Path,
    cache: Path,
    vocabulary: Path,
    out: Path,
    *,
    recipe: Recipe,
    machine: Machine | None,
    report: Reporter,
) -> Trainer:
    """Everything that the run needs, made ready for its first step."""
    count = len(Vocabulary.read(vocabulary / "vocabulary.jsonl"))
    corpus = Corpus.read(
        rows, Cache.read(cache), vocabulary,
        held_out=held_out_tags(count, recipe.held_out), sources=recipe.sources,
    )  # fmt: skip
    torch.manual_seed(recipe.seed)
    student, classifier = build_student(vocabulary, recipe)
    start(student, classifier, corpus, recipe.start)
    return Trainer(student, corpus, recipe, out, machine=machine, report=report)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("rows", "cache", "vocabulary", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("recipe", nargs="*", metavar="key=value")
    args = parser.parse_args()
    train_mini(
        args.rows, args.cache, args.vocabulary, args.out, recipe=parse_recipe(args.recipe), report=_Lines()
    )


if __name__ == "__main__":
    main()
