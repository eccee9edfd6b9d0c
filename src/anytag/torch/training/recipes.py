"""Recipes: the configurations that `anytag train NAME` trains.

The published ones (`tag2text-14m`, `ram-14m`, `ram-plus-14m` and their `-384` fine-tunes) have the
hyperparameters of the papers' code: COCO, VG, SBU, CC3M and CC12M (14 million photos; only COCO for the
fine-tunes), 8 GPUs, 5 epochs at 224 pixels and 2 at 384. `tag2text-retrieval` adds alignment heads.
Differences are listed in docs/how-to/train-families.md.
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

# Training uses CLIP's normalisation, inference ImageNet's (`anytag.torch.nn.configs`), as published.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

GPUS = 8
Precision = Literal["no", "bf16", "fp16"]


@dataclass(frozen=True)
class Features:
    """Cached features of a run.

    Attributes:
        first: the stage whose input is cached; 9: pooled features of the last stage, of the model folder
            `start`.
        trained: the first stage that is trained; 9: neither stages nor the projections to tokens.
        views: number of views per photo by source, such as "flickr8k=5,coco-more=1". The first view is the
            plain photo, the second its mirror image, the others are random crops. A single view is mirrored
            with probability 0.5.
        default_views: number of views for other sources.
        sources: comma-separated sources to train on; empty: all.
        held_out: fraction of the vocabulary without supervision.
    """

    first: int = 5
    trained: int = 5
    views: str = "coco-more=1"
    default_views: int = 3
    sources: str = ""
    held_out: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """Configuration of one run.

    Attributes:
        about: data, hardware, expected results.
        network: configuration of the network.
        objective: the loss terms.
        features: cached features of a run that does not read photos; None: it reads photos.
        backbone: timm's name of a backbone, instead of that of `network`; empty: none.
        batch_size: photos per step over all processes.
        epochs: epochs over the photos, if `steps` is 0.
        steps: number of steps; 0: given by `epochs`.
        rate: peak learning rate, after `warmup` steps; see `schedule`.
        backbone_rate: peak learning rate of the backbone; 0: the same as `rate`.
        sampled_tags: number of negative tags sampled per step, to estimate the loss of all tags; 0: all tags,
            as published.
        ema: decay of the averaged weights, which are the result.
        start: initial weights, see `init_weights`; for `mini` a model folder or its name, and for
            `mini-captions` the model folder with the frozen encoder.
        vocabulary: a vocabulary.jsonl; empty: made from the captions and tags of the rows. For `mini` a
            folder with descriptions.jsonl and imagenet.json too.
        descriptions: a descriptions.jsonl, for queries of several texts.
        embedding: a file of text vectors of the vocabulary, K·P rows.
        clip: a CLIP model for text vectors, by folder or name; empty: the static text table.
        wordpieces: a vocab.txt for captions; empty: made from the captions.
        teacher: a CLIP model whose image tower gets the same crop; empty: no distillation. For `mini` an
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
    """A published recipe with `batch` photos per GPU."""
    config, objective = FAMILIES[family], OBJECTIVES[family]
    assert isinstance(config.backbone, SwinConfig)  # as in all published families
    size = 32 * window
    network = replace(
        config, backbone=replace(config.backbone, window=window), size=size, mean=CLIP_MEAN, std=CLIP_STD
    )
    # The published code adds a mean over a GPU's photos to sums over them; here all terms are means.
    weight = 1.0 if objective.captions else 1 / batch
    objective = replace(objective, weights=replace(objective.weights, distillation=weight))
    recipe = Recipe(f"{family} {about}", network, objective, batch_size=batch * GPUS)
    return replace(recipe, **numbers)  # type: ignore[arg-type]


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
    """Tags, captions and alignment together, as in Tag2Text's paper; the recipe is not published."""
    return replace(
        recipe,
        about=f"{recipe.about}; with alignment heads, which find photos by a sentence",
        network=replace(recipe.network, alignment=AlignmentConfig()),
        objective=replace(recipe.objective, matching=Matching()),
    )


def small() -> Recipe:
    """A folded decoder on any timm backbone, with queries from the static text table; exported to ONNX."""
    return Recipe(
        about="a small tagger with any timm backbone (backbone=resnet18), from scratch, for one GPU",
        network=NetworkConfig(backbone="", size=224, width=512, heads=4, text_hidden=512),
        objective=Objective(aligns=True, gamma_neg=3.0),
        backbone="resnet18",
        epochs=20,
        ema=0.998,
    )


def flickr8k_tiny() -> Recipe:
    """A short run for trying out training."""
    return replace(
        small(),
        about="for trying: Flickr8k's 6,000 photos, two CPU cores, about ten minutes; learns little",
        network=NetworkConfig(backbone="", size=96, width=128, heads=4, text_hidden=128),
        backbone="mobilenetv3_small_050",
        epochs=2,
        warmup=20,
    )


def mini() -> Recipe:
    """The embedded model, from cached features of its backbone's frozen stages."""
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
    """The embedded model's caption head, on its frozen image encoder."""
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
        AnytagError: there is no such recipe; the message lists all names.
    """
    if name not in RECIPES:
        raise AnytagError(f"no recipe {name!r}; expected one of {', '.join(RECIPES)}")
    return RECIPES[name]()


def read_recipe(path: Path) -> Recipe:
    """The recipe that a run wrote as OUT/recipe.json.

    Raises:
        AnytagError: the file cannot be read, or is not a recipe of this version.
    """
    try:
        recipe: Recipe = record(Recipe, json.loads(path.read_text(encoding="utf-8")), "")
    except (OSError, ValueError, CardError) as error:
        raise AnytagError(
            f"{path} is not the recipe of a run ({error}); give the folder that anytag train wrote"
        ) from error
    return recipe
