"""A training step of RAM++ at reduced size, anytag's trainer against a simple one of the published form.

    OMP_NUM_THREADS=1 python benchmarks/training.py [--batch 4] [--steps 3] [--feed ROWS]

4,585 tags of 51 descriptions, a full-size tag decoder, a small Swin (224 px, 50 tokens), random weights, one
thread; a step is forward with all three losses, backward and AdamW. Each contestant runs in a subprocess: the
CPU seconds per step (the best one) and the peak memory. "plain" repeats the whole table of descriptions for
the batch and weights the descriptions photo by photo, in float32. "bfloat16" is a recipe's precision=bf16:
matrix products in bfloat16 by autocast, weights and optimizer in float32. "1,024 drawn" decodes the tags of
the batch and a random sample of others, an unbiased estimate of the loss over all.

`--feed ROWS` measures the input pipeline instead: the share of time that the recipe flickr8k-tiny waits.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anytag.torch.nn.configs import FAMILIES, SwinConfig
from anytag.torch.nn.network import TagNetwork
from anytag.torch.training.batch import Batch
from anytag.torch.training.fit import prepare
from anytag.torch.training.objectives import OBJECTIVES
from anytag.torch.training.recipes import find
from anytag.torch.training.report import Reporter
from anytag.torch.training.run import Run, RunOptions
from anytag.torch.training.student import FixedQueries, Student
from anytag.torch.training.terms import terms_of

TAGS, TEXTS, WIDTH = 4585, 51, 512
SWIN = SwinConfig(width=32, depths=(2, 2, 2, 2), heads=(1, 2, 4, 8), window=7)
CONTESTANTS = (
    "plain",
    "ours, all tags",
    "ours, all tags, bfloat16",
    "ours, 1,024 drawn",
    "ours, 1,024 drawn, bfloat16",
)


class Plain(nn.Module):
    """The decoder as published: repeated labels, one photo after the other."""

    labels: Tensor

    def __init__(self, network: TagNetwork, rows: Tensor) -> None:
        super().__init__()
        self.network, self.scale = network, nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.decoder: Any = network.decoder
        self.register_buffer("labels", rows.flatten(0, 1), persistent=False)

    def forward(self, pixels: Tensor, tags: Tensor, texts: Tensor, teacher: Tensor) -> Tensor:
        tokens, pooled = self.network.encoder(pixels)
        distillation = (pooled - teacher).abs().mean()
        queries = F.relu(self.decoder.project(self._weighted(pooled)))
        tag = asymmetric(self._decode(queries, tokens), tags, gamma_neg=7)
        queried = F.relu(self.decoder.project(texts))[None].repeat(len(pixels), 1, 1)
        own = torch.eye(len(pixels))
        total: Tensor = tag + distillation + asymmetric(self._decode(queried, tokens), own, gamma_neg=4)
        return total

    def _weighted(self, pooled: Tensor) -> Tensor:
        unit = pooled / pooled.norm(dim=-1, keepdim=True)
        scores = self.scale.exp() * unit @ self.labels.T  # N×(K·P)
        table = self.labels[None].repeat(1, 1, 1)
        found = []
        for photo in scores:
            weights = photo.view(TAGS, TEXTS).softmax(1)
            repeated = table.view(TAGS, TEXTS, WIDTH)
            found.append((weights[..., None] * repeated).sum(1))
        return torch.stack(found)

    def _decode(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """Write attention out, as the published layers do."""
        x = queries
        for layer in self.decoder.layers:
            cross, heads = layer.cross, self.decoder.heads
            q, k, v = (split(y, heads) for y in (cross.query(x), cross.key(tokens), cross.value(tokens)))
            weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
            weights = F.dropout(weights, 0.1, self.training)
            mixed = (weights @ v).transpose(1, 2).flatten(2)
            x = cross.norm(x + F.dropout(cross.dense(mixed), 0.1, self.training))
            x = layer.mlp(x)
        logits: Tensor = self.decoder.head(x).squeeze(-1)
        return logits


def split(x: Tensor, heads: int) -> Tensor:
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def asymmetric(logits: Tensor, targets: Tensor, *, gamma_neg: float, clip: float = 0.05) -> Tensor:
    """Return the published loss, a sum."""
    p = logits.sigmoid()
    m = (1 - p + clip).clamp(max=1)
    loss = targets * p.clamp(min=1e-8).log() + (1 - targets) * m.clamp(min=1e-8).log()
    with torch.no_grad():
        pt = p * targets + m * (1 - targets)
        weight = (1 - pt) ** (gamma_neg * (1 - targets))
    return -(loss * weight).sum()


def measure(contestant: str, *, batch: int, steps: int) -> dict[str, float]:
    """Measure in this process: the best step's CPU seconds, the peak in GB."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = TagNetwork(replace(FAMILIES["ram-plus"], backbone=SWIN, size=224))
    rows = torch.randn(TAGS, TEXTS, WIDTH).div_(WIDTH**0.5)  # about unit length, without a second table
    pixels = torch.randint(0, 256, (batch, 3, 224, 224), dtype=torch.uint8)
    tags = (torch.rand(batch, TAGS) < 10 / TAGS).float()
    texts, teacher = F.normalize(torch.randn(batch, WIDTH), dim=-1), torch.randn(batch, WIDTH)
    plain, half = contestant == "plain", "bfloat16" in contestant
    model: nn.Module
    if plain:
        model = Plain(network, rows)
    else:
        sampled = 1024 if "drawn" in contestant else 0
        queries = FixedQueries(rows, "bf16" if half else "no")
        objective = OBJECTIVES["ram-plus"]
        model = Student(network, queries, objective, terms_of(objective), sampled=sampled)
    del rows
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0.05)
    seconds = []
    for _ in range(steps + 1):
        start = time.process_time()
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            if plain:
                loss = model(pixels, tags, texts, teacher)
            else:
                loss = model(Batch(pixels=pixels, tags=tags, texts=texts, teacher=teacher))["loss"]
        loss.backward()
        optimizer.step()
        seconds.append(time.process_time() - start)
    return {"seconds": min(seconds[1:]), "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}


def compare(batch: int, steps: int) -> None:
    found = {}
    for contestant in CONTESTANTS:
        command = [sys.executable, __file__, "--only", contestant, f"--batch={batch}", f"--steps={steps}"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[contestant] = json.loads(done.stdout.splitlines()[-1])
    print(f"| batch of {batch} | CPU s per step | peak GB | times faster | share of the memory |")
    print("|---|---:|---:|---:|---:|")
    for contestant, figures in found.items():
        baseline = found["plain"]
        print(
            f"| {contestant} | {figures['seconds']:.2f} | {figures['peak']:.2f} "
            f"| {baseline['seconds'] / figures['seconds']:.2f} | {figures['peak'] / baseline['peak']:.2f} |"
        )


def feed(rows: Path, steps: int) -> None:
    """Print the share of time that the recipe waits for photos, after its start."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = replace(find("flickr8k-tiny"), steps=steps)
        run_options = RunOptions(workers=2, log_every=10, tensorboard=False)
        trainer = prepare(Run(recipe, rows, Path(folder), run_options), Reporter())
        trainer.evaluate = lambda: {}  # type: ignore[method-assign]
        trainer.fit()
        lines = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]
    later = lines[1:]
    print(f"waited for photos: {sum(line['waited'] for line in later) / len(later):.3f} of the time")
    print(f"photos per second: {sum(line['photos_per_second'] for line in later) / len(later):.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--only", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--feed", type=Path, metavar="ROWS")
    args = parser.parse_args()
    if args.only:
        print(json.dumps(measure(args.only, batch=args.batch, steps=args.steps)))
    elif args.feed:
        feed(args.feed, args.steps)
    else:
        compare(args.batch, args.steps)


if __name__ == "__main__":
    main()
