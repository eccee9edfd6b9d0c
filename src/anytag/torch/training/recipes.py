"""Recipes: what `anytag train NAME` trains. Each is a short function that returns numbers, without logic.

The published ones (`tag2text-14m`, `ram-14m`, `ram-plus-14m` and their `-384` fine-tunes) have the numbers of
the papers' code: data COCO, VG, SBU, CC3M and CC12M (14 million photos; the fine-tunes COCO alone), 8 GPUs,
5 epochs at 224 pixels and 2 at 384. `tag2text-retrieval` adds alignment heads to Tag2Text's. What differs is
said in docs/how-to/train-families.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from anytag.errors import AnytagError
from anytag.torch.nn.configs import FAMILIES, AlignmentConfig, NetworkConfig, SwinConfig
from anytag.torch.training.objectives import OBJECTIVES, Matching, Objective
from anytag.torch.training.schedules import CLIP_MEAN, CLIP_STD, FINETUNE, PRETRAIN, PublishedRecipe, Schedule

GPUS = 8
Precision = Literal["no", "bf16", "fp16"]


@dataclass(frozen=True)
class TrainRecipe:
    """Numbers of one run from photos.

    Attributes:
        about: data, hardware, what to expect.
        network: its numbers; `backbone` names one of timm's instead of the network's own.
        objective: the terms of the loss.
        distillation: weight of that term.
        batch_size: photos a step, over all processes.
        epochs: over the photos; `steps`, unless 0, says instead how many steps there are.
        rate: peak learning rate, after `warmup` steps of rise; `schedule` says how it rises and falls.
        asked: tags that a step draws, beside those that its photos have, which estimates the loss of all;
            all are asked when 0, as published.
        ema: decay of the averaged weights, which are the result.
        start: folder of a run whose result is the start; positions are resampled, and alignment heads that it
            lacks are new.
        vocabulary: a vocabulary.jsonl; made from the captions and tags of the rows when empty.
        descriptions: a descriptions.jsonl, for queries of several texts.
        embedding: a file of text vectors of the vocabulary, K·P rows.
        clip: a CLIP model for text vectors, by folder or name; the static text table when empty.
        wordpieces: a vocab.txt, where captions are learned; made from the captions when empty.
        teacher: a CLIP model whose image tower sees the same crop; no distillation when empty.
    """

    about: str
    network: NetworkConfig
    objective: Objective
    distillation: float = 1.0
    backbone: str = ""
    batch_size: int = 64
    epochs: int = 10
    steps: int = 0
    rate: float = 1e-3
    warmup: int = 100
    weight_decay: float = 0.05
    ema: float = 0.0
    asked: int = 0
    seed: int = 42
    precision: Precision = "no"
    schedule: Schedule = field(default_factory=Schedule)
    start: str = ""
    vocabulary: str = ""
    descriptions: str = ""
    embedding: str = ""
    clip: str = ""
    wordpieces: str = ""
    teacher: str = ""


def _published(family: str, published: PublishedRecipe, *, window: int, about: str) -> TrainRecipe:
    row = FAMILIES[family]
    assert isinstance(row.backbone, SwinConfig)  # all rows of published families have one
    network = replace(
        row,
        backbone=replace(row.backbone, window=window),
        size=published.size,
        mean=CLIP_MEAN,
        std=CLIP_STD,
    )
    objective = OBJECTIVES[family]
    return TrainRecipe(
        about=about,
        network=network,
        objective=objective,
        # a sum over a GPU's photos beside a mean over them: the mean weighs the less, the more there are
        distillation=1.0 if objective.captions else 1 / published.batch,
        batch_size=published.batch * GPUS,
        epochs=published.epochs,
        rate=published.rate,
        warmup=published.warmup,
        weight_decay=published.weight_decay,
        schedule=published.schedule,
    )


def _pretrain(family: str) -> TrainRecipe:
    about = f"{family} from photos and captions, 14 million of them, on 8 GPUs with 224 pixels"
    return _published(family, PRETRAIN[family], window=7, about=about)


def _finetune(family: str) -> TrainRecipe:
    about = f"{family} fine-tuned to 384 pixels on COCO, on 8 GPUs; give start=FOLDER of the run before"
    return _published(family, FINETUNE[family], window=12, about=about)


def tag2text_14m() -> TrainRecipe:
    return _pretrain("tag2text")


def tag2text_14m_384() -> TrainRecipe:
    return _finetune("tag2text")


def tag2text_retrieval() -> TrainRecipe:
    """Tags, captions and alignment together, as in Tag2Text's paper; no such recipe is published."""
    return _retrieval(tag2text_14m())


def tag2text_retrieval_384() -> TrainRecipe:
    return _retrieval(tag2text_14m_384())


def _retrieval(recipe: TrainRecipe) -> TrainRecipe:
    return replace(
        recipe,
        about=f"{recipe.about}; with alignment heads, which find photos by a sentence",
        network=replace(recipe.network, alignment=AlignmentConfig()),
        objective=replace(recipe.objective, matching=Matching()),
    )


def ram_14m() -> TrainRecipe:
    return _pretrain("ram")


def ram_14m_384() -> TrainRecipe:
    return _finetune("ram")


def ram_plus_14m() -> TrainRecipe:
    return _pretrain("ram-plus")


def ram_plus_14m_384() -> TrainRecipe:
    return _finetune("ram-plus")


def small() -> TrainRecipe:
    """A folded decoder behind any timm backbone, queries from the static text table; serves as ONNX."""
    return TrainRecipe(
        about="a small tagger with any timm backbone (backbone=resnet18), from scratch, for one GPU",
        network=NetworkConfig(backbone="", size=224, width=512, heads=4, text_hidden=512),
        objective=Objective(aligns=True, gamma_neg=3.0),
        backbone="resnet18",
        epochs=20,
        ema=0.998,
    )


def flickr8k_tiny() -> TrainRecipe:
    """To see that everything works."""
    return replace(
        small(),
        about="for trying: Flickr8k's 6,000 photos, two CPU cores, about ten minutes; learns little",
        network=NetworkConfig(backbone="", size=96, width=128, heads=4, text_hidden=128),
        backbone="mobilenetv3_small_050",
        epochs=2,
        warmup=20,
    )


RECIPES: dict[str, Callable[[], TrainRecipe]] = {
    "tag2text-14m": tag2text_14m,
    "tag2text-14m-384": tag2text_14m_384,
    "tag2text-retrieval": tag2text_retrieval,
    "tag2text-retrieval-384": tag2text_retrieval_384,
    "ram-14m": ram_14m,
    "ram-14m-384": ram_14m_384,
    "ram-plus-14m": ram_plus_14m,
    "ram-plus-14m-384": ram_plus_14m_384,
    "small": small,
    "flickr8k-tiny": flickr8k_tiny,
}
"""`mini`, which trains from cached features, is `anytag.torch.training.train.Recipe`."""


def find(name: str) -> TrainRecipe:
    """A recipe by name.

    Raises:
        AnytagError: there is none; lists those there are.
    """
    if name not in RECIPES:
        raise AnytagError(f"no recipe {name!r}; there are mini, {', '.join(RECIPES)}")
    return RECIPES[name]()
