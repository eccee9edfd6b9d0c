"""Cached features of `mini`: feature maps of its backbone's frozen stages, and a teacher's logits.

The early stages of an ImageNet network change little in fine-tuning, but take most of the time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor, nn

from anytag._typing import Bytes
from anytag.data.rows import Row, read_rows
from anytag.errors import AnytagError
from anytag.models.folder import ModelFolder
from anytag.models.registry import resolve
from anytag.runtime.onnx import IMAGE, open_session
from anytag.torch.nn.backbones import Backbone, imagenet_backbone
from anytag.torch.training.feature_cache import Array, Encoder, FeatureCache, encode_photos
from anytag.torch.training.quantized_graph import QuantizedGraph
from anytag.torch.training.recipes import Features, Recipe
from anytag.torch.training.report import Reporter

POOLED = 9
"""Value of `Features.first` for caching pooled features of the last stage instead of feature maps."""


class _Front(nn.Module):
    """Pixels -> feature map of the frozen stages."""

    def __init__(self, backbone: Backbone, stages: int) -> None:
        super().__init__()
        self.backbone, self.stages = backbone, stages

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.backbone((pixels.float() - 127) / 128, 0, self.stages)
        return features


class _Teacher(nn.Module):
    """Pixels -> (1,000 logits, pooled features)."""

    def __init__(self, backbone: Backbone, classifier: nn.Linear) -> None:
        super().__init__()
        self.backbone, self.classifier = backbone, classifier

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        pooled = self.backbone((pixels.float() - 127) / 128).mean((2, 3))
        return self.classifier(pooled), pooled


def cache_stages(rows: Path, recipe: Recipe, folder: Path, *, report: Reporter) -> FeatureCache:
    """Cache the features of all photos of `rows` that a recipe of `mini` needs; continues if interrupted.

    By view: "features"; by photo: "logits" and "pooled" of the teacher.

    Raises:
        AnytagError: `folder` caches other features, or a photo cannot be read.
    """
    features, config = recipe.features, recipe.network
    assert features is not None and isinstance(config.backbone, str)  # of mini
    model = config.backbone
    if features.first == POOLED:
        model = ModelFolder.open(resolve(recipe.start)).card.files[IMAGE].sha256 if recipe.start else ""
        if not recipe.start:
            raise AnytagError("features.first=9 caches pooled features of a model: give start=FOLDER")
    key = {"model": model, "stage": features.first, "size": config.size, "teacher": recipe.teacher}
    return encode_photos(
        folder, read_rows(rows), rows.parent, partial(_encoder, recipe, features.first),
        _views(features), size=config.size, key=key, report=report,
    )  # fmt: skip


def _views(features: Features) -> Callable[[Row, Random], list[int]]:
    """The views of a photo: a single one is plain or mirrored at random; otherwise the first `count`."""
    pairs = (pair.partition("=") for pair in features.views.split(",") if pair.strip())
    wrong = (
        f"features.views={features.views}, default_views={features.default_views}: expected one view or more "
        "by source, such as flickr8k=5,coco-more=1"
    )
    try:
        counts = {source.strip(): int(count) for source, _, count in pairs}
    except ValueError as error:
        raise AnytagError(wrong) from error
    if min(features.default_views, *counts.values()) < 1:
        raise AnytagError(wrong)

    def views(row: Row, draw: Random) -> list[int]:
        count = counts.get(row.source, features.default_views) if row.split == "train" else 1
        return [draw.randint(0, 1)] if count == 1 and row.split == "train" else list(range(count))

    return views


def _encoder(recipe: Recipe, first: int) -> Encoder:
    """The function that computes the cached arrays from the views of a photo."""
    config = recipe.network
    assert isinstance(config.backbone, str)
    if first == POOLED:
        graph = QuantizedGraph(ModelFolder.open(resolve(recipe.start)).file(IMAGE))
        front = open_session(graph.cut().SerializeToString())
    else:
        backbone, _ = imagenet_backbone(config.backbone, size=config.size)
        front = _exported(_Front(backbone, first), config.size)
    teacher = _exported(_Teacher(*imagenet_backbone(recipe.teacher, size=config.size)), config.size)

    def encode(pixels: Bytes) -> tuple[Mapping[str, Array], Mapping[str, Array]]:
        (features,) = front.run(None, {"pixels": pixels})
        logits, pooled = teacher.run(None, {"pixels": pixels[:1]})
        return _halves(features=features), _halves(logits=logits, pooled=pooled)

    return encode


def _halves(**arrays: Array) -> dict[str, Array]:
    return {name: array.astype(np.float16) for name, array in arrays.items()}


def _exported(module: nn.Module, size: int) -> ort.InferenceSession:
    """Export a module to ONNX Runtime, which is twice as fast as torch."""
    pixels = torch.zeros(2, 3, size, size, dtype=torch.uint8)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "front.onnx")
        torch.onnx.export(
            module.eval(), (pixels,), str(file), dynamo=True, input_names=["pixels"],
            dynamic_shapes={"pixels": {0: torch.export.Dim("batch")}}, external_data=False, verbose=False,
        )  # fmt: skip
        return open_session(file)
