"""Merge the two branches of version 9 of the embedded model into one: a start for version 10.

    python -m scripts.merge_branches V9_FLOAT ROWS CACHE OUT

Up to version 9 a frozen copy of the pretrained late stages ran beside the trained ones. V9_FLOAT is version 9
with float weights, as its own scripts/float_weights.py writes it, and CACHE has the features of ROWS for
`anytag train mini`. The late stages become the mean of trained and pretrained ones; what projected the
features of either branch now projects the least-squares estimate of these features from the merged ones.
"""

from __future__ import annotations

import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from anytag._io import atomic_write
from anytag.data.rows import read_rows
from anytag.models.folder import ModelFolder, edited_copy, write_card
from anytag.torch.nn.backbones import Backbone, fold_norms, imagenet_backbone
from anytag.torch.nn.configs import FAMILIES
from anytag.torch.training.feature_cache import open_cache
from anytag.torch.training.mini_init import ENCODER

STAGE = 5
"""The first stage of the two branches."""
SHARE = 0.5
"""Share of the pretrained weights. Without training, 0, .25, .5, .75 and 1 gave a mean AP of .824, .827,
.830, .828 and .822 by name over the parts of 2,143 held-out photos; version 9, with two branches, .838."""
VIEWS = 12_000
RIDGE = 1e-3


@torch.no_grad()
def pool(stages: nn.ModuleList, features: Tensor) -> Tensor:
    """Feature maps N×C×h×w -> pooled features N×F."""
    out = []
    for part in torch.split(features, 64):
        x = part.float().to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            for stage in stages:
                x = stage(x)
        out.append(x.float().mean((2, 3)))
    return torch.cat(out)


def estimate(given: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Ridge regression: given N×F, wanted N×G -> weight G×F and bias G."""
    x, y = given - given.mean(0), wanted - wanted.mean(0)
    moments = x.T @ x / len(x)
    moments += RIDGE * moments.diagonal().mean() * torch.eye(len(moments))
    weight = torch.linalg.solve(moments, x.T @ y / len(x)).T
    return weight, wanted.mean(0) - weight @ given.mean(0)


def merged_encoder(encoder: dict[str, Tensor], features: Tensor) -> dict[str, Tensor]:
    """Weights of the image network with one branch.

    Args:
        encoder: those with two.
        features: inputs of the branches for some photos, N×C×h×w.
    """
    name = FAMILIES["mini"].backbone
    assert isinstance(name, str)
    backbone, classifier = imagenet_backbone(name, size=FAMILIES["mini"].size)
    assert isinstance(backbone, Backbone)
    fold_norms(backbone)
    pretrained, stages = deepcopy(backbone.stages), backbone.stages
    stages.load_state_dict({n: encoder[f"backbone.stages.{n}"] for n in stages.state_dict()})
    old = [pool(branch[STAGE:], features) for branch in (stages, pretrained)]
    with torch.no_grad():
        for ours, theirs in zip(stages.parameters(), pretrained.parameters(), strict=True):
            ours.lerp_(theirs, SHARE)
    new = pool(stages[STAGE:], features)
    (late, late_bias), (memory, memory_bias) = (estimate(new, one) for one in old)

    def project(on_late: Tensor, on_memory: Tensor) -> tuple[Tensor, Tensor]:
        return on_late @ late + on_memory @ memory, on_late @ late_bias + on_memory @ memory_bias

    out = {n: w for n, w in encoder.items() if not n.startswith("backbone.") and n != "recall.weight"}
    out |= {f"backbone.stages.{n}": w for n, w in stages.state_dict().items()}
    out["proj.weight"], bias = project(encoder["proj.weight"], encoder["recall.weight"])
    out["proj.bias"] = encoder["proj.bias"] + bias
    # `seen` has no bias: its constant goes to the bias of the module's output.
    out["evidence.seen.weight"], bias = project(*encoder["evidence.seen.weight"].chunk(2, 1))
    out["evidence.out.bias"] = encoder["evidence.out.bias"] + bias
    out["evidence.seen_hidden.weight"], bias = project(*encoder["evidence.seen_hidden.weight"].chunk(2, 1))
    out["evidence.seen_hidden.bias"] = encoder["evidence.seen_hidden.bias"] + bias
    out["evidence.classifier.weight"] = classifier.weight @ memory
    out["evidence.classifier.bias"] = classifier.bias + classifier.weight @ memory_bias
    return {n: w.detach().contiguous() for n, w in out.items()}


def training_features(rows: Path, cache: Path) -> Tensor:
    """Cached features of some training photos."""
    train = np.array([row.split == "train" for row in read_rows(rows)])
    found: list[Tensor] = []
    for shard in open_cache(cache).shards:
        found.append(torch.from_numpy(shard["features"][train[shard["row"]]]))
        if sum(map(len, found)) >= VIEWS:
            break
    return torch.cat(found)


def main(model: Path, rows: Path, cache: Path, out: Path) -> None:
    base = ModelFolder.open(model)
    encoder = merged_encoder(load_file(base.file(ENCODER)), training_features(rows, cache))
    with edited_copy(base, out) as draft:
        with atomic_write(draft / ENCODER) as file:
            save_file(encoder, file)
        write_card(draft, base.card)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
