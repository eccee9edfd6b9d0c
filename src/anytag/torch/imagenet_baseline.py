"""Baseline without a vision-language model: an ImageNet classifier and the similarity of class names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor, nn

from anytag._typing import AnyFloats, Floats, Halves
from anytag.batching import batches, usable_cores
from anytag.errors import AnytagError
from anytag.evaluation import metrics
from anytag.evaluation.adapters import Predictions
from anytag.evaluation.tasks import TagTask
from anytag.images import load, prepare
from anytag.models.registry import EMBEDDED
from anytag.progress import SILENT, Reporter, watched
from anytag.runtime.onnx import open_session
from anytag.text_encoders import StaticTextEncoder
from anytag.torch.export.onnx_graphs import export_graph
from anytag.torch.nn.backbones import Backbone, imagenet_backbone

BATCH = 16


class _Pooled(nn.Module):
    """Pixels uint8 N×3×S×S -> mean of the last feature map, N×F."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.backbone((pixels.float() - 127) / 128)
        return features.mean((2, 3))


@lru_cache(maxsize=4)  # an export takes longer than encoding a thousand photos
def _exported(name: str, size: int) -> tuple[bytes, Floats, Floats]:
    """The graph of `_Pooled`, weight 1000×F and bias of the classifier."""
    backbone, classifier = imagenet_backbone(name, size=size)
    pixels = torch.zeros(2, 3, size, size, dtype=torch.uint8)
    with TemporaryDirectory() as folder:
        file = Path(folder, "pooled.onnx")
        axes = {"pixels": "N3SS", "pooled": "NF"}
        export_graph(_Pooled(backbone).eval(), file, (pixels,), axes, dynamic="N")
        graph = file.read_bytes()
    return graph, classifier.weight.detach().numpy(), classifier.bias.detach().numpy()


class FrozenBackbone:
    """A backbone with its ImageNet weights, run by ONNX Runtime, which is twice as fast as torch.

    Args:
        name: timm's name, one of `anytag.torch.nn.backbones.PRETRAINED_PACKAGES`.
        size: side in pixels of the square that photos are resized to.

    Raises:
        MissingExtraError: the package with its weights is not installed.
        ModelError: no package is known for its weights.
    """

    def __init__(self, name: str, *, size: int = 224) -> None:
        self.name, self.size = name, size
        graph, self._weight, self._bias = _exported(name, size)
        self._session = open_session(graph)  # batches run in parallel

    def features(self, paths: Sequence[Path], *, report: Reporter = SILENT) -> tuple[Halves, dict[int, str]]:
        """Pooled features float16 N×F, and the reason for each index whose photo cannot be read.

        The row of such a photo has no meaning.
        """
        with ThreadPoolExecutor(usable_cores()) as pool:
            parts = pool.map(self._batch, batches(paths, BATCH))
            results = list(watched(_chain(parts), report, total=len(paths), what=self.name))
        failed = {number: reason for number, (_, reason) in enumerate(results) if reason}
        return np.stack([row for row, _ in results]), failed

    def _batch(self, paths: Sequence[Path]) -> list[tuple[Halves, str]]:
        pixels = np.zeros((len(paths), 3, self.size, self.size), np.uint8)
        reasons = [""] * len(paths)
        for number, path in enumerate(paths):
            try:
                pixels[number] = prepare(load(path, min_side=self.size), size=self.size)
            except AnytagError as error:
                reasons[number] = str(error)
        rows = self._session.run(None, {"pixels": pixels})[0].astype(np.float16)
        return list(zip(rows, reasons, strict=True))

    def probabilities(self, features: Halves) -> Floats:
        """Probabilities of the 1,000 classes, N×1000, from pooled features N×F."""
        logits = features.astype(np.float32) @ self._weight.T + self._bias
        exp = np.exp(logits - logits.max(1, keepdims=True))
        return np.asarray(exp / exp.sum(1, keepdims=True), dtype=np.float32)


class ClassifierWithText:
    """An ImageNet classifier whose probabilities are transferred to tag names by similarity of text vectors.

    Of six transfer methods the best one on the test set counts, which favours the baseline. It has been
    trained on ImageNet's labels only.
    """

    trained_on = (
        "the labelled photos of ImageNet's 1,000 classes only. How probabilities are transferred to names "
        "was chosen on the test photos, which favours the baseline"
    )

    def __init__(self, backbone: str, *, size: int = 224) -> None:
        self.frozen = FrozenBackbone(backbone, size=size)
        self.name = f"ImageNet classifier {backbone} + text table"
        self.encoder = StaticTextEncoder.from_folder(EMBEDDED / "text")
        info = ImageNetInfo()
        self.classes = self.encoder.encode([info.index_to_description(k).split(",")[0] for k in range(1000)])

    def transfer(self, p: Floats, names: Sequence[str]) -> dict[str, AnyFloats]:
        """Probabilities N×1000 -> scores N×K, by name of the transfer method."""
        similar = self.classes @ self.encoder.encode(list(names)).T
        transferred: dict[str, AnyFloats] = {"sum": p @ similar, "best": _best(p, similar)}
        for temperature in (0.03, 0.1):
            sharp = np.exp((similar - 1) / temperature)
            transferred[f"sharp {temperature}"] = p @ sharp
            transferred[f"softmax {temperature}"] = p @ (sharp / sharp.sum(1, keepdims=True))
        return transferred

    def scores(self, paths: Sequence[Path], names: Sequence[str]) -> dict[str, AnyFloats]:
        """Scores N×K, by name of the transfer method.

        Raises:
            AnytagError: a photo cannot be read.
        """
        features, failed = self.frozen.features(paths)
        if failed:
            raise AnytagError(next(iter(failed.values())))
        return self.transfer(self.frozen.probabilities(features), names)

    def predict(self, task: TagTask, *, report: Reporter = SILENT) -> Predictions:
        """The scores of the transfer method with the highest mAP."""
        features, failed = self.frozen.features(task.photos, report=report)
        transferred = self.transfer(self.frozen.probabilities(features), [tag.name for tag in task.tags])
        best = max(transferred.values(), key=lambda s: metrics.mean_average_precision(s, task.present)[0])
        return Predictions(best.astype(np.float32), failed)


def _best(p: Floats, similar: AnyFloats) -> AnyFloats:
    """For each name the largest product of probability and similarity; photo by photo to bound memory."""
    return np.stack([(row[:, None] * similar).max(0) for row in p])


def _chain(parts: Iterable[list[tuple[Halves, str]]]) -> Iterable[tuple[Halves, str]]:
    for part in parts:
        yield from part
