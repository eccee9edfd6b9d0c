"""Trains the embedded model from cached features.

    python -m anytag.training.train ROWS CACHE VOCABULARY OUT [key=value ...]

Data: Flickr8k, parts of COCO, ImageNet, SUN, Food-101 and GroceryStoreDataset (about 50,000 photos).
Hardware: two CPU cores. VOCABULARY is the folder of scripts/build_vocabulary.py with descriptions.jsonl
beside it. Every few minutes the whole state is written to OUT/state.pt, atomically; a run that is killed goes
on from there with the same data order. The log is OUT/log.jsonl, the result OUT/student.pt (averaged
weights).
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from anytag.errors import AnytagError
from anytag.models.hub import EMBEDDED
from anytag.nn.backbones import imagenet_backbone
from anytag.nn.families import FAMILIES, NetworkConfig
from anytag.nn.network import TagNetwork
from anytag.nn.queries import TagQueries
from anytag.text_encoders.static import StaticTextEncoder
from anytag.vocabulary import Vocabulary

from .corpus import Cache, Corpus
from .descriptions import read_descriptions, text_vectors
from .student import LossWeights, Student, fold_norms, start_from_classifier
from .targets import ImageNetClasses


@dataclass(frozen=True)
class Recipe:
    """Numbers of one run.

    Attributes:
        first: the stage whose input the cache holds.
        trained: the first stage that is trained; 9 trains none.
        steps: of the whole run.
        batch_size: photos a step, over all processes.
        tags: tags that the decoder looks at in a step; the first pass sees all.
        backbone_lr: peak learning rate of the backbone's stages; `head_lr` of the rest.
        warmup: steps of rising learning rate; a cosine falls to zero after.
        ema: decay of the averaged weights.
        held_out: part of the vocabulary without any supervision (0.2: every fifth tag of a shuffle).
        sources: sources to train on; empty means all.
        precision: "no", "bf16" or "fp16".
    """

    first: int = 5
    trained: int = 5
    steps: int = 1200
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
    precision: str = "no"
    save_minutes: float = 4.0
    weights: LossWeights = field(default_factory=LossWeights)


R = TypeVar("R")


def parse_recipe(pairs: list[str]) -> Recipe:
    """`key=value` pairs over the defaults; a loss weight is `weights.tag=2`.

    Raises:
        AnytagError: an unknown key or a value of another type.
    """
    return parse_numbers(Recipe(), pairs)


def parse_numbers(recipe: R, pairs: Iterable[str]) -> R:
    """`key=value` pairs over a dataclass of numbers; `key.name=value` for one within it.

    Raises:
        AnytagError: an unknown key or a value of another type.
    """
    for pair in pairs:
        key, _, text = pair.partition("=")
        recipe = _put(recipe, key, text, pair=pair)
    return recipe


def _put(numbers: R, key: str, text: str, *, pair: str) -> R:
    target: Any = numbers
    name, _, rest = key.partition(".")
    known = {f.name: getattr(target, f.name) for f in fields(target)}
    if name not in known or is_dataclass(known[name]) != bool(rest):
        whole = pair.partition("=")[0]
        raise AnytagError(f"{whole!r}: no such number in the recipe; there are {', '.join(known)}")
    if rest:
        value = _put(known[name], rest, text, pair=pair)
    else:
        try:
            value = type(known[name])(text)
        except ValueError as error:
            raise AnytagError(f"{pair!r}: expected {type(known[name]).__name__}") from error
    changed: R = replace(target, **{name: value})
    return changed


def read_recipe(path: Path) -> Recipe:
    """The recipe that a run wrote as OUT/recipe.json.

    Raises:
        AnytagError: the file cannot be read, or holds other numbers than a recipe.
    """
    try:
        numbers = json.loads(path.read_text(encoding="utf-8"))
        return Recipe(**{**numbers, "weights": LossWeights(**numbers["weights"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AnytagError(
            f"{path}: no recipe of a run ({error}); name the folder that train wrote"
        ) from error


def changed_numbers(stored: dict[str, Any], recipe: Recipe) -> list[str]:
    """What differs from the stored recipe, `steps` apart, as "key=value, was value"."""
    was, now = _flat(stored), _flat(asdict(recipe))
    keys = [key for key in now if key != "steps" and was.get(key) != now[key]]
    return [f"{key}={now[key]}, was {was.get(key)}" for key in keys]


def _flat(numbers: dict[str, Any]) -> dict[str, Any]:
    """A recipe's numbers by the keys that the command line takes."""
    weights = {f"weights.{key}": value for key, value in numbers.get("weights", {}).items()}
    return {key: value for key, value in numbers.items() if key != "weights"} | weights


def held_out_tags(count: int, part: float) -> np.ndarray | None:
    """Columns without supervision, always the same for the same vocabulary."""
    return np.sort(np.random.default_rng(7).permutation(count)[: round(count * part)]) if part else None


def sample_features(corpus: Corpus, *, photos: int = 512) -> Tensor:
    """Cached feature maps of about `photos` views from all over the corpus."""
    step = max(1, len(corpus.views) // photos)
    return corpus.batch(corpus.views[::step], draw=np.random.default_rng(0), tags=1).features


def build_student(
    folder: Path, recipe: Recipe, *, config: NetworkConfig = FAMILIES["mini"]
) -> tuple[Student, nn.Linear]:
    """The untrained student for a vocabulary folder, and the ImageNet classifier of its backbone."""
    vocabulary = Vocabulary.read(folder / "vocabulary.jsonl")
    classes = ImageNetClasses.read(folder / "imagenet.json", vocabulary)
    backbone, classifier = imagenet_backbone(config.backbone, size=config.size)
    fold_norms(backbone)
    texts = read_descriptions(folder / "descriptions.jsonl", vocabulary)
    text = text_vectors(texts, StaticTextEncoder.from_folder(EMBEDDED / "text"))
    queries = TagQueries(torch.from_numpy(text), config.width, hidden=config.text_hidden)
    held_out = held_out_tags(len(vocabulary), recipe.held_out)
    taught = np.flatnonzero(~np.isin(classes.tags, [] if held_out is None else held_out))
    student = Student(
        TagNetwork(config, backbone), queries, first=recipe.first, trained=recipe.trained,
        classes=torch.from_numpy(classes.tags), taught=torch.from_numpy(taught), weights=recipe.weights,
    )  # fmt: skip
    return student, classifier


class Average:
    """Exponential moving average of all trained tensors."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.shadow = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    def update(self, model: nn.Module) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        named = dict(model.named_parameters())
        now = [named[name].detach() for name in self.shadow]
        torch._foreach_lerp_(list(self.shadow.values()), now, 1 - decay)

    def state(self, model: nn.Module) -> dict[str, Tensor]:
        """The model's state with the averages in place."""
        return {**model.state_dict(), **self.shadow}


class Trainer:
    """The loop; its whole state can be written and read at any step."""

    def __init__(self, student: Student, corpus: Corpus, recipe: Recipe, out: Path) -> None:
        self.recipe, self.corpus, self.out = recipe, corpus, out
        self.accelerator = Accelerator(mixed_precision=recipe.precision)
        groups = self.groups(student)
        self.peaks = [group["lr"] for group in groups]
        optimizer = torch.optim.AdamW(groups, weight_decay=recipe.weight_decay, foreach=True)
        self.total = recipe.steps
        self.plain = student
        self.student, self.optimizer = self.accelerator.prepare(student, optimizer)
        self.average = Average(student, recipe.ema)
        self.step = 0

    def groups(self, student: Any) -> list[dict[str, Any]]:
        """What is trained, at which peak learning rates: parameter groups of the optimizer."""
        backbone = [p for p in student.network.encoder.backbone.parameters() if p.requires_grad]
        ids = {id(p) for p in backbone}
        rest = [p for p in student.parameters() if p.requires_grad and id(p) not in ids]
        return [
            {"params": backbone, "lr": self.recipe.backbone_lr},
            {"params": rest, "lr": self.recipe.head_lr},
        ]

    def batches(self, epoch: int, *, start: int) -> Iterator[Any]:
        """The steps of an epoch, from `start` on; always the same."""
        recipe = self.recipe
        return self.corpus.batches(
            epoch, batch_size=recipe.batch_size, tags=recipe.tags, seed=recipe.seed, start=start
        )

    def rate(self, step: int) -> float:
        """Learning rate at a step, as a part of its peak."""
        warm = min(1.0, (step + 1) / max(1, self.recipe.warmup))
        return warm * 0.5 * (1 + math.cos(math.pi * step / self.total))

    def resume(self) -> None:
        """Goes on from OUT/state.pt, if it is there.

        Raises:
            AnytagError: the state is of a run with another recipe; only `steps` may differ.
        """
        path = self.out / "state.pt"
        if path.exists():
            state = torch.load(path, weights_only=True, map_location=self.accelerator.device)
            if changed := changed_numbers(state.get("recipe", {}), self.recipe):
                raise AnytagError(
                    f"{path} is of a run with another recipe ({'; '.join(changed)}); "
                    "give the same numbers (steps may differ) or name another folder"
                )
            self.plain.load_state_dict(state["student"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.average.shadow, self.average.steps = state["average"], state["average_steps"]
            self.step = state["step"]

    def save(self) -> None:
        """Writes OUT/state.pt, atomically."""
        if self.accelerator.is_main_process:
            state = {
                "step": self.step,
                "recipe": asdict(self.recipe),
                "student": self.plain.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "average": self.average.shadow,
                "average_steps": self.average.steps,
            }
            torch.save(state, self.out / "state.partial")
            (self.out / "state.partial").rename(self.out / "state.pt")

    def run(self) -> None:
        """Trains to the end and writes OUT/student.pt.

        Raises:
            AnytagError: there are fewer views than a batch takes, or the loss is not finite.
        """
        recipe, per_epoch = self.recipe, self.corpus.steps_per_epoch(self.recipe.batch_size)
        if per_epoch == 0:
            views = len(self.corpus.views)
            raise AnytagError(f"{views} views make no batch of {recipe.batch_size}; give batch_size={views}")
        saved, clock = time.monotonic(), time.monotonic()
        self.student.train()
        while self.step < self.total:
            epoch = self.step // per_epoch
            batches = self.batches(epoch, start=self.step % per_epoch)
            for batch in islice(batches, self.total - self.step):
                terms = self._step(batch)
                if self.step % 20 == 0:
                    self._log(epoch, terms, 20 * recipe.batch_size / (time.monotonic() - clock))
                    clock = time.monotonic()
                if time.monotonic() - saved > recipe.save_minutes * 60:
                    self.save()
                    saved = time.monotonic()
        self.save()
        if self.accelerator.is_main_process:
            torch.save(self.average.state(self.plain), self.out / "student.pt")

    def _step(self, batch: Any) -> dict[str, Tensor]:
        torch.manual_seed(hash((self.recipe.seed, self.step)) % 2**31)  # dropped descriptions and residuals
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * self.rate(self.step)
        terms: dict[str, Tensor] = self.student(self._share(batch))
        if not torch.isfinite(terms["loss"]):
            loss = terms["loss"].item()
            raise AnytagError(
                f"step {self.step}: the loss is {loss}; start a new folder with lower learning rates"
            )
        self.accelerator.backward(terms["loss"])
        self.accelerator.clip_grad_norm_(self.student.parameters(), 200.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update(self.plain)
        self.step += 1
        return terms

    def _share(self, batch: Any) -> Any:
        """This process's photos of a batch, on its device."""
        accelerator = self.accelerator
        mine = slice(accelerator.process_index, None, accelerator.num_processes)
        parts = {f.name: getattr(batch, f.name) for f in fields(batch)}
        parts = {name: part if name == "tags" else part[mine] for name, part in parts.items()}
        return type(batch)(**{name: part.to(accelerator.device) for name, part in parts.items()})

    def _log(self, epoch: int, terms: dict[str, Tensor], speed: float) -> None:
        if self.accelerator.is_main_process:
            line = {"step": self.step, "of": self.total, "epoch": epoch, "photos_per_second": round(speed, 1)}
            line |= {name: round(value.item(), 4) for name, value in terms.items()}
            left = (self.total - self.step) * self.recipe.batch_size / speed / 60
            with (self.out / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            self.accelerator.print(f"{line} {left:.0f} min left", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("rows", "cache", "vocabulary", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("recipe", nargs="*", metavar="key=value")
    args = parser.parse_args()
    recipe = parse_recipe(args.recipe)
    args.out.mkdir(parents=True, exist_ok=True)
    count = len(Vocabulary.read(args.vocabulary / "vocabulary.jsonl"))
    corpus = Corpus.read(
        args.rows, Cache.read(args.cache), args.vocabulary,
        held_out=held_out_tags(count, recipe.held_out), sources=recipe.sources,
    )  # fmt: skip
    torch.manual_seed(recipe.seed)
    student, classifier = build_student(args.vocabulary, recipe)
    start_from_classifier(student, classifier, sample_features(corpus))
    trainer = Trainer(student, corpus, recipe, args.out)
    trainer.resume()
    (args.out / "recipe.json").write_text(json.dumps(asdict(recipe), indent=1))
    trainer.run()


if __name__ == "__main__":
    main()
