"""Quality of the tags, beside baselines, and what each of them was trained on.

    python benchmarks/quality.py ROWS [--model FOLDER] [--card]

ROWS is rows.jsonl of scripts/prepare_data.py. anytag's figures all go through `Tagger`, as users call it; all
photos of the evaluation are held out of training. Baselines:

- linear probes on a frozen backbone's pooled features: supervised, trained on the same labels of the training
  photos that ROWS has (a fair one needs the COCO photos that the model was trained with);
- the backbone's own ImageNet classifier, its probabilities transferred to names by the text table's
  similarity. It was trained on ImageNet's labels and no others. For each figure the best of six kinds of
  transfer counts, chosen on the very photos of the evaluation.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from anytag import Tagger
from anytag.data.labels import Labeler
from anytag.data.rows import Row, read_rows, select
from anytag.evaluation.measure import score_bins
from anytag.evaluation.metrics import (
    Reliability,
    interval,
    mean_average_precision,
    precision_at,
    resampled_average_precision,
    resamples,
    top_k_accuracy,
    wilson,
)
from anytag.models.folder import write_card
from anytag.models.registry import resolve
from anytag.torch.imagenet_baseline import ClassifierWithText, FrozenBackbone
from anytag.torch.training.tag_samples import train_probe

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]
Figures = dict[str, Any]

PROBE_BACKBONES = ("tf_efficientnet_lite0", "tf_efficientnet_lite2")
PROBE_SIZE = 224
PARTS = ("imagenet", "sun", "food101", "grocery")
COCO = ("coco", "coco-more")
PENALTIES = np.logspace(-1, 6, 22)
RESAMPLES = 200


def scores_of(tagger: Tagger, paths: Sequence[Path], names: Sequence[str] | None) -> Floats:
    """Return the score of every given name, or of every tag of the vocabulary: N×K."""
    columns = {key: number for number, key in enumerate(names or [tag.id for tag in tagger.vocabulary])}
    out = np.zeros((len(paths), len(columns)))
    answers = tagger.tag_many(paths, list(names)) if names else tagger.tag_many(paths, threshold=0)
    for number, answer in enumerate(answers):
        if answer.error:
            raise SystemExit(f"{answer.path}: {answer.error.message}")
        for tag in answer.tags:
            out[number, columns[tag.name if names else tag.id]] = tag.score
    return out


@cache
def frozen(name: str) -> FrozenBackbone:
    """Return a backbone, exported once."""
    return FrozenBackbone(name, size=PROBE_SIZE)


def features_of(name: str, paths: Sequence[Path]) -> npt.NDArray[np.float16]:
    """Return the pooled features N×F of photos, all of which must be readable."""
    features, failed = frozen(name).features(paths)
    if failed:
        raise SystemExit("\n".join(failed.values()))
    return features


def truth_of(rows: Sequence[Row], labeler: Labeler) -> Bools:
    """Return the tags of captions and labels, broader tags included: N×K."""
    out = np.zeros((len(rows), len(labeler.vocabulary)), dtype=bool)
    for number, row in enumerate(rows):
        out[number, sorted(labeler.present(row))] = True
    return out


def ridge(features: Floats, truth: Bools) -> Callable[[Floats], Floats]:
    """Fit a linear probe by least squares; its penalty has the smallest leave-one-out error on these photos.

    Args:
        features: N×F.
        truth: N×K.

    Returns:
        features M×F -> scores M×K.
    """
    x, y = features.astype(np.float64), truth.astype(np.float64)
    mean, spread = x.mean(0), np.maximum(x.std(0), 1e-4)
    x, level = (x - mean) / spread, y.mean(0)
    values, vectors = np.linalg.eigh(x.T @ x)
    turned = x @ vectors
    along, squares = turned.T @ (y - level), turned**2

    def leave_one_out_error(penalty: float) -> float:
        shrunk = 1 / (np.maximum(values, 0) + penalty)
        own = squares @ shrunk + 1 / len(x)
        return float((((y - level - turned @ (shrunk[:, None] * along)) / (1 - own)[:, None]) ** 2).mean())

    best = min(PENALTIES, key=leave_one_out_error)
    weight = vectors @ (along / (np.maximum(values, 0) + best)[:, None])
    return lambda some: np.asarray((some.astype(np.float64) - mean) / spread @ weight + level)


def report(scores: Floats, truth: Bools, tags: npt.NDArray[np.intp]) -> Figures:
    """Return mAP over tags with five positives and precision at 1 and 5, all among `tags`."""
    scores, truth = scores[:, tags], truth[:, tags]
    value, count = mean_average_precision(scores, truth, at_least=5)
    return {"mAP": value, "tags": count} | {f"P@{k}": precision_at(scores, truth, k) for k in (1, 5)}


def captions_table(tagger: Tagger, rows: list[Row], root: Path) -> dict[str, Figures]:
    """Return the figures of anytag, of its default output and of the probes on Flickr8k test."""
    labeler = Labeler(tagger.vocabulary)
    train, test = (list(select(rows, split=split, source="flickr8k")) for split in ("train", "test"))
    truth, trained = truth_of(test, labeler), truth_of(train, labeler)
    named = np.flatnonzero(trained.sum(0) >= 5)
    paths = [root / row.image for row in test]
    scores = scores_of(tagger, paths, None)
    out = {"anytag": report(scores, truth, named)}
    out["default thresholds"] = defaults(tagger, paths, truth, scores)
    for name in PROBE_BACKBONES:
        labels = trained[:, named].astype(np.float32)
        features = features_of(name, [root / row.image for row in train])
        probe = train_probe(features, labels, np.ones_like(labels))
        with torch.no_grad():
            found = probe(torch.from_numpy(features_of(name, paths).astype(np.float32))).numpy()
        out[f"probe {name} {PROBE_SIZE}px"] = report(found, truth[:, named], np.arange(len(named)))
    return out


def shown_of(tagger: Tagger, paths: Sequence[Path]) -> tuple[Floats, list[int]]:
    """Return the default output: scores N×K, 0 for tags that are not returned, and each photo's first tag.

    A photo without tags has -1.
    """
    column = {tag.id: number for number, tag in enumerate(tagger.vocabulary)}
    scores, first = np.zeros((len(paths), len(column))), []
    for number, answer in enumerate(tagger.tag_many(paths)):
        for tag in answer.tags:
            scores[number, column[tag.id]] = tag.score
        first.append(column[answer.tags[0].id] if answer.tags else -1)
    return scores, first


def defaults(tagger: Tagger, paths: list[Path], truth: Bools, scores: Floats) -> Figures:
    """Return the quality of the default output, and the share of it that the first pass loses."""
    given_scores, first = shown_of(tagger, paths)
    shown = given_scores > 0
    counts = shown.sum(1)
    due = scores >= np.array([tag.threshold for tag in tagger.vocabulary])
    often = truth.sum(0) >= 5
    return {
        "precision": float(truth[shown].mean()),
        "recall": float(shown[truth].mean()),
        "first tag right": float(np.mean([at >= 0 and truth[n, at] for n, at in enumerate(first)])),
        "median tags": float(np.median(counts)),
        "photos with 3 to 12": float(((counts >= 3) & (counts <= 12)).mean()),
        "without tags": float((counts == 0).mean()),
        "different tags given": int(shown.any(0).sum()),
        "tags named on five photos or more": int(often.sum()),
        "of these never given": int((often & ~shown.any(0)).sum()),
        "lost by the first pass": float((due & ~shown).sum() / due.sum()),
    }


def reliability_table(tagger: Tagger, rows: list[Row], root: Path) -> dict[str, Figures]:
    """Return the reliability of the returned tags on Flickr8k test: the share that is correct, by score."""
    test = list(select(rows, split="test", source="flickr8k"))
    truth = truth_of(test, Labeler(tagger.vocabulary))
    scores, _ = shown_of(tagger, [root / row.image for row in test])
    out: dict[str, Figures] = {}
    for name, chosen in (("given tags", scores > 0), ("given tags from 0.5", scores >= 0.5)):
        found = Reliability.of(scores, truth, chosen)
        error = float(found.total().error())
        low, high = interval(error, found.resampled(resamples(len(test), RESAMPLES)).error())
        right = float(truth[chosen].mean())
        figures = {"pairs": int(chosen.sum()), "mean score": float(scores[chosen].mean()), "right": right}
        out[name] = {**figures, "ECE": error, "ECE low": low, "ECE high": high}
    whole = Reliability.of(scores, truth, scores > 0).total()
    for one in score_bins(whole):
        shares = {"mean score": one.score, "right": one.right, "low": one.right_low, "high": one.right_high}
        out[f"score {one.low / 100:.2f} to {one.high / 100:.2f}"] = {
            "pairs": one.pairs,
            **{key: value / 100 for key, value in shares.items()},
        }
    return out


def classes_table(tagger: Tagger, rows: list[Row], root: Path) -> dict[str, Figures]:
    """Return the parts of `broad` val: top-1 and top-5 among each part's class names; COCO's categories."""
    baseline = ClassifierWithText(PROBE_BACKBONES[0])
    out = {part: classes(part, tagger, rows, root, baseline=baseline) for part in PARTS}
    return out | {"coco": categories(tagger, rows, root, baseline=baseline)}


def classes(
    part: str, tagger: Tagger, rows: list[Row], root: Path, *, baseline: ClassifierWithText
) -> Figures:
    """Return one part. No probe can be trained on ImageNet's val classes: no training row has them."""
    val, train = (list(select(rows, split=split, source=part)) for split in ("val", "train"))
    names = sorted({row.tags[0] for row in (val if part == "imagenet" else val + train)})
    answer = np.array([names.index(row.tags[0]) for row in val])
    paths = [root / row.image for row in val]
    scored = {
        "": [scores_of(tagger, paths, names)],
        "baseline ": list(baseline.scores(paths, names).values()),
    }
    figures: Figures = {"classes": len(names), "photos": len(val)}
    if part != "imagenet":
        figures["training photos"] = len(train)
        truth = np.array([[row.tags[0] == name for name in names] for row in train])
        scored["probe "] = [probed(train, truth, paths, root)]
    for who, found in scored.items():
        for k in (1, 5):
            figures[f"{who}top-{k}"] = max(top_k_accuracy(scores, answer, k) for scores in found)
        low, high = wilson(figures[f"{who}top-1"] * len(val), len(val))
        figures |= {f"{who}top-1 low": low, f"{who}top-1 high": high}
    return figures | named_by_default(tagger, paths, val)


def named_by_default(tagger: Tagger, paths: Sequence[Path], rows: Sequence[Row]) -> Figures:
    """Return how often the default tags of photos of one subject name it, or something broader."""
    labeler, (scores, _) = Labeler(tagger.vocabulary), shown_of(tagger, paths)
    own = [labeler.label(row.tags[0]) for row in rows]
    place = [None if key is None else labeler.index[key] for key in own]
    exact = [at is not None and scores[n, at] > 0 for n, at in enumerate(place)]
    return {
        "class among default tags": float(np.mean(exact)),
        "class or broader among default tags": float(((scores > 0) & truth_of(rows, labeler)).any(1).mean()),
        "without tags": float((scores == 0).all(1).mean()),
    }


def probed(train: Sequence[Row], truth: Bools, paths: Sequence[Path], root: Path) -> Floats:
    """Return the scores for `paths` of a probe trained on `truth` of the training photos."""
    name = PROBE_BACKBONES[0]
    return ridge(features_of(name, [root / row.image for row in train]), truth)(features_of(name, paths))


def categories(tagger: Tagger, rows: list[Row], root: Path, *, baseline: ClassifierWithText) -> Figures:
    """Return the mAP of COCO's categories."""
    val = list(select(rows, split="val", source="coco"))
    train = [row for row in rows if row.split == "train" and row.source in COCO and row.tags and row.absent]
    names = sorted({name for row in val for name in (*row.tags, *row.absent)})
    truth, labels = (
        np.array([[name in row.tags for name in names] for row in part]) for part in (val, train)
    )
    paths = [root / row.image for row in val]
    scored = {
        "": [scores_of(tagger, paths, names)],
        "probe ": [probed(train, labels, paths, root)],
        "baseline ": list(baseline.scores(paths, names).values()),
    }
    figures: Figures = {"categories": len(names), "photos": len(val), "training photos": len(train)}
    weights = resamples(len(val), RESAMPLES)
    for who, found in scored.items():
        best = max(found, key=lambda scores: mean_average_precision(scores, truth)[0])
        value, _ = mean_average_precision(best, truth)
        low, high = interval(value, np.nanmean(resampled_average_precision(best, truth, weights), axis=1))
        figures |= {f"{who}mAP": value, f"{who}mAP low": low, f"{who}mAP high": high}
    return figures


def markdown(tables: Mapping[str, Mapping[str, Figures]]) -> str:
    """Return a list of figures for each row of each table."""
    lines = []
    for title, table in tables.items():
        lines += [f"### {title}", ""]
        for name, figures in table.items():
            shown = (
                f"{key} {value}" if isinstance(value, int) else f"{key} {value:.3f}"
                for key, value in figures.items()
            )
            lines.append(f"- **{name}**: " + ", ".join(shown))
        lines.append("")
    return "\n".join(lines)


def rounded(tables: Mapping[str, Mapping[str, Figures]]) -> dict[str, dict[str, Figures]]:
    """Round to four digits, as cards have them."""
    return {
        title: {name: {key: round(value, 4) for key, value in row.items()} for name, row in table.items()}
        for title, table in tables.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--card", action="store_true", help="write the figures into the model's card")
    args = parser.parse_args()
    rows, root, tagger = read_rows(args.rows), args.rows.parent, Tagger.load(args.model)
    tables = {
        "Flickr8k test, tags of the captions": captions_table(tagger, rows, root),
        "Flickr8k test, reliability of given tags": reliability_table(tagger, rows, root),
        "broad val, asked by name": classes_table(tagger, rows, root),
    }
    print(markdown(tables))
    if args.card:
        folder, card = resolve(args.model), tagger.card
        write_card(folder, replace(card, metrics={**card.metrics, **rounded(tables)}))


if __name__ == "__main__":
    main()
