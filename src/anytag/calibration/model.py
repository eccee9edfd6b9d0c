"""A model's probabilities and thresholds, fitted on rows: what `anytag calibrate` does.

Only the lines of `queries.safetensors`, the thresholds of `vocabulary.jsonl` and the card change, and of the
tags only those that the rows name and leave out often enough. What it brings is measured by halves: lines and
thresholds fitted on one half of the photos, judged on the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from anytag._typing import Doubles, Ints
from anytag.calibration.fit import Goal, fit_tags, pairs_below, probabilities
from anytag.data.formats import read
from anytag.data.labels import Labeler
from anytag.data.rows import Row
from anytag.errors import AnytagError
from anytag.evaluation.metrics import Reliability, expected_calibration_error
from anytag.models.card import Card
from anytag.models.folder import ModelFolder, edited_copy, write_card
from anytag.models.registry import resolve
from anytag.progress import Progress, Reporter
from anytag.queries.bank import Bank, identity_lines
from anytag.tagger import Tagger
from anytag.vocabulary import Vocabulary

FEWEST = 3
"""Photos with a tag, and without it, that it takes to fit it."""
_QUERIES, _VOCABULARY = "queries.safetensors", "vocabulary.jsonl"
_SHOWN = 8


@dataclass(frozen=True, eq=False)
class Answers:
    """What the model says and what is true: N photos, and the K tags that are fitted or that raise those.

    Attributes:
        columns: int64 K, their places in the vocabulary.
        fitted: K; the others only raise broader tags.
        log_odds: N×K, before.
        truth: N×K, 0 or 1.
        thresholds: K, before.
        below: pairs (a tag, a broader one) among them, int64 E×2.
        strict: a tag must score more than its threshold.
    """

    columns: Ints
    fitted: npt.NDArray[np.bool_]
    log_odds: Doubles
    truth: Doubles
    thresholds: Doubles
    below: Ints
    strict: bool = False

    def take(self, photos: npt.NDArray[Any]) -> Answers:
        """Of some of the photos."""
        return replace(self, log_odds=self.log_odds[photos], truth=self.truth[photos])

    def fit(self, goal: Goal) -> tuple[Doubles, Doubles]:
        """Lines K×2 of the log-odds and thresholds K; of tags that are not fitted as they are."""
        lines = identity_lines(len(self.columns)).astype(np.float64)
        thresholds = self.thresholds.copy()
        places = np.cumsum(self.fitted) - 1
        below = places[self.below[self.fitted[self.below].all(1)]]
        log_odds, truth = self.log_odds[:, self.fitted], self.truth[:, self.fitted]
        lines[self.fitted], thresholds[self.fitted] = fit_tags(log_odds, truth, goal, below=below)
        return lines, thresholds

    def judge(self, lines: Doubles, thresholds: Doubles) -> tuple[Doubles, npt.NDArray[np.bool_]]:
        """Scores of the fitted tags and whether they are given; thresholds K or N×K."""
        scores = probabilities(self.log_odds, lines, self.below)
        given = scores > thresholds if self.strict else scores >= thresholds
        return scores[:, self.fitted], given[:, self.fitted]


def calibrate(
    model: str | Path, data: Path, output: Path, *, goal: Goal, report: Reporter | None = None
) -> Mapping[str, Any]:
    """Writes a copy of a model folder with other probabilities and thresholds; returns what was measured.

    Args:
        model: name or folder, of any family; it stays as it is.
        data: rows in any format of `anytag.data`; what a photo does not name is absent.

    Raises:
        AnytagError: the output exists, no photo can be read, or the rows name too few tags.
    """
    if output.exists():
        raise AnytagError(f"{output} exists: name a folder that is not there yet")
    base = ModelFolder.open(resolve(model))
    answers = ask(Tagger.load(base.path), data, report=report or Reporter())
    lines, thresholds = answers.fit(goal)
    unchanged = identity_lines(len(lines)).astype(np.float64)
    figures = {
        "photos": len(answers.truth),
        "tags": int(answers.fitted.sum()),
        "goal": str(goal),
        "before": measure(answers, *answers.judge(unchanged, answers.thresholds)),
        "after, by halves": measure(answers, *_by_halves(answers, goal)),
    }
    with edited_copy(base, output, without=(_QUERIES, _VOCABULARY)) as draft:
        tags = answers.columns[answers.fitted]
        _write(base, draft, tags, lines[answers.fitted], thresholds[answers.fitted])
        write_card(draft, _card(base.card, data, figures))
    return figures


def ask(tagger: Tagger, data: Path, *, report: Reporter) -> Answers:
    """Asks a model about the photos of the rows.

    Raises:
        AnytagError: no photo can be read, or no tag is named and left out often enough.
    """
    rows = list(read(str(data), source="own", split=""))
    if not rows:
        raise AnytagError(f"{data} holds no rows; expected lines such as: photos/1.jpg,dog;beach")
    if partial := sum(row.source == "library" for row in rows):
        report.say(
            f"{partial} rows are what a library knows of photos. A tag that it does not name counts as "
            "absent, so calibrate only on photos of which you have accepted or added every tag that is right."
        )
    vocabulary = tagger.vocabulary
    truth = _truth(rows, vocabulary, report)
    relevant = _with_narrower(vocabulary, np.flatnonzero(_often(truth, data)))
    readable, log_odds = [], []
    for number, (seen, odds) in enumerate(tagger.log_odds_many([data.parent / row.image for row in rows])):
        if seen.error is not None:
            report.say(f"Left out: {seen.error.message}")
        else:
            readable.append(number)
            log_odds.append(odds[relevant])
        report.progress(Progress("ask the model", number + 1, len(rows), unit="photos"))
    if not readable:
        raise AnytagError(f"no photo of {data} can be read; paths are relative to its folder")
    truth = truth[readable]
    return Answers(
        columns=relevant,
        fitted=_often(truth, data)[relevant],
        log_odds=np.stack(log_odds),
        truth=truth[:, relevant],
        thresholds=np.array([vocabulary[int(place)].threshold for place in relevant]),
        below=_pairs(vocabulary, relevant),
        strict=tagger.card.strict,
    )


def _often(truth: Doubles, data: Path) -> npt.NDArray[np.bool_]:
    """Which tags are on photos enough and missing on enough others: K.

    Raises:
        AnytagError: none is.
    """
    there = truth.sum(0)
    often: npt.NDArray[np.bool_] = (there >= FEWEST) & (len(truth) - there >= FEWEST)
    if not often.any():
        raise AnytagError(
            f"{data}: no tag of the model is on {FEWEST} photos and missing on {FEWEST} others; "
            "give more rows, with the names that anytag tag prints"
        )
    return often


def _truth(rows: Sequence[Row], vocabulary: Vocabulary, report: Reporter) -> Doubles:
    """N×K: what is named, by labels or captions, and all that is broader."""
    labeler = Labeler(vocabulary)
    truth = np.zeros((len(rows), len(vocabulary)))
    unknown: dict[str, None] = {}
    for row, there in zip(rows, truth, strict=True):
        tags = {name: vocabulary.find(name) for name in row.tags}
        unknown |= {name: None for name, tag in tags.items() if tag is None}
        positives = {vocabulary.index(tag.id) for tag in tags.values() if tag is not None}
        positives |= labeler.captions(row.captions)
        there[sorted(positives.union(*(vocabulary.broader[number] for number in positives)))] = 1
    if unknown:
        shown = ", ".join(list(unknown)[:_SHOWN]) + (" ..." if len(unknown) > _SHOWN else "")
        report.say(f"Names that are no tags of the model, so they are not fitted: {shown}.")
    return truth


def _with_narrower(vocabulary: Vocabulary, columns: Ints) -> Ints:
    """Some tags, and all that a broader one among them takes its score from, in the vocabulary's order."""
    wanted = set(columns.tolist())
    narrower = {number for number, above in enumerate(vocabulary.broader) if wanted.intersection(above)}
    return np.array(sorted(wanted | narrower), dtype=np.int64)


def _pairs(vocabulary: Vocabulary, columns: Ints) -> Ints:
    place = {int(column): number for number, column in enumerate(columns)}
    return pairs_below([tuple(place[b] for b in vocabulary.broader[c] if b in place) for c in place])


def _by_halves(answers: Answers, goal: Goal) -> tuple[Doubles, npt.NDArray[np.bool_]]:
    """Each half of the photos, judged by what the other half taught."""
    half = np.random.default_rng(0).permutation(len(answers.truth)) % 2 == 0
    shape = (len(half), int(answers.fitted.sum()))
    scores, given = np.zeros(shape), np.zeros(shape, np.bool_)
    for half_photos in (half, ~half):
        lines, thresholds = answers.take(~half_photos).fit(goal)
        scores[half_photos], given[half_photos] = answers.take(half_photos).judge(lines, thresholds)
    return scores, given


def measure(answers: Answers, scores: Doubles, given: npt.NDArray[np.bool_]) -> dict[str, float]:
    """Calibration error, of all pairs and of given tags; precision, recall and F1 of all given tags."""
    present = answers.truth[:, answers.fitted] > 0.5
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


def _write(base: ModelFolder, draft: Path, tags: Ints, lines: Doubles, thresholds: Doubles) -> None:
    vocabulary = Vocabulary.read(base.file(_VOCABULARY))
    bank = Bank.read(base.file(_QUERIES), tags=len(vocabulary), width=base.card.width)
    bank.with_lines(tags, lines, known=base.card.calibration.vocabulary).write(draft / _QUERIES)
    named = {vocabulary[int(tag)].id: round(float(t), 2) for tag, t in zip(tags, thresholds, strict=True)}
    vocabulary.with_thresholds(named).write(draft / _VOCABULARY)


def _card(card: Card, data: Path, figures: Mapping[str, Any]) -> Card:
    origin = (
        f"Of {figures['tags']} tags: {figures['goal']} on {figures['photos']} photos of {data.name}, "
        "with probabilities fitted there (anytag calibrate)."
    )
    return replace(
        card,
        thresholds=f"{origin} Of the others: {card.thresholds}",
        metrics={**card.metrics, f"calibration on {data.name}": dict(figures)},
    )
