"""How good the tags are, beside the obvious rivals.

    python benchmarks/quality.py ROWS [--model FOLDER] [--card]

ROWS is rows.jsonl of scripts/prepare_data.py. Everything of ours goes through `Tagger`, as users call it.
Rivals: a linear probe on the frozen backbone's pooled features (same tags, same split), and the backbone's
1,000-class ImageNet classifier with its probabilities carried to the asked names by the text table's
similarity (the best of several carriers, chosen in the rival's favour on the very photos it is judged by).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from anytag import Tagger
from anytag.data.labeler import Labeler
from anytag.data.rows import Row, read_rows, select
from anytag.evaluation.imagenet import ClassifierWithText, FrozenBackbone
from anytag.evaluation.metrics import (
    expected_calibration_error,
    mean_average_precision,
    precision_at,
    top_k_accuracy,
)
from anytag.models.folder import write_card
from anytag.models.hub import resolve
from anytag.training.corpus import train_probe

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]

PROBE_BACKBONES = ("tf_efficientnet_lite0", "tf_efficientnet_lite2")
PROBE_SIZE = 224
PARTS = ("imagenet", "sun", "food101", "grocery")


def scores_of(tagger: Tagger, paths: Sequence[Path], names: Sequence[str] | None) -> Floats:
    """Score of every asked name, or of every tag of the vocabulary: N×K."""
    columns = {key: number for number, key in enumerate(names or [tag.id for tag in tagger.vocabulary])}
    out = np.zeros((len(paths), len(columns)))
    answers = tagger.tag_many(paths, list(names)) if names else tagger.tag_many(paths, threshold=0)
    for number, answer in enumerate(answers):
        for tag in answer.tags:
            out[number, columns[tag.name if names else tag.id]] = tag.score
    return out


def seen(frozen: FrozenBackbone, paths: Sequence[Path]) -> npt.NDArray[np.float16]:
    """Pooled features N×F of photos that can all be read."""
    features, failed = frozen.features(paths)
    if failed:
        raise SystemExit("\n".join(failed.values()))
    return features


def truth_of(rows: Sequence[Row], labeler: Labeler) -> Bools:
    """What captions and labels say, broader tags included: N×K."""
    out = np.zeros((len(rows), len(labeler.vocabulary)), dtype=bool)
    for number, row in enumerate(rows):
        out[number, sorted(labeler.present(row))] = True
    return out


def report(scores: Floats, truth: Bools, tags: npt.NDArray[np.intp]) -> dict[str, float]:
    """mAP over tags with five positives and precision at 1 and 5, all among `tags`."""
    scores, truth = scores[:, tags], truth[:, tags]
    value, count = mean_average_precision(scores, truth, at_least=5)
    figures = {"mAP": value, "tags": float(count)}
    return figures | {f"P@{k}": precision_at(scores, truth, k) for k in (1, 5)}


def captions_table(tagger: Tagger, rows: list[Row], root: Path) -> dict[str, dict[str, float]]:
    """Flickr8k test: ours and the probes."""
    labeler = Labeler(tagger.vocabulary)
    train, test = (list(select(rows, split=split, source="flickr8k")) for split in ("train", "test"))
    truth, taught = truth_of(test, labeler), truth_of(train, labeler)
    named = np.flatnonzero(taught.sum(0) >= 5)
    paths = [root / row.image for row in test]
    scores = scores_of(tagger, paths, None)
    out = {"anytag": report(scores, truth, named)}
    out["anytag"]["ECE"] = expected_calibration_error(scores[:, named], truth[:, named])
    out["default thresholds"] = defaults(tagger, paths, truth, scores)
    for name in PROBE_BACKBONES:
        frozen = FrozenBackbone(name, size=PROBE_SIZE)
        belief = taught[:, named].astype(np.float32)
        features, tested = (seen(frozen, part) for part in ([root / row.image for row in train], paths))
        probe = train_probe(features, belief, np.ones_like(belief))
        with torch.no_grad():
            found = probe(torch.from_numpy(tested.astype(np.float32))).numpy()
        out[f"probe {name} {PROBE_SIZE}px"] = report(found, truth[:, named], np.arange(len(named)))
    return out


def defaults(tagger: Tagger, paths: list[Path], truth: Bools, scores: Floats) -> dict[str, float]:
    """What users see without any option, and which share of it the first pass loses."""
    column = {tag.id: number for number, tag in enumerate(tagger.vocabulary)}
    shown = np.zeros(truth.shape, dtype=bool)
    first: list[bool] = []
    for number, answer in enumerate(tagger.tag_many(paths)):
        columns = [column[tag.id] for tag in answer.tags]
        shown[number, columns] = True
        first.extend(truth[number, columns[:1]])
    counts = shown.sum(1)
    due = scores >= np.array([tag.threshold for tag in tagger.vocabulary])
    return {
        "precision": float(truth[shown].mean()),
        "recall": float(shown[truth].mean()),
        "first tag right": float(np.mean(first)),
        "median tags": float(np.median(counts)),
        "photos with 3 to 12": float(((counts >= 3) & (counts <= 12)).mean()),
        "without tags": float((counts == 0).mean()),
        "lost by the first pass": float((due & ~shown).sum() / due.sum()),
    }


def classes_table(tagger: Tagger, rows: list[Row], root: Path) -> dict[str, dict[str, float]]:
    """The parts of `broad` val: top-1 and top-5 among each part's own class names."""
    rival, out = ClassifierWithText(PROBE_BACKBONES[0]), {}
    for part in PARTS:
        val = list(select(rows, split="val", source=part))
        asked_from = val if part == "imagenet" else [row for row in rows if row.source == part]
        names = sorted({row.tags[0] for row in asked_from})
        answer = np.array([names.index(row.tags[0]) for row in val])
        paths = [root / row.image for row in val]
        own = scores_of(tagger, paths, names)
        carried = rival.scores(paths, names)
        figures = {"classes": float(len(names)), "photos": float(len(val))}
        for k in (1, 5):
            figures[f"top-{k}"] = top_k_accuracy(own, answer, k)
            figures[f"rival top-{k}"] = max(top_k_accuracy(s, answer, k) for s in carried.values())
        out[part] = figures
    val = list(select(rows, split="val", source="coco"))
    names = sorted({name for row in val for name in (*row.tags, *row.absent)})
    truth = np.array([[name in row.tags for name in names] for row in val])
    paths = [root / row.image for row in val]
    best = max(mean_average_precision(s, truth)[0] for s in rival.scores(paths, names).values())
    value, count = mean_average_precision(scores_of(tagger, paths, names), truth)
    out["coco"] = {"categories": float(count), "photos": float(len(val)), "mAP": value, "rival mAP": best}
    return out


def markdown(tables: dict[str, dict[str, dict[str, float]]]) -> str:
    lines = []
    for title, table in tables.items():
        lines += [f"### {title}", ""]
        for name, figures in table.items():
            shown = (
                f"{key} {value:.0f}" if value == int(value) and value > 1 else f"{key} {value:.3f}"
                for key, value in figures.items()
            )
            lines.append(f"- **{name}**: " + ", ".join(shown))
        lines.append("")
    return "\n".join(lines)


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
        "broad val, asked by name": classes_table(tagger, rows, root),
    }
    print(markdown(tables))
    if args.card:
        folder = resolve(args.model)
        card = tagger.card
        write_card(folder, replace(card, metrics={**card.metrics, **rounded(tables)}))


def rounded(tables: dict[str, dict[str, dict[str, float]]]) -> dict[str, dict[str, dict[str, float]]]:
    """Four digits, as cards have them."""

    def digits(figures: dict[str, float]) -> dict[str, float]:
        return {key: round(value, 4) for key, value in figures.items()}

    return {
        title: {name: digits(figures) for name, figures in table.items()} for title, table in tables.items()
    }


if __name__ == "__main__":
    main()
