"""The gain of each step of the data engine: parsed, generated, cleaned (the table of RAM, section 4.3).

    python benchmarks/data_engine.py ROWS CACHE [--split train] [--photos N]

ROWS is rows.jsonl of scripts/prepare_data.py, CACHE the folder of `anytag train mini --cache CACHE`.
Only one caption of each Flickr8k photo is used. `parse` reads its tags; `generate` adds the tags that the
embedded model finds; `clean` removes those that contradict the photo. The same student (a linear probe on
frozen features) is trained on each of the three label sets, and evaluated against all five captions of the
1,000 test photos.

The embedded model was trained on all captions of the train photos; the dev photos (--split dev) were not
used in training, but its scores and thresholds were fitted to their captions.
With --wrong 0.3 a share of the photos gets the caption of another photo, as happens on the web.
A probe trained on all five captions is the reference. Precision and recall are those of the labels
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
AT_LEAST = 10  # test photos that show a tag, for it to be evaluated


def pooled_features(folder: Path) -> npt.NDArray[np.float16]:
    """Return the teacher's features of all photos in the order of the rows: N×F; nothing else is read."""
    cache = open_cache(folder)
    pooled: npt.NDArray[np.float16] = cache.array("pooled")[np.argsort(cache.array("photo"))]
    return pooled


def labels(sets: Iterable[set[int]], columns: npt.NDArray[np.int64], tags: int) -> Bools:
    """Convert sets of columns to N×K bool, of the chosen columns."""
    chosen = list(sets)
    present = np.zeros((len(chosen), tags), bool)
    for row, indices in zip(present, chosen, strict=True):
        row[sorted(indices)] = True
    return present[:, columns]


def evaluate(
    train: npt.NDArray[np.float16], present: Bools, test: npt.NDArray[np.float16], truth: Bools
) -> npt.NDArray[np.float64]:
    """Return the mAP on the test photos of a probe trained on `present`; a missing label counts as absent.

    Returns:
        of all photos, then of 200 resamples of them.
    """
    probe = train_probe(train, present.astype(np.float32), np.ones(present.shape, np.float32))
    with torch.no_grad():
        scores = probe(torch.from_numpy(test.astype(np.float32))).numpy()
    resampled = resampled_average_precision(scores, truth, resamples(len(test), RESAMPLES))
    whole = mean_average_precision(scores, truth)[0]
    return np.concatenate([[whole], np.nanmean(resampled, axis=1)])


def line(name: str, present: Bools, known: Bools, score: npt.NDArray[np.float64], gain: str) -> str:
    """Return the table row of a label set: tags per photo, precision, recall, mAP, gain."""
    right = (present & known).sum()
    return (
        f"| {name} | {present.sum(1).mean():.2f} | {right / present.sum():.3f} | {right / known.sum():.3f} "
        f"| {100 * score[0]:.2f} | {gain} |"
    )


def gained(score: npt.NDArray[np.float64], before: npt.NDArray[np.float64]) -> str:
    """Return the difference of mAP in points, and its 95 % interval over resampled photos."""
    points = 100 * (score - before)
    low, high = np.quantile(points[1:], (0.025, 0.975))
    return f"{points[0]:+.2f} ({low:+.2f} to {high:+.2f})"


def one_caption(rows: Sequence[Row], *, wrong: float) -> list[Row]:
    """Return the rows with one caption each: the first, or another photo's for the share `wrong`."""
    random = np.random.default_rng(0)
    others = random.permutation(len(rows))[: round(wrong * len(rows))]
    swapped = dict(zip(others.tolist(), np.roll(others, 1).tolist(), strict=True))
    return [
        replace(row, captions=rows[swapped.get(number, number)].captions[:1])
        for number, row in enumerate(rows)
    ]


def engine(rows: Sequence[Row], root: str, tagger: Tagger, config: CleanConfig) -> dict[str, list[Row]]:
    """Return the rows after each step."""
    steps = {"parsed": list(parse(rows, Labeler(tagger.vocabulary)))}
    for name in ("generated", "cleaned"):
        start, before = time.perf_counter(), list(steps.values())[-1]
        made = (
            generate(before, root, tagger)
            if name == "generated"
            else clean(before, root, tagger, config=config)
        )
        steps[name] = list(made)
        print(f"{name}: {1000 * (time.perf_counter() - start) / len(rows):.1f} ms per photo", flush=True)
    return steps


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--split", default="train", choices=["train", "dev"])
    parser.add_argument(
        "--judge", default="test", choices=["test", "dev"], help="the photos of the evaluation"
    )
    parser.add_argument("--photos", type=int, help="use only the first N photos of the split")
    parser.add_argument("--model", help="the model whose scores are used (the embedded one by default)")
    parser.add_argument(
        "--wrong", type=float, default=0.0, help="share of photos that get another photo's caption"
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
    captioned = one_caption([rows[number] for number in train], wrong=args.wrong)
    config = CleanConfig(seen=args.seen, outliers=args.outliers)
    sets = {
        name: [labeler.labels(row.tags) for row in made]
        for name, made in engine(captioned, str(args.rows.parent), tagger, config).items()
    }
    sets["five captions"] = [labeler.captions(rows[number].captions) for number in train]
    known = labels(sets["five captions"], columns, len(every))
    print(
        f"{len(train)} photos of {args.split}, {len(columns)} tags, "
        f"evaluated on {len(test)} of {args.judge}\n"
    )
    print(
        "| labels | tags per photo | precision | recall | mAP % | gain over parsed |\n"
        "|---|---|---|---|---|---|"
    )
    first = None
    for name, chosen in sets.items():
        present = labels(chosen, columns, len(every))
        score = evaluate(pooled[train], present, pooled[test], truth[:, columns])
        first = score if first is None else first
        print(line(name, present, known, score, gained(score, first)), flush=True)


if __name__ == "__main__":
    main()
