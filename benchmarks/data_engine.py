"""What each step of the data engine gains: parsed, generated, cleaned (the table of RAM, section 4.3).

    python benchmarks/data_engine.py ROWS CACHE [--split train] [--photos N]

ROWS is rows.jsonl of scripts/prepare_data.py, CACHE what `anytag train mini --cache CACHE` made of it.
Of each Flickr8k photo only one caption is known. `parse` reads its tags; `generate` adds what the embedded
model sees; `clean` takes away what contradicts the picture. On each of the three label sets the same
student learns (a linear probe on frozen features), and is judged by all five captions of the 1,000 test
photos.

The embedded model learned from all captions of the train photos; the dev photos (--split dev) taught it
nothing, but its scores and thresholds were fitted to their captions.
With --wrong 0.3 a share of the photos has the caption of another photo, as on the web.
A probe that learns from all five captions is the reference. Precision and recall are those of the labels
themselves, against all five captions.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from anytag import Tagger
from anytag.data.engine.clean import CleanConfig, clean
from anytag.data.engine.generate import generate, parse
from anytag.data.labels import Labeler
from anytag.data.rows import Row, read_rows
from anytag.evaluation.metrics import mean_average_precision, resampled_average_precision, resamples
from anytag.torch.training.feature_cache import open_cache
from anytag.torch.training.tag_samples import train_probe

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

RESAMPLES = 200
AT_LEAST = 10  # test photos that show a tag, for it to be judged


def pooled_features(folder: Path) -> npt.NDArray[np.float16]:
    """The teacher's features of all photos, in the rows' order: N×F; the rest of the cache is not read."""
    cache = open_cache(folder)
    pooled: npt.NDArray[np.float16] = cache.array("pooled")[np.argsort(cache.array("photo"))]
    return pooled


def labels(sets: Iterable[set[int]], columns: npt.NDArray[np.int64], tags: int) -> Bools:
    """Sets of columns -> N×K bool, of the chosen columns."""
    chosen = list(sets)
    present = np.zeros((len(chosen), tags), bool)
    for row, said in zip(present, chosen, strict=True):
        row[sorted(said)] = True
    return present[:, columns]


def judge(
    train: npt.NDArray[np.float16], said: Bools, test: npt.NDArray[np.float16], truth: Bools
) -> npt.NDArray[np.float64]:
    """mAP on the test photos of a probe that learned what was said, silence being absence.

    Returns:
        of all photos, then of 200 resamples of them.
    """
    probe = train_probe(train, said.astype(np.float32), np.ones(said.shape, np.float32))
    with torch.no_grad():
        scores = probe(torch.from_numpy(test.astype(np.float32))).numpy()
    resampled = resampled_average_precision(scores, truth, resamples(len(test), RESAMPLES))
    whole = mean_average_precision(scores, truth)[0]
    return np.concatenate([[whole], np.nanmean(resampled, axis=1)])


def line(name: str, said: Bools, known: Bools, score: npt.NDArray[np.float64], gain: str) -> str:
    """One label set: tags a photo, share of them that all captions name, share of those that are in, mAP."""
    right = (said & known).sum()
    return (
        f"| {name} | {said.sum(1).mean():.2f} | {right / said.sum():.3f} | {right / known.sum():.3f} "
        f"| {100 * score[0]:.2f} | {gain} |"
    )


def gained(score: npt.NDArray[np.float64], before: npt.NDArray[np.float64]) -> str:
    """A difference of mAP in points, and its 95 % interval over resampled photos."""
    points = 100 * (score - before)
    low, high = np.quantile(points[1:], (0.025, 0.975))
    return f"{points[0]:+.2f} ({low:+.2f} to {high:+.2f})"


def one_caption(rows: Sequence[Row], *, wrong: float) -> list[Row]:
    """The rows with their first caption each; a share of them has that of another photo, as on the web."""
    random = np.random.default_rng(0)
    others = random.permutation(len(rows))[: round(wrong * len(rows))]
    told = dict(zip(others.tolist(), np.roll(others, 1).tolist(), strict=True))
    return [
        replace(row, captions=rows[told.get(number, number)].captions[:1]) for number, row in enumerate(rows)
    ]


def engine(rows: Sequence[Row], root: str, tagger: Tagger, config: CleanConfig) -> dict[str, list[Row]]:
    """The rows after each step."""
    steps = {"parsed": list(parse(rows, Labeler(tagger.vocabulary)))}
    for name in ("generated", "cleaned"):
        start, before = time.perf_counter(), list(steps.values())[-1]
        made = (
            generate(before, root, tagger)
            if name == "generated"
            else clean(before, root, tagger, config=config)
        )
        steps[name] = list(made)
        print(f"{name}: {1000 * (time.perf_counter() - start) / len(rows):.1f} ms a photo", flush=True)
    return steps


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--split", default="train", choices=["train", "dev"])
    parser.add_argument("--judge", default="test", choices=["test", "dev"], help="the photos that judge")
    parser.add_argument("--photos", type=int, help="only so many of the split")
    parser.add_argument("--model", help="which labels; the embedded one by default")
    parser.add_argument(
        "--wrong", type=float, default=0.0, help="share of photos that get the caption of another"
    )
    parser.add_argument("--seen", type=float, default=CleanConfig.seen)
    parser.add_argument("--outliers", type=float, default=CleanConfig.outliers)
    args = parser.parse_args()
    rows, pooled = read_rows(args.rows), pooled_features(args.cache)
    tagger = Tagger.load(args.model)
    labeler = Labeler(tagger.vocabulary)
    train, test = (
        [number for number, row in enumerate(rows) if (row.source, row.split) == ("flickr8k", part)]
        for part in (args.split, args.judge)
    )
    train = train[: args.photos]
    every = np.arange(len(tagger.vocabulary))
    truth = labels((labeler.captions(rows[n].captions) for n in test), every, len(every))
    columns = np.flatnonzero(truth.sum(0) >= AT_LEAST)
    told = one_caption([rows[number] for number in train], wrong=args.wrong)
    config = CleanConfig(seen=args.seen, outliers=args.outliers)
    sets = {
        name: [labeler.labels(row.tags) for row in made]
        for name, made in engine(told, str(args.rows.parent), tagger, config).items()
    }
    sets["five captions"] = [labeler.captions(rows[number].captions) for number in train]
    known = labels(sets["five captions"], columns, len(every))
    print(
        f"{len(train)} photos of {args.split}, {len(columns)} tags, judged by {len(test)} of {args.judge}\n"
    )
    print(
        "| labels | tags a photo | precision | recall | mAP % | against parsed |\n|---|---|---|---|---|---|"
    )
    first = None
    for name, chosen in sets.items():
        said = labels(chosen, columns, len(every))
        score = judge(pooled[train], said, pooled[test], truth[:, columns])
        first = score if first is None else first
        print(line(name, said, known, score, gained(score, first)), flush=True)


if __name__ == "__main__":
    main()
