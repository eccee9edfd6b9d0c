"""Calibrate a model on labelled rows, for `anytag calibrate`.

Only the lines in `queries.safetensors`, the thresholds in `vocabulary.jsonl` and the card change, and only
for tags with enough positive and negative photos. The effect is measured by two-fold cross-validation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from anytag._typing import Bools, Doubles, Ints
from anytag.calibration.fit import Goal, broader_pairs, fit_tags, probabilities
from anytag.data.formats import read
from anytag.data.io import local_paths
from anytag.data.labels import Labeler
from anytag.data.rows import Row, by_photo
from anytag.errors import AnytagError
from anytag.evaluation.metrics import Reliability
from anytag.models.card import Card
from anytag.models.folder import ModelFolder, edited_copy, write_card
from anytag.models.registry import resolve
from anytag.progress import Progress, Reporter
from anytag.queries.bank import FIRST_PASS, Bank, identity_lines
from anytag.tagger import Tagger
from anytag.vocabulary import Vocabulary

MIN_PHOTOS = 3
"""Minimum number of positive photos of a tag, and of negative ones, to fit it."""
_QUERIES, _VOCABULARY = "queries.safetensors", "vocabulary.jsonl"
_MAX_SHOWN = 8


@dataclass(frozen=True, eq=False)
class CalibrationData:
    """Scores and labels of N photos, for K tags that are fitted or that raise the scores of fitted tags.

    Attributes:
        columns: int64 K, indices in the vocabulary.
        fitted: K; the others only raise broader tags.
        log_odds: N×K, before calibration.
        truth: N×K, 0 or 1.
        thresholds: K, before calibration.
        pairs: int64 E×2, pairs of a tag and a broader one among them.
        strict: scores must exceed the threshold.
        known: N×K, whether the label is known; None is all.
    """

    columns: Ints
    fitted: Bools
    log_odds: Doubles
    truth: Doubles
    thresholds: Doubles
    pairs: Ints
    strict: bool = False
    known: Bools | None = None

    @property
    def mask(self) -> Bools:
        """N×K, whether the label is known."""
        return np.ones(self.truth.shape, np.bool_) if self.known is None else self.known

    def take(self, photos: npt.NDArray[Any]) -> CalibrationData:
        """Select some of the photos."""
        return replace(
            self, log_odds=self.log_odds[photos], truth=self.truth[photos], known=self.mask[photos]
        )

    def fit(self, goal: Goal) -> tuple[Doubles, Doubles]:
        """Fit lines K×2 of the log-odds and thresholds K; unchanged for tags that are not fitted."""
        lines = identity_lines(len(self.columns)).astype(np.float64)
        thresholds = self.thresholds.copy()
        places = np.cumsum(self.fitted) - 1
        pairs = places[self.pairs[self.fitted[self.pairs].all(1)]]
        log_odds, truth = self.log_odds[:, self.fitted], self.truth[:, self.fitted]
        known = self.mask[:, self.fitted]
        fitted = fit_tags(log_odds, truth, goal, pairs=pairs, weight=known)
        lines[self.fitted], thresholds[self.fitted] = fitted
        return lines, thresholds

    def predict(self, lines: Doubles, thresholds: Doubles) -> tuple[Doubles, Bools]:
        """Scores of the fitted tags and whether they reach the thresholds, which are K or N×K."""
        scores = probabilities(self.log_odds, lines, self.pairs)
        predicted = scores > thresholds if self.strict else scores >= thresholds
        return scores[:, self.fitted], predicted[:, self.fitted]


def calibrate(
    model: str | Path, data: Path, output: Path, *, goal: Goal, report: Reporter | None = None
) -> Mapping[str, Any]:
    """Write a calibrated copy of a model folder, and return the metrics.

    Args:
        model: name or folder, of any family; it is not changed.
        data: rows in any format of `anytag.data` with photos on disk; rows of the same photo are merged, and
            tags that a photo does not name count as absent. For rows of a library (source "library"), which
            contain a person's decisions, tags that they do not name are unknown.

    Raises:
        AnytagError: the output exists, no photo can be read, or the rows name too few tags.
    """
    if output.exists():
        raise AnytagError(f"{output} exists: give a folder that does not exist yet")
    base = ModelFolder.open(resolve(model))
    samples = score_photos(Tagger.load(base.path), data, report=report or Reporter())
    lines, thresholds = samples.fit(goal)
    unchanged = identity_lines(len(lines)).astype(np.float64)
    figures = {
        "photos": len(samples.truth),
        "tags": int(samples.fitted.sum()),
        "goal": str(goal),
        "before": measure(samples, *samples.predict(unchanged, samples.thresholds)),
        "after, by halves": measure(samples, *_cross_validated(samples, goal)),
    }
    with edited_copy(base, output, without=(_QUERIES, _VOCABULARY)) as draft:
        tags = samples.columns[samples.fitted]
        _write(base, draft, tags, lines[samples.fitted], thresholds[samples.fitted])
        write_card(draft, _card(base.card, data, figures))
    return figures


def score_photos(tagger: Tagger, data: Path, *, report: Reporter) -> CalibrationData:
    """Score the photos of the rows with a model.

    Raises:
        AnytagError: no photo can be read, or no tag has enough positive and negative photos.
    """
    rows = by_photo(read(str(data), source="own", split=""))
    if not rows:
        raise AnytagError(f"{data} contains no rows; expected lines such as: photos/1.jpg,dog;beach")
    vocabulary = tagger.vocabulary
    truth = _truth(rows, vocabulary, report)
    known = _known(rows, vocabulary, truth)
    relevant = _with_narrower(vocabulary, np.flatnonzero(_has_enough(truth, known, data)))
    readable, log_odds = [], []
    paths = local_paths(data.parent, (row.image for row in rows))
    for number, (encoded, odds) in enumerate(tagger.log_odds_many(paths)):
        if encoded.error is not None:
            report.skip(encoded.error.message)
        else:
            readable.append(number)
            log_odds.append(odds[relevant])
        report.progress(Progress("score photos", number + 1, len(rows), unit="photos"))
    if not readable:
        raise AnytagError(f"no photo of {data} can be read; paths are relative to its folder")
    truth, known = truth[readable], known[readable]
    return CalibrationData(
        columns=relevant,
        fitted=_has_enough(truth, known, data)[relevant],
        log_odds=np.stack(log_odds),
        truth=truth[:, relevant],
        known=known[:, relevant],
        thresholds=np.array([vocabulary[int(place)].threshold for place in relevant]),
        pairs=_pairs(vocabulary, relevant),
        strict=tagger.card.strict,
    )


def _has_enough(truth: Doubles, known: Bools, data: Path) -> Bools:
    """Which tags have enough positive and negative photos: K.

    Raises:
        AnytagError: none has.
    """
    positives, negatives = (truth * known).sum(0), ((1 - truth) * known).sum(0)
    enough: Bools = (positives >= MIN_PHOTOS) & (negatives >= MIN_PHOTOS)
    if not enough.any():
        raise AnytagError(
            f"{data}: no tag of the model is on {MIN_PHOTOS} photos and absent from {MIN_PHOTOS} others; "
            "give more rows, with the names that anytag tag prints"
        )
    return enough


def _truth(rows: Sequence[Row], vocabulary: Vocabulary, report: Reporter) -> Doubles:
    """Labels N×K: tags named by labels or captions, and all broader ones."""
    labeler = Labeler(vocabulary)
    truth = np.zeros((len(rows), len(vocabulary)))
    unknown: dict[str, None] = {}
    for row, labels in zip(rows, truth, strict=True):
        tags = {name: vocabulary.find(name) for name in row.tags}
        unknown |= {name: None for name, tag in tags.items() if tag is None}
        positives = {vocabulary.index(tag.id) for tag in tags.values() if tag is not None}
        positives |= labeler.captions(row.captions)
        labels[sorted(positives.union(*(vocabulary.broader[number] for number in positives)))] = 1
    if unknown:
        shown = ", ".join(list(unknown)[:_MAX_SHOWN]) + (" ..." if len(unknown) > _MAX_SHOWN else "")
        report.say(f"These names are not tags of the model and are not fitted: {shown}.")
    return truth


def _known(rows: Sequence[Row], vocabulary: Vocabulary, truth: Doubles) -> Bools:
    """N×K: for rows of a library the tags that they name, and those narrower than absent ones; else all."""
    known = np.ones(truth.shape, np.bool_)
    for number, row in enumerate(rows):
        if row.source == "library":
            tags = (vocabulary.find(name) for name in row.absent)
            absent = {vocabulary.index(tag.id) for tag in tags if tag is not None}
            narrower = (k for k, above in enumerate(vocabulary.broader) if absent.intersection(above))
            known[number] = truth[number] > 0
            known[number, sorted({*absent, *narrower})] = True
    return known


def _with_narrower(vocabulary: Vocabulary, columns: Ints) -> Ints:
    """Tags and all narrower ones that their scores depend on, in the vocabulary's order."""
    selected = set(columns.tolist())
    narrower = {number for number, above in enumerate(vocabulary.broader) if selected.intersection(above)}
    return np.array(sorted(selected | narrower), dtype=np.int64)


def _pairs(vocabulary: Vocabulary, columns: Ints) -> Ints:
    place = {int(column): number for number, column in enumerate(columns)}
    return broader_pairs([tuple(place[b] for b in vocabulary.broader[c] if b in place) for c in place])


def _cross_validated(samples: CalibrationData, goal: Goal) -> tuple[Doubles, Bools]:
    """Predictions for each half of the photos, with lines and thresholds fitted to the other half."""
    half = np.random.default_rng(0).permutation(len(samples.truth)) % 2 == 0
    shape = (len(half), int(samples.fitted.sum()))
    scores, predicted = np.zeros(shape), np.zeros(shape, np.bool_)
    for held_out in (half, ~half):
        lines, thresholds = samples.take(~held_out).fit(goal)
        scores[held_out], predicted[held_out] = samples.take(held_out).predict(lines, thresholds)
    return scores, predicted


def measure(samples: CalibrationData, scores: Doubles, predicted: Bools) -> dict[str, float]:
    """Calibration error, of all pairs and of predicted tags; micro precision, recall and F1."""
    known = samples.mask[:, samples.fitted]
    present, predicted = (samples.truth[:, samples.fitted] > 0.5) & known, predicted & known
    right = float((present & predicted).sum())
    precision, recall = right / max(1, predicted.sum()), right / max(1, present.sum())
    reliable = Reliability.of(scores, present, predicted).total()
    figures = {
        "calibration error": float(Reliability.of(scores, present, known).total().error()),
        # of all pairs above, nearly all of which score near 0
        **({"calibration error of given tags": float(reliable.error())} if predicted.any() else {}),
        "precision": precision,
        "recall": recall,
        "F1": 2 * precision * recall / max(1e-9, precision + recall),
    }
    return {name: round(float(value), 4) for name, value in figures.items()}


def _write(base: ModelFolder, draft: Path, tags: Ints, lines: Doubles, thresholds: Doubles) -> None:
    vocabulary = Vocabulary.read(base.file(_VOCABULARY))
    bank = Bank.read(base.file(_QUERIES), tags=len(vocabulary), width=base.card.width)
    thresholds = thresholds.round(2)
    known = base.card.calibration.vocabulary
    bank.with_lines(tags, lines, known=known, thresholds=thresholds).write(draft / _QUERIES)
    named = {vocabulary[int(tag)].id: float(t) for tag, t in zip(tags, thresholds, strict=True)}
    vocabulary.with_thresholds(named).write(draft / _VOCABULARY)


def _card(card: Card, data: Path, figures: Mapping[str, Any]) -> Card:
    origin = (
        f"Of {figures['tags']} tags: {figures['goal']} on {figures['photos']} photos of {data.name}, "
        "with probabilities fitted there (anytag calibrate)."
    )
    metrics = {name: value for name, value in card.metrics.items() if name != FIRST_PASS}
    return replace(
        card,
        thresholds=f"{origin} Of the others: {card.thresholds}",
        fewest=None,  # tags below the thresholds would miss the goal
        metrics={**metrics, f"calibration on {data.name}": dict(figures)},
    )
