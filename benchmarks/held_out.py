"""Accuracy on held-out words: a fifth of the vocabulary gets no supervision at all, and is scored anyway.

    python benchmarks/held_out.py ROWS CACHE VOCABULARY WORK [key=value ...]

Trains twice with the same short recipe (captioned photos of Flickr8k and COCO, backbone frozen, 300 steps by
default): on all tags, and with every fifth tag of a shuffle removed from the labels, caption queries,
teachers and residuals. Then scores the held-out tags on Flickr8k test from their words alone (names and
descriptions), and the others as trained.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from anytag.evaluation.metrics import average_precision
from anytag.torch.training.effects import resolve
from anytag.torch.training.feature_cache import open_cache
from anytag.torch.training.feature_dataset import FeatureDataset
from anytag.torch.training.mini import build_student, features_of, held_out_tags, samples_of, start
from anytag.torch.training.student import Student
from anytag.torch.training.tag_samples import StageFeatures, TagSamples
from anytag.torch.training.trainer import Trainer
from anytag.vocabulary import Vocabulary

DEFAULTS = {"steps": "300", "features.trained": "9", "features.sources": "flickr8k,coco,coco-more"}
PART = 0.2


@torch.no_grad()
def test_logits(
    student: Student, samples: TagSamples, words_only: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float32]:
    """Return logits N×K of Flickr8k test; tags of `words_only` are scored without their trained vectors."""
    student.eval()
    split = (samples.split == "test") & (samples.source == "flickr8k")
    untrained = torch.from_numpy(words_only)[:, None, None]
    rows = torch.where(untrained, student.queries(words_only=True), student.queries())
    out = []
    for views in np.array_split(np.flatnonzero(split[samples.cache.row]), 20):
        features = torch.from_numpy(samples.cache.features[views].astype(np.float32))
        seen = student.encode(features)
        decode = partial(student.network.decoder, seen.tokens, seen.pooled)
        parts = [decode(part[None]) for part in torch.split(rows, 512)]
        out.append(torch.cat(parts, dim=1).numpy())
    return np.concatenate(out)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("rows", "cache", "vocabulary", "work"):
        parser.add_argument(name, type=Path)
    parser.add_argument("recipe", nargs="*", metavar="key=value")
    args = parser.parse_args()
    vocabulary = Vocabulary.read(args.vocabulary / "vocabulary.jsonl")
    cache = StageFeatures.of(open_cache(args.cache))
    held = np.zeros(len(vocabulary), dtype=bool)
    held[held_out_tags(len(vocabulary), PART)] = True
    settings = {**DEFAULTS, **dict(pair.split("=", 1) for pair in args.recipe)}
    pairs = [f"{key}={value}" for key, value in settings.items()]
    found = {}
    for part in (0.0, PART):
        recipe = resolve("mini", [*pairs, f"vocabulary={args.vocabulary}"])
        recipe = replace(recipe, features=replace(features_of(recipe), held_out=part))
        samples = samples_of(recipe, args.rows, cache)
        student, classifier = build_student(recipe)
        start(student, classifier, samples, recipe.start)
        out = args.work / f"held-out-{part}"
        out.mkdir(parents=True, exist_ok=True)
        dataset = FeatureDataset(samples, batch_size=recipe.batch_size, seed=recipe.seed)
        trainer = Trainer(student, dataset, recipe, out)
        trainer.resume()
        trainer.fit()
        student.load_state_dict(trainer.ema.state(student))
        found[part] = test_logits(student, samples, held if part else np.zeros_like(held))
    views = cache.row[np.flatnonzero(((samples.split == "test") & (samples.source == "flickr8k"))[cache.row])]
    truth = samples.present[views] == 1
    often = truth.sum(0) >= 5
    for name, tags in (("held out", held & often), ("trained", ~held & often)):
        ap = {
            part: average_precision(logits[:, tags], truth[:, tags]).mean() for part, logits in found.items()
        }
        prevalence = truth[:, tags].mean()
        print(
            f"{name}: {tags.sum()} tags, prevalence {prevalence:.4f}, mAP trained on all {ap[0.0]:.4f}, "
            f"without the held-out fifth {ap[PART]:.4f} ({ap[PART] / prevalence:.1f} × prevalence, "
            f"{ap[PART] / ap[0.0]:.3f} × all)"
        )


if __name__ == "__main__":
    main()
