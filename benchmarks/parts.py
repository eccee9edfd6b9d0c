"""The tags of this model, of an earlier one and of a baseline, on every part of the held-out photos.

    python benchmarks/parts.py ROWS [--model FOLDER] [--before FOLDER] [--limit 300] [--part NAME ...]

ROWS is rows.jsonl of scripts/prepare_data.py with --more. Parts are the sources of split "val", and the
external ones of split "test", which no training or fitting used. The baseline is the backbone's ImageNet
classifier with its probabilities transferred to the names by the text table's similarity, for each figure
with the best kind of transfer. Figures of a part: AP by class, top-1 and top-5 among its own names; then, of
the default output, the tags per photo, the precision (broader words of this model's vocabulary count as
correct; in parts that list all their things only listed names are evaluated) and the share of photos whose
main thing is named; and the calibration error of the scores of the part's names and of the returned tags.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from anytag import Tagger
from anytag.data.labels import Labeler
from anytag.data.rows import Row, read_rows
from anytag.evaluation.metrics import expected_calibration_error, mean_average_precision
from anytag.torch.imagenet_baseline import ClassifierWithText
from anytag.vocabulary import Vocabulary

Floats = npt.NDArray[np.floating]

SEVERAL = ("feedme", "corel5k")  # whose labels name several things in no order
SMALLEST = 20
MEDIA = {"art", "drawing", "cartoon", "clip art", "sketch"}  # which rows of photographs list as absent


@dataclass(frozen=True)
class Part:
    """Photos of one source, the names that are scored, and which of them are correct: N×K."""

    name: str
    rows: tuple[Row, ...]
    names: tuple[str, ...]
    truth: npt.NDArray[np.bool_]

    @property
    def closed(self) -> bool:
        """Whether the names are the complete list of the things that are present."""
        return any(closed_list(row) for row in self.rows)


def closed_list(row: Row) -> set[str]:
    """Return what a row lists as absent of a list of things."""
    return {*row.absent} - MEDIA


def parts_of(rows: Sequence[Row], *, limit: int) -> list[Part]:
    """Return every source with enough photos."""
    kept: dict[str, list[Row]] = {}
    for row in rows:
        if (row.split == "val" or (row.split == "test" and not row.captions)) and row.tags:
            kept.setdefault(row.source, []).append(row)
    found = []
    for source, some in sorted(kept.items()):
        chosen = tuple(some[:: max(1, len(some) // limit)][:limit])
        every = source in SEVERAL or any(closed_list(row) and len(row.tags) > 1 for row in chosen)
        labels = [set(row.tags if every else row.tags[:1]) for row in chosen]
        names = tuple(sorted(set[str]().union(*labels)))
        truth = np.array([[name in present for name in names] for present in labels])
        if len(chosen) >= SMALLEST and len(names) > 1:
            found.append(Part(source, chosen, names, truth))
    return found


def figures(scores: Floats, truth: npt.NDArray[np.bool_]) -> dict[str, float]:
    """Return AP by class, top-1 and top-5 of N×K."""
    order = np.argsort(-scores, axis=1, kind="stable")
    first = np.take_along_axis(truth, order[:, :5], axis=1)
    return {
        "AP": mean_average_precision(scores, truth)[0],
        "top-1": float(first[:, 0].mean()),
        "top-5": float(first.any(1).mean()),
    }


def scores_by_name(tagger: Tagger, part: Part, paths: Sequence[Path]) -> Floats:
    """Return the scores of the part's names: N×K."""
    column = {name: number for number, name in enumerate(part.names)}
    out = np.zeros(part.truth.shape)
    for number, answer in enumerate(tagger.tag_many(paths, list(part.names))):
        for tag in answer.tags:
            out[number, column[tag.name]] = tag.score
    return out


def by_default(tagger: Tagger, part: Part, paths: Sequence[Path], judge: Vocabulary) -> dict[str, float]:
    """Return the figures of the default output.

    Args:
        judge: the vocabulary whose synonyms and broader tags count, the same for all models.
    """
    labeler, ids = Labeler(judge), judge.ids
    listed = {ids[k] for row in part.rows for k in labeler.labels((*row.tags, *closed_list(row)))}
    counts, right, named, scores = [], [], [], []
    for row, answer in zip(part.rows, tagger.tag_many(paths), strict=True):
        true = {ids[k] for k in labeler.labels(row.tags)}
        given = [(tag.id if tag.id in judge else labeler.label(tag.name), tag.score) for tag in answer.tags]
        evaluated = [(key, score) for key, score in given if not part.closed or key in listed]
        counts.append(len(given))
        right += [key in true for key, _ in evaluated]
        scores += [score for _, score in evaluated]
        named.append(labeler.label(row.tags[0]) in {key for key, _ in given if key})
    error = (
        expected_calibration_error(np.array(scores)[:, None], np.array(right)[:, None]) if right else np.nan
    )
    return {
        "tags": float(np.mean(counts)),
        "right": float(np.mean(right)) if right else np.nan,
        "named": float(np.mean(named)),
        "ECE of tags": error,
    }


def measure(tagger: Tagger, part: Part, root: Path, judge: Vocabulary) -> dict[str, float]:
    paths = [root / row.image for row in part.rows]
    scores = scores_by_name(tagger, part, paths)
    error = {"ECE": expected_calibration_error(scores, part.truth)}
    return figures(scores, part.truth) | error | by_default(tagger, part, paths, judge)


def baseline(contestant: ClassifierWithText, part: Part, root: Path) -> dict[str, float]:
    """Return each figure with the transfer that is best for it."""
    transferred = contestant.scores([root / row.image for row in part.rows], part.names)
    tried = [figures(np.asarray(scores), part.truth) for scores in transferred.values()]
    return {key: max(one[key] for one in tried) for key in tried[0]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--before", type=Path, help="the folder of an earlier version")
    parser.add_argument("--limit", type=int, default=300)
    parser.add_argument("--part", nargs="*", default=[])
    args = parser.parse_args()
    taggers = {"now": Tagger.load(args.model)}
    if args.before:
        taggers = {"before": Tagger.load(args.before), **taggers}
    contestant = ClassifierWithText("tf_efficientnet_lite0")
    judge, root = taggers["now"].vocabulary, args.rows.parent
    print("| part | photos | names | | AP | top-1 | top-5 | ECE | tags | right | named | ECE of tags |")
    print("|---|---:|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for part in parts_of(read_rows(args.rows), limit=args.limit):
        if args.part and part.name not in args.part:
            continue
        found = {name: measure(tagger, part, root, judge) for name, tagger in taggers.items()}
        found["baseline"] = baseline(contestant, part, root)
        for name, numbers in found.items():
            keys = ("AP", "top-1", "top-5", "ECE", "tags", "right", "named", "ECE of tags")
            shown = " | ".join(f"{numbers[key]:.3f}" if key in numbers else "" for key in keys)
            print(f"| {part.name} | {len(part.rows)} | {len(part.names)} | {name} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
