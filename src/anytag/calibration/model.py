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

from anytag._typing import Bools, Doubles, Ints
from anytag.calibration.fit import Goal, fit_tags, pairs_below, probabilities
from anytag.data.formats import read
from anytag.data.labels import Labeler
from anytag.data.rows import Row, by_photo
from anytag.errors import AnytagError
from anytag.evaluation.metrics import Reliability
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
        known: N×K, of which pairs the truth is known; None is of all.
    """

    columns: Ints
    fitted: Bools
    log_odds: Doubles
    truth: Doubles
    thresholds: Doubles
    below: Ints
    strict: bool = False
    known: Bools | None = None

    @property
    def mask(self) -> Bools:
        """N×K, of which pairs the truth is known."""
        return np.ones(self.truth.shape, np.bool_) if self.known is None else self.known

    def take(self, photos: npt.NDArray[Any]) -> Answers:
        """Of some of the photos."""
        return replace(
            self, log_odds=self.log_odds[photos], truth=self.truth[photos], known=self.mask[photos]
        )

    def fit(self, goal: Goal) -> tuple[Doubles, Doubles]:
        """Lines K×2 of the log-odds and thresholds K; of tags that are not fitted as they are."""
        lines = identity_lines(len(self.columns)).astype(np.float64)
        thresholds = self.thresholds.copy()
        places = np.cumsum(self.fitted) - 1
        below = places[self.below[self.fitted[self.below].all(1)]]
        log_odds, truth = self.log_odds[:, self.fitted], self.truth[:, self.fitted]
        known = self.mask[:, self.fitted]
        fitted = fit_tags(log_odds, truth, goal, below=below, known=known)
        lines[self.fitted], thresholds[self.fitted] = fitted
        return lines, thresholds

    def judge(self, lines: Doubles, thresholds: Doubles) -> tuple[Doubles, Bools]:
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
        data: rows in any format of `anytag.data`; those of one photo are one, and what a photo does not name
            is absent. Rows of a library (source "library") tell what a person decided: what they do not name
            is unknown.

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
    rows = by_photo(read(str(data), source="own", split=""))
    if not rows:
        raise AnytagError(f"{data} holds no rows; expected lines such as: photos/1.jpg,dog;beach")
    vocabulary = tagger.vocabulary
    truth = _truth(rows, vocabulary, report)
    known = _known(rows, vocabulary, truth)
    relevant = _with_narrower(vocabulary, np.flatnonzero(_often(truth, known, data)))
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
    truth, known = truth[readable], known[readable]
    return Answers(
        columns=relevant,
        fitted=_often(truth, known, data)[relevant],
        log_odds=np.stack(log_odds),
        truth=truth[:, relevant],
        known=known[:, relevant],
        thresholds=np.array([vocabulary[int(place)].threshold for place in relevant]),
        below=_pairs(vocabulary, relevant),
        strict=tagger.card.strict,
    )


def _often(truth: Doubles, known: Bools, data: Path) -> Bools:
    """Which tags are on photos enough and missing on enough others: K.

    Raises:
        AnytagError: none is.
    """
    there, away = (truth * known).sum(0), ((1 - truth) * known).sum(0)
    often: Bools = (there >= FEWEST) & (away >= FEWEST)
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


def _known(rows: Sequence[Row], vocabulary: Vocabulary, truth: Doubles) -> Bools:
    """N×K: of rows of a library what they name, as there or as absent with all that is narrower; else all."""
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
    """Some tags, and all that a broader one among them takes its score from, in the vocabulary's order."""
    wanted = set(columns.tolist())
    narrower = {number for number, above in enumerate(vocabulary.broader) if wanted.intersection(above)}
    return np.array(sorted(wanted | narrower), dtype=np.int64)


def _pairs(vocabulary: Vocabulary, columns: Ints) -> Ints:
    place = {int(column): number for number, column in enumerate(columns)}
    return pairs_below([tuple(place[b] for b in vocabulary.broader[c] if b in place) for c in place])


def _by_halves(answers: Answers, goal: Goal) -> tuple[Doubles, Bools]:
    """Each half of the photos, judged by what the other half taught."""
    half = np.random.default_rng(0).permutation(len(answers.truth)) % 2 == 0
    shape = (len(half), int(answers.fitted.sum()))
    scores, given = np.zeros(shape), np.zeros(shape, np.bool_)
    for half_photos in (half, ~half):
        lines, thresholds = answers.take(~half_photos).fit(goal)
        scores[half_photos], given[half_photos] = answers.take(half_photos).judge(lines, thresholds)
    return scores, given


def measure(answers: Answers, scores: Doubles, given: Bools) -> dict[str, float]:
    """Calibration error, of all pairs and of given tags; precision, recall and F1 of all given tags."""
    known = answers.mask[:, answers.fitted]
    present, given = (answers.truth[:, answers.fitted] > 0.5) & known, given & known
    right = float((present & given).sum())
    precision, recall = right / max(1, given.sum()), right / max(1, present.sum())
    reliable = Reliability.of(scores, present, given).total()
    figures = {
        "calibration error": float(Reliability.of(scores, present, known).total().error()),
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
