"""Another model's probabilities and thresholds, fitted on rows: what `anytag calibrate` does.

Only `queries.safetensors`' lines, the thresholds of `vocabulary.jsonl` and the card change, and of the tags
only those that the rows name and leave out often enough. What it brings is measured by halves: lines and
thresholds fitted on one half of the photos, judged on the other.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from anytag.data.rows import Row
from anytag.errors import AnytagError
from anytag.evaluation.metrics import Reliability, expected_calibration_error
from anytag.images import load, prepare
from anytag.models.card import Card
from anytag.models.folder import ModelFolder, write_card
from anytag.models.registry import resolve
from anytag.queries.bank import Bank
from anytag.runtime.onnx import OnnxRuntime
from anytag.torch.training.calibration import sigmoid
from anytag.torch.training.dataset import read_data
from anytag.torch.training.report import Progress, Reporter
from anytag.torch.training.ship import save_queries
from anytag.torch.training.soft_labels import Labeler
from anytag.torch.training.stored import Stored, fit_tag_lines
from anytag.torch.training.thresholds import Goal
from anytag.vocabulary import Vocabulary

Doubles = npt.NDArray[np.float64]
Indexes = npt.NDArray[np.int64]

FEWEST = 3
"""Photos with a tag, and without it, that it takes to fit it."""
BATCH = 16
FOLDS = 4


@dataclass(frozen=True, eq=False)
class Answers:
    """What the model says and what is true, N photos and the K tags that are fitted.

    Attributes:
        columns: int64 K, their places in the vocabulary.
        log_odds: N×K, before.
        truth: N×K, 0 or 1.
        thresholds: K, before.
        below: pairs (a tag, a broader one) among them, int64 E×2.
    """

    columns: Indexes
    log_odds: Doubles
    truth: Doubles
    thresholds: Doubles
    below: Indexes

    def take(self, photos: Indexes) -> Answers:
        """Of some of the photos."""
        return replace(self, log_odds=self.log_odds[photos], truth=self.truth[photos])

    def scores(self, lines: Doubles) -> Doubles:
        """Probabilities N×K by lines K×2; no broader tag scores less than what it includes."""
        scores = sigmoid(lines[:, 0] * self.log_odds + lines[:, 1])
        np.maximum.at(scores.T, self.below[:, 1], scores.T[self.below[:, 0]])
        return np.asarray(scores, dtype=np.float64)


def recalibrate(
    model: str | Path, data: Path, output: Path, *, goal: Goal, report: Reporter | None = None
) -> Mapping[str, Any]:
    """Writes a copy of a model folder with other probabilities and thresholds; returns what was measured.

    Raises:
        AnytagError: the output exists, no photo can be read, or the rows name too few tags.
    """
    if output.exists():
        raise AnytagError(f"{output} exists: name a folder that is not there yet")
    base = ModelFolder.open(resolve(model))
    stored = Stored.read(base)
    answers = answer(base, stored, data, report=report or Reporter())
    lines, thresholds = fit(answers, goal)
    figures = {
        "photos": len(answers.truth),
        "tags": len(answers.columns),
        "goal": str(goal),
        "before": measure(answers.scores(identity(answers)), answers.truth, answers.thresholds),
        "after, by halves": _by_halves(answers, goal),
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as work:
        draft = Path(work, "model")
        shutil.copytree(base.path, draft)
        _write(draft, stored, answers.columns, lines, thresholds)
        write_card(draft, _card(base.card, data, figures))
        draft.rename(output)
    return figures


def fit(answers: Answers, goal: Goal) -> tuple[Doubles, Doubles]:
    """Lines K×2 of the log-odds, and thresholds K of the probabilities that they give.

    A precision is promised for other photos, so its threshold is fitted to scores by lines of other photos.
    """
    lines = _lines(answers)
    if goal.precision is None:
        return lines, goal.fit(answers.scores(lines), answers.truth)
    scores = np.zeros_like(answers.log_odds)
    part = np.random.default_rng(1).permutation(len(scores)) % FOLDS
    for number in range(FOLDS):
        mine = np.flatnonzero(part == number)
        others = answers.take(np.flatnonzero(part != number))
        scores[mine] = answers.take(mine).scores(_lines(others))
    return lines, goal.fit(scores, answers.truth)


def _lines(answers: Answers) -> Doubles:
    return fit_tag_lines(answers.log_odds.astype(np.float32), answers.truth.astype(np.float32))


def measure(scores: Doubles, truth: Doubles, thresholds: Doubles) -> dict[str, float]:
    """Calibration error, of all pairs and of given tags; precision, recall and F1 of all given tags."""
    present, given = truth > 0.5, scores >= thresholds
    right = float((present & given).sum())
    precision, recall = right / max(1, given.sum()), right / max(1, present.sum())
    reliable = Reliability.of(scores, present, given).total()
    figures = {
        "calibration error": expected_calibration_error(scores, present),
        # of all pairs above, nearly all of which score near 0
        **({"calibration error of given tags": float(reliable.error())} if given.any() else {}),
        "precision": precision,
        "recall": recall,
        "F1": 2 * precision * recall / max(1e-9, precision + recall),
    }
    return {name: round(float(value), 4) for name, value in figures.items()}


def identity(answers: Answers) -> Doubles:
    """Lines that change nothing: K×2."""
    return np.tile([1.0, 0.0], (len(answers.columns), 1))


def _by_halves(answers: Answers, goal: Goal) -> dict[str, float]:
    """Each half of the photos, by what the other half taught."""
    half = np.random.default_rng(0).permutation(len(answers.truth)) % 2
    scores, thresholds = np.zeros_like(answers.log_odds), np.zeros_like(answers.log_odds)
    for number in range(2):
        mine = np.flatnonzero(half == number)
        lines, own = fit(answers.take(np.flatnonzero(half != number)), goal)
        scores[mine], thresholds[mine] = answers.take(mine).scores(lines), own
    return measure(scores, answers.truth, thresholds)


def answer(base: ModelFolder, stored: Stored, data: Path, *, report: Reporter) -> Answers:
    """Asks the model about the photos of the rows.

    Raises:
        AnytagError: no photo can be read, or no tag is named and left out often enough.
    """
    rows = read_data(data)
    read: list[int] = []
    logits = []
    for numbers, part in _logits(base, stored.bank, rows, data.parent, report):
        read += numbers
        logits.append(part)
    if not read:
        raise AnytagError(f"no photo of {data} can be read; paths are relative to its folder")
    truth = _truth([rows[number] for number in read], stored.vocabulary)
    there = truth.sum(0)
    columns = np.flatnonzero((there >= FEWEST) & (len(truth) - there >= FEWEST))
    if not len(columns):
        raise AnytagError(
            f"{data}: no tag of the model is on {FEWEST} photos and missing on {FEWEST} others; "
            "give more rows, with the names that anytag tag prints"
        )
    line, known = stored.bank.line.astype(np.float64), base.card.calibration.vocabulary
    log_odds = line[:, 0] * (known.scale * np.concatenate(logits) + known.bias) + line[:, 1]
    return Answers(
        columns,
        log_odds[:, columns],
        truth[:, columns],
        np.array([stored.vocabulary[int(column)].threshold for column in columns]),
        _below(stored.vocabulary, columns),
    )


def _logits(
    base: ModelFolder, bank: Bank, rows: Sequence[Row], root: Path, report: Reporter
) -> Iterator[tuple[list[int], npt.NDArray[np.float32]]]:
    """Numbers of the rows whose photos can be read, batch by batch, and the logits of all tags."""
    runtime, size = OnnxRuntime(base, device="cpu", threads=2), base.card.image.size
    for start in range(0, len(rows), BATCH):
        numbers, pixels = [], []
        for number, row in enumerate(rows[start : start + BATCH], start):
            try:
                photo = load(root / row.image, near=size)
            except AnytagError as error:
                report.say(f"Left out: {error}")
                continue
            numbers.append(number)
            pixels.append(prepare(photo, size=size, resample=base.card.image.resample))
        if pixels:
            tokens, pooled = runtime.encode(np.stack(pixels))
            pieces = (np.arange(k, min(k + 256, len(bank))) for k in range(0, len(bank), 256))
            found = [runtime.score(tokens, pooled, bank.queries(piece)[None]) for piece in pieces]
            yield numbers, np.concatenate(found, axis=1)
        report.progress(Progress("ask the model", min(start + BATCH, len(rows)), len(rows), unit="photos"))


def _truth(rows: Sequence[Row], vocabulary: Vocabulary) -> Doubles:
    """N×K: what is named, by labels or captions, and all that is broader."""
    labeler = Labeler(vocabulary)
    truth = np.zeros((len(rows), len(vocabulary)))
    for row, there in zip(rows, truth, strict=True):
        found = {vocabulary.index(tag.id) for name in row.tags if (tag := vocabulary.find(name))}
        found |= labeler.captions(row.captions)
        there[sorted(found.union(*(vocabulary.broader[number] for number in found)))] = 1
    return truth


def _below(vocabulary: Vocabulary, columns: Indexes) -> Indexes:
    place = {int(column): number for number, column in enumerate(columns)}
    pairs = [
        (number, place[broader])
        for column, number in place.items()
        for broader in vocabulary.broader[column]
        if broader in place
    ]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _write(draft: Path, stored: Stored, columns: Indexes, lines: Doubles, thresholds: Doubles) -> None:
    line = stored.bank.line.copy()
    line[columns, 1] = lines[:, 0] * line[columns, 1] + lines[:, 1]
    line[columns, 0] *= lines[:, 0]
    save_queries(draft / "queries.safetensors", replace(stored.bank, line=line))
    named = {
        stored.vocabulary[int(c)].id: round(float(t), 2) for c, t in zip(columns, thresholds, strict=True)
    }
    stored.vocabulary.with_thresholds(named).write(draft / "vocabulary.jsonl")


def _card(card: Card, data: Path, figures: Mapping[str, Any]) -> Card:
    made = (
        f"Of {figures['tags']} tags: {figures['goal']} on {figures['photos']} photos of {data.name}, "
        "with probabilities fitted there."
    )
    return replace(
        card,
        thresholds=f"{made} Of the others: {card.thresholds}",
        metrics={**card.metrics, f"calibration on {data.name}": dict(figures)},
    )
