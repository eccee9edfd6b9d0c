"""Train a first pass for a folder with a slow decoder: one linear classifier per tag, fitted to the decoder.

With it only likely tags of a photo are decoded. Tags are independent in the decoder, so the scores of decoded
tags do not change.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from anytag._typing import Doubles, Floats
from anytag.errors import ModelError
from anytag.images import ImageSource
from anytag.models.folder import ModelFolder, edited, write_card
from anytag.queries.bank import FIRST_PASS, Bank, CoarseClassifier, threshold_log_odds
from anytag.tagger import Tagger

QUERIES = "queries.safetensors"
MIN_PHOTOS = 8  # photos
_HELD_OUT = 4  # every n-th photo is held out
_RIDGE = 0.03  # times the mean squared norm of the centred features


@dataclass(frozen=True, slots=True)
class FirstPass:
    """Accuracy of a first pass on held-out photos.

    Attributes:
        shortlist: number of tags that it leaves for the decoder.
        photos: number of held-out photos.
        predicted: number of tags that the decoder predicts without a first pass.
        lost: fraction of them that the first pass leaves out.
    """

    shortlist: int
    photos: int
    predicted: int
    lost: float


def learn_first_pass(folder: str | Path, photos: Iterable[ImageSource], *, shortlist: int) -> FirstPass:
    """Fit a folder's first pass to its decoder's scores of photos, and write it into the folder.

    Args:
        folder: the model folder; its queries get `coarse`, its card the shortlist and the accuracy.
        photos: at least 8, better hundreds, similar to those that will be tagged; a quarter is held out.
        shortlist: number of tags per photo that are left for the decoder.

    Raises:
        ModelError: too few photos.
        ImageError: a photo cannot be read.
    """
    model, tagger = ModelFolder.open(folder), Tagger.load(folder)
    limits = threshold_log_odds(np.array([tag.threshold for tag in tagger.vocabulary]))
    pooled, margins = _answers(tagger, photos, limits)
    if len(pooled) < MIN_PHOTOS:
        raise ModelError(
            f"{len(pooled)} photos are too few: a first pass needs at least {MIN_PHOTOS}, better hundreds"
        )
    held_out = np.arange(len(pooled)) % _HELD_OUT == 0
    coarse = CoarseClassifier.of(fit_rows(pooled[~held_out], margins[~held_out])).quantized()
    loss = measure_loss(coarse, pooled[held_out], margins[held_out], shortlist=shortlist)
    _write(model, coarse, loss, limits)
    return loss


def fit_rows(pooled: Floats, margins: Floats) -> Floats:
    """Ridge regression in its dual form, since there are fewer photos than features.

    Args:
        pooled: float32 N×D.
        margins: float32 N×K, the decoder's log-odds minus those of the thresholds.

    Returns:
        float32 K×(D+1): weights and bias.
    """
    centre, offset = pooled.mean(0), margins.mean(0)
    x, y = (pooled - centre).astype(np.float64), (margins - offset).astype(np.float64)
    gram = x @ x.T
    damped = gram + _RIDGE * np.trace(gram) / len(x) * np.eye(len(x))
    weights = np.linalg.solve(damped, y).T @ x  # K×D
    bias = offset - weights @ centre
    return np.concatenate([weights, bias[:, None]], 1).astype(np.float32)


def measure_loss(coarse: CoarseClassifier, pooled: Floats, margins: Floats, *, shortlist: int) -> FirstPass:
    """Fraction of the predicted tags (margin above 0) that are not among each photo's best `shortlist`."""
    scores = coarse.logits(pooled)
    shortlisted = np.zeros(scores.shape, bool)
    best = np.argpartition(-scores, min(shortlist, scores.shape[1]) - 1, axis=1)[:, :shortlist]
    np.put_along_axis(shortlisted, best, True, axis=1)
    predicted = margins > 0
    lost = float((predicted & ~shortlisted).sum() / max(1, predicted.sum()))
    return FirstPass(shortlist=shortlist, photos=len(pooled), predicted=int(predicted.sum()), lost=lost)


def _answers(tagger: Tagger, photos: Iterable[ImageSource], limits: Doubles) -> tuple[Floats, Floats]:
    """Pooled vectors N×D, and the margin of every tag's log-odds above `limits` K, N×K."""
    pooled, margins = np.zeros((0, tagger.card.width), np.float32), np.zeros((0, len(limits)), np.float32)
    for photo in photos:
        encoded = tagger.encode(photo)
        pooled = np.vstack([pooled, encoded.pooled])
        margins = np.vstack([margins, (tagger.log_odds([encoded])[0] - limits).astype(np.float32)])
    return pooled, margins


def _write(model: ModelFolder, coarse: CoarseClassifier, loss: FirstPass, limits: Doubles) -> None:
    tags = len(coarse)
    bank = Bank.read(model.file(QUERIES), tags=tags, width=model.card.width)
    with edited(model) as draft:
        replace(bank, coarse=coarse, limits=limits.astype(np.float32)).write(draft / QUERIES)
    facts = {"photos": loss.photos, "given": loss.predicted, "lost": loss.lost}
    metrics = {**model.card.metrics, FIRST_PASS: facts}
    write_card(model.path, replace(model.card, shortlist=loss.shortlist, metrics=metrics))
