"""Recipes: what `anytag train NAME` trains. One record of numbers, and a row of it for each name.

The published ones (`tag2text-14m`, `ram-14m`, `ram-plus-14m` and their `-384` fine-tunes) have the numbers of
the papers' code: data COCO, VG, SBU, CC3M and CC12M (14 million photos; the fine-tunes COCO alone), 8 GPUs,
5 epochs at 224 pixels and 2 at 384. `tag2text-retrieval` adds alignment heads to Tag2Text's. What differs is
said in docs/how-to/train-families.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from anytag.errors import AnytagError, CardError
from anytag.models.card import record
from anytag.torch.nn.configs import FAMILIES, AlignmentConfig, CaptionConfig, NetworkConfig, SwinConfig
from anytag.torch.training.objectives import OBJECTIVES, Guidance, Matching, Objective, Weights
from anytag.torch.training.schedules import Schedule

# Training normalises as CLIP does, inference as ImageNet's networks do (`anytag.torch.nn.configs`).
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

GPUS = 8
Precision = Literal["no", "bf16", "fp16"]


@dataclass(frozen=True)
class Features:
    """What a run on cached features learns from.

    Attributes:
        first: the stage whose input the cache holds; 9 where it holds means of the last features, of the
            model folder that `start` names.
        trained: the first stage that is trained; 9 trains none, nor the projections to tokens.
        views: how many views of a photo, by source, as in "flickr8k=5,coco-more=1"; `default_views` of
            others. The first view is the plain photo, the second its mirror, the rest random crops. With a
            single view, half of the photos are mirrored.
        sources: sources to train on, with commas between; empty means all.
        held_out: part of the vocabulary without any supervision (0.2: every fifth tag of a shuffle).
    """

    first: int = 5
    trained: int = 5
    views: str = "coco-more=1"
    default_views: int = 3
    sources: str = ""
    held_out: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """Numbers of one run.

    Attributes:
        about: data, hardware, what to expect.
        network: its numbers; `backbone` names one of timm's instead of the network's own.
        objective: the terms of the loss.
        features: of a run that reads cached features rather than photos, what they are; None otherwise.
        batch_size: photos a step, over all processes.
        epochs: over the photos; `steps`, unless 0, says instead how many steps there are.
        rate: peak learning rate, after `warmup` steps of rise; `schedule` says how it rises and falls.
        backbone_rate: peak learning rate of the backbone; `rate` when 0.
        sampled_tags: tags that a step draws, beside those that its photos have, which estimates the loss of
            all; all are asked when 0, as published.
        ema: decay of the averaged weights, which are the result.
        start: folder of a run whose result is the start; positions are resampled, and alignment heads that it
            lacks are new. Of `mini` a model folder, or the name of one; its caption head sits on that.
        vocabulary: a vocabulary.jsonl; made from the captions and tags of the rows when empty. Of `mini` the
            folder that has descriptions.jsonl and imagenet.json too.
        descriptions: a descriptions.jsonl, for queries of several texts.
        embedding: a file of text vectors of the vocabulary, K·P rows.
        clip: a CLIP model for text vectors, by folder or name; the static text table when empty.
        wordpieces: a vocab.txt, where captions are learned; made from the captions when empty.
        teacher: a CLIP model whose image tower sees the same crop; no distillation when empty. Of `mini` an
            EfficientNet-Lite with its classifier.
    """

    about: str
    network: NetworkConfig
    objective: Objective
    features: Features | None = None
    backbone: str = ""
    batch_size: int = 64
    epochs: int = 10
    steps: int = 0
    rate: float = 1e-3
    backbone_rate: float = 0.0
    warmup: int = 100
    weight_decay: float = 0.05
    ema: float = 0.0
    sampled_tags: int = 0
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


def _published(family: str, *, batch: int, about: str, window: int, **numbers: object) -> Recipe:
    """A row of the published code; `batch` photos a GPU."""
    row, objective = FAMILIES[family], OBJECTIVES[family]
    assert isinstance(row.backbone, SwinConfig)  # all rows of published families have one
    size = 32 * window
    network = replace(
        row, backbone=replace(row.backbone, window=window), size=size, mean=CLIP_MEAN, std=CLIP_STD
    )
    # a sum over a GPU's photos beside a mean over them: the mean weighs the less, the more there are
    share = 1.0 if objective.captions else 1 / batch
    objective = replace(objective, weights=replace(objective.weights, distillation=share))
    made = Recipe(f"{family} {about}", network, objective, batch_size=batch * GPUS)
    return replace(made, **numbers)  # type: ignore[arg-type]


def _pretrain(family: str, *, batch: int) -> Recipe:
    return _published(
        family, batch=batch, window=7, epochs=5, rate=1e-4, warmup=3000,
        schedule=Schedule(fall="epoch-decay", least=5e-7, warmup_rate=5e-7, decay=0.9),
        about="from photos and captions, 14 million of them, on 8 GPUs with 224 pixels",
    )  # fmt: skip


def _finetune(family: str, *, batch: int) -> Recipe:
    return _published(
        family, batch=batch, window=12, epochs=2, rate=5e-6, warmup=0, schedule=Schedule(fall="epoch-cosine"),
        about="fine-tuned to 384 pixels on COCO, on 8 GPUs; give start=FOLDER of the run before",
    )  # fmt: skip


def _retrieval(recipe: Recipe) -> Recipe:
    """Tags, captions and alignment together, as in Tag2Text's paper; no such recipe is published."""
    return replace(
        recipe,
        about=f"{recipe.about}; with alignment heads, which find photos by a sentence",
        network=replace(recipe.network, alignment=AlignmentConfig()),
        objective=replace(recipe.objective, matching=Matching()),
    )


def small() -> Recipe:
    """A folded decoder behind any timm backbone, queries from the static text table; serves as ONNX."""
    return Recipe(
        about="a small tagger with any timm backbone (backbone=resnet18), from scratch, for one GPU",
        network=NetworkConfig(backbone="", size=224, width=512, heads=4, text_hidden=512),
        objective=Objective(aligns=True, gamma_neg=3.0),
        backbone="resnet18",
        epochs=20,
        ema=0.998,
    )


def flickr8k_tiny() -> Recipe:
    """To see that everything works."""
    return replace(
        small(),
        about="for trying: Flickr8k's 6,000 photos, two CPU cores, about ten minutes; learns little",
        network=NetworkConfig(backbone="", size=96, width=128, heads=4, text_hidden=128),
        backbone="mobilenetv3_small_050",
        epochs=2,
        warmup=20,
    )


def mini() -> Recipe:
    """The embedded model, from what the frozen stages of its backbone make of photos."""
    weights = Weights(coarse=0.3, alignment=2.0, contrast=3.0, subject=3.0, distillation=2.0)
    return Recipe(
        about="the embedded model, from about 50,000 photos by way of cached features, on two CPU cores",
        network=FAMILIES["mini"],
        objective=Objective(distils=True, aligns=True, first_pass=True, weights=weights, gamma_neg=3.0),
        features=Features(),
        steps=1450,
        rate=1.5e-3,
        backbone_rate=3e-4,
        weight_decay=0.02,
        ema=0.998,
        sampled_tags=320,
        seed=0,
        teacher="tf_efficientnet_lite2",
    )


def mini_captions() -> Recipe:
    """The embedded model's caption head, on its image encoder as it is served."""
    head = CaptionConfig(
        words=4000, layers=3, shared=0, heads=4, width=256, mlp=512, positions=40, tag_length=24, prompt=""
    )
    return Recipe(
        about="a small caption head on a model folder (start=FOLDER), which is encoded once; two CPU cores",
        network=replace(FAMILIES["mini"], captions=head),
        objective=Objective(captions=True, guidance=Guidance()),
        features=Features(),
        steps=1700,
        batch_size=128,
        warmup=200,
        weight_decay=0.02,
        ema=0.998,
        seed=0,
        precision="bf16",
        start="mini",
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "tag2text-14m": lambda: _pretrain("tag2text", batch=80),
    "tag2text-14m-384": lambda: _finetune("tag2text", batch=36),
    "tag2text-retrieval": lambda: _retrieval(_pretrain("tag2text", batch=80)),
    "tag2text-retrieval-384": lambda: _retrieval(_finetune("tag2text", batch=36)),
    "ram-14m": lambda: _pretrain("ram", batch=52),
    "ram-14m-384": lambda: _finetune("ram", batch=26),
    "ram-plus-14m": lambda: _pretrain("ram-plus", batch=52),
    "ram-plus-14m-384": lambda: _finetune("ram-plus", batch=26),
    "small": small,
    "flickr8k-tiny": flickr8k_tiny,
    "mini": mini,
    "mini-captions": mini_captions,
}


def find(name: str) -> Recipe:
    """A recipe by name.

    Raises:
        AnytagError: there is none; lists those there are.
    """
    if name not in RECIPES:
        raise AnytagError(f"no recipe {name!r}; there are {', '.join(RECIPES)}")
    return RECIPES[name]()


def read_recipe(path: Path) -> Recipe:
    """The recipe that a run wrote as OUT/recipe.json.

    Raises:
        AnytagError: the file cannot be read, or holds other numbers than a recipe of this version.
    """
    try:
        recipe: Recipe = record(Recipe, json.loads(path.read_text(encoding="utf-8")), "")
    except (OSError, ValueError, CardError) as error:
        raise AnytagError(
            f"{path}: no recipe of a run ({error}); name the folder that train wrote"
        ) from error
    return recipe
