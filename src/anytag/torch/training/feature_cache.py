"""Runs the frozen part of a backbone once over all photos, so that training starts from its feature maps.

    python -m anytag.torch.training.feature_cache ROWS OUT [--views flickr8k=3,coco-more=1] [--workers 2]

The early stages of an ImageNet network change little in fine-tuning and cost most of its time. Their output
for every photo (and for flipped and cropped views) is written once, in shards, with the answers of a teacher
classifier. A run that is killed goes on with the first missing shard.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import zlib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch
from PIL import Image
from torch import Tensor, nn

from anytag.data.rows import Row, read_rows
from anytag.errors import AnytagError
from anytag.images import Photo, load, prepare
from anytag.models.folder import ModelFolder
from anytag.models.registry import resolve
from anytag.runtime.onnx import IMAGE
from anytag.torch.nn.backbones import Backbone, imagenet_backbone
from anytag.torch.training.quantized import QuantizedGraph

Array = npt.NDArray[np.generic]

SHARD = 512
KEYS = ("features", "memory", "row", "view", "photo", "logits", "pooled")
MIN_AREA = 0.55


@dataclass(frozen=True)
class CacheConfig:
    """What is cached: `stages` of `backbone` at `size`, and the teacher's logits and pooled features.

    Attributes:
        stages: how many stages are frozen.
        start: a model folder, or the name of one, whose own image graph is run instead of the ImageNet
            weights: the mean of what its last stage makes of a photo, in the integers that ship.
        views: views of a photo by source; the first is the plain photo, the second its mirror, the rest
            random crops. A source that is not named gets `default_views`. With a single view, half of the
            photos are mirrored.
    """

    rows: Path
    out: Path
    views: dict[str, int]
    backbone: str = "tf_efficientnet_lite0"
    size: int = 224
    stages: int = 5
    teacher: str = "tf_efficientnet_lite2"
    default_views: int = 3
    start: str = ""

    def shard(self, number: int) -> Path:
        """Where a shard is."""
        return self.out / f"shard-{number:04d}.npz"


def _claim(config: CacheConfig) -> None:
    """Notes in cache.json what the shards of the folder are made of.

    Raises:
        AnytagError: the folder's shards are of other rows or other numbers.
    """
    said = {key: value for key, value in asdict(config).items() if key not in ("rows", "out")}
    said["rows"] = zlib.crc32(config.rows.read_bytes())
    path = config.out / "cache.json"
    if path.exists() and json.loads(path.read_text()) != said:
        raise AnytagError(f"{config.out} holds the cache of other rows or views; name an empty folder")
    path.write_text(json.dumps(said))


class _Front(nn.Module):
    """Pixels -> feature map of the frozen stages, and what the later ones remember (pooled features)."""

    def __init__(self, backbone: Backbone, stages: int) -> None:
        super().__init__()
        self.backbone, self.stages = backbone, stages

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        features: Tensor = self.backbone((pixels.float() - 127) / 128, 0, self.stages)
        return features, self.backbone(features, self.stages).mean((2, 3))


class _Teacher(nn.Module):
    """Pixels -> (1,000 logits, pooled features)."""

    def __init__(self, backbone: Backbone, classifier: nn.Linear) -> None:
        super().__init__()
        self.backbone, self.classifier = backbone, classifier

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        pooled = self.backbone((pixels.float() - 127) / 128).mean((2, 3))
        return self.classifier(pooled), pooled


def export_networks(config: CacheConfig) -> None:
    """Writes front.onnx and teacher.onnx into the cache folder: ONNX Runtime is twice as fast as torch."""
    front, _ = imagenet_backbone(config.backbone, size=config.size)
    networks: dict[str, nn.Module] = {"front": _Front(front, config.stages)}
    if config.start:
        networks.clear()
        onnx.save(cut_graph(ModelFolder.open(resolve(config.start)).file(IMAGE)), config.out / "front.onnx")
    if config.teacher != config.backbone:
        networks["teacher"] = _Teacher(*imagenet_backbone(config.teacher, size=config.size))
    batch = torch.export.Dim("batch")
    for name, module in networks.items():
        pixels = torch.zeros(2, 3, config.size, config.size, dtype=torch.uint8)
        torch.onnx.export(
            module.eval(), (pixels,), str(config.out / f"{name}.onnx"), dynamo=True, input_names=["pixels"],
            dynamic_shapes={"pixels": {0: batch}}, external_data=False, verbose=False,
        )  # fmt: skip


def cut_graph(file: Path) -> onnx.ModelProto:
    """A folder's image graph up to the means of its last features and of its memory; as floats.

    Raises:
        ModelError: not an image graph in int8 with a memory.
    """
    return QuantizedGraph(file).cut()


def view(photo: Photo, number: int, *, size: int, draw: random.Random) -> np.ndarray:
    """View `number` of a photo as uint8 3×S×S: 0 plain, 1 mirrored, else a random crop."""
    if number < 2:
        pixels = prepare(photo, size=size)
        return pixels[:, :, ::-1] if number else pixels
    image = Image.fromarray(photo.pixels)
    side = [draw.uniform(MIN_AREA, 1) ** 0.5 for _ in range(2)]
    width, height = (round(full * part) for full, part in zip(image.size, side, strict=True))
    left, top = draw.randint(0, image.width - width), draw.randint(0, image.height - height)
    pixels = prepare(load(image.crop((left, top, left + width, top + height))), size=size)
    return pixels[:, :, ::-1] if draw.random() < 0.5 else pixels


def _session(file: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def cache_shard(config: CacheConfig, number: int, rows: list[tuple[int, Row]]) -> None:
    """Writes shard-NNNN.npz: features, memory, row, view by view; photo, logits, pooled by photo."""
    path = config.shard(number)
    front, file = _session(config.out / "front.onnx"), config.out / "teacher.onnx"
    teacher = _session(file) if file.exists() else None
    _, classifier = imagenet_backbone(config.backbone, size=config.size)
    weight, bias = classifier.weight.detach().numpy().T, classifier.bias.detach().numpy()
    parts: dict[str, list[Array]] = {key: [] for key in KEYS}
    for index, row in rows:
        draw = random.Random(zlib.crc32(row.image.encode()))
        photo = load(config.rows.parent / row.image, near=config.size)
        views = config.views.get(row.source, config.default_views) if row.split == "train" else 1
        numbers = [draw.randint(0, 1)] if views == 1 and row.split == "train" else list(range(views))
        pixels = np.stack([view(photo, n, size=config.size, draw=draw) for n in numbers])
        features, memory = front.run(None, {"pixels": pixels})
        parts["features"].append(features.astype(np.float16))
        parts["memory"].append(memory.astype(np.float16))
        if teacher is None:  # the backbone's own classifier, which its memory is all that it needs for
            logits, pooled = memory[:1] @ weight + bias, memory[:1]
        else:
            logits, pooled = teacher.run(None, {"pixels": pixels[:1]})
        parts["row"].append(np.full(len(numbers), index, dtype=np.int32))
        parts["view"].append(np.array(numbers, dtype=np.int8))
        parts["photo"].append(np.array([index], dtype=np.int32))
        parts["logits"].append(logits.astype(np.float16))
        parts["pooled"].append(pooled.astype(np.float16))
    partial = path.with_suffix(".partial.npz")
    whole: dict[str, Any] = {key: np.concatenate(values) for key, values in parts.items()}
    np.savez(partial, **whole)
    partial.rename(path)


def build_cache(config: CacheConfig, *, workers: int) -> None:
    """Writes every missing shard; photos are shuffled once, so each shard is a sample of all sources."""
    config.out.mkdir(parents=True, exist_ok=True)
    _claim(config)
    if not (config.out / "front.onnx").exists():
        export_networks(config)
    rows = list(enumerate(read_rows(config.rows)))
    random.Random(0).shuffle(rows)
    shards = enumerate(rows[start : start + SHARD] for start in range(0, len(rows), SHARD))
    missing = [(number, shard) for number, shard in shards if not config.shard(number).exists()]
    # A fork would inherit torch's locks, but not the threads that hold them.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(cache_shard, config, number, shard) for number, shard in missing]
        for number, job in enumerate(jobs, 1):
            job.result()
            sys.stderr.write(f"\r{number} of {len(jobs)} missing shards")
    sys.stderr.write("\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--views", default="coco-more=1", help="views by source, e.g. flickr8k=3,coco-more=1")
    parser.add_argument("--default-views", type=int, default=3, help="views of the sources not named")
    parser.add_argument("--start", default="", help="a model folder, all of whose stages but one are frozen")
    parser.add_argument("--teacher", default="tf_efficientnet_lite2")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    views = {source: int(count) for source, count in (pair.split("=") for pair in args.views.split(","))}
    config = CacheConfig(
        rows=args.rows, out=args.out, views=views, start=args.start, teacher=args.teacher,
        default_views=args.default_views, stages=9 if args.start else 5,
    )  # fmt: skip
    build_cache(config, workers=args.workers)


if __name__ == "__main__":
    main()
