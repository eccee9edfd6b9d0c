"""Baselines of the speed benchmark: CLIP image encoders of open_clip as ONNX, and a dot product per tag.

Weights are random, which does not change the time. `python baselines.py FOLDER` exports the graphs; it needs
`pip install open_clip_torch onnx onnxscript`. The benchmark runs the export in a subprocess, so that torch
is not loaded in the measured process.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

NEEDS = {"open_clip": "open_clip_torch", "onnx": "onnx", "onnxscript": "onnxscript"}
WIDTH = 512  # of the image and text vectors of both
BATCH = 8


@dataclass(frozen=True)
class Baseline:
    """An image encoder of open_clip, by its name there, and the side of its input in pixels."""

    name: str
    size: int


BASELINES = (Baseline("ViT-B-32", 224), Baseline("MobileCLIP2-S0", 256))


def missing() -> list[str]:
    """Return the packages to install before `export` works."""
    return [package for module, package in NEEDS.items() if find_spec(module) is None]


def export(folder: Path) -> dict[Baseline, Path]:
    """Return the graphs of the baselines in `folder`, exporting those that are missing.

    Each maps `pixels` uint8 8×3×S×S to `image` float32 8×512, of unit length.
    """
    graphs = {baseline: folder / f"{baseline.name}.onnx" for baseline in BASELINES}
    if not all(graph.exists() for graph in graphs.values()):
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, __file__, str(folder)], check=True, stdout=sys.stderr)
    return graphs


def _export(baseline: Baseline, path: Path) -> None:
    import torch
    from timm.utils.model import reparameterize_model

    open_clip: Any = import_module("open_clip")  # has no types

    class Encoder(torch.nn.Module):
        """Normalises inside the graph, as anytag's graph does, so that both are measured with it."""

        mean: torch.Tensor
        std: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            model: Any = open_clip.create_model(baseline.name)
            # FastViT's branches are folded into one convolution, as its authors do before they measure
            self.visual = reparameterize_model(model.visual.eval())
            self.register_buffer("mean", 255 * torch.tensor(model.visual.image_mean or 0.0).view(-1, 1, 1))
            self.register_buffer("std", 255 * torch.tensor(model.visual.image_std or 1.0).view(-1, 1, 1))

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            vectors = self.visual((pixels.float() - self.mean) / self.std)
            return torch.nn.functional.normalize(vectors, dim=-1)

    pixels = torch.zeros(BATCH, 3, baseline.size, baseline.size, dtype=torch.uint8)
    torch.onnx.export(
        Encoder().eval(), (pixels,), path, input_names=["pixels"], output_names=["image"], dynamo=True
    )


if __name__ == "__main__":
    for one in BASELINES:
        _export(one, Path(sys.argv[1]) / f"{one.name}.onnx")
