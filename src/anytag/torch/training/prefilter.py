"""A first pass for a folder whose decoder is slow: one linear row a tag, which learns from the decoder.

With it a photo's tags are decoded only where the first pass finds them likely. Tags are
independent in the decoder, so those that are decoded have exactly the scores they would have anyway.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from anytag._typing import Floats
from anytag.errors import ModelError
from anytag.images import ImageSource
from anytag.models.folder import ModelFolder, edited, write_card
from anytag.queries.bank import Bank
from anytag.tagger import Tagger

QUERIES = "queries.safetensors"
MIN_PHOTOS = 8  # photos
_HELD_OUT = 4  # every so many-th photo is measured on, not learned from
_FAR = 14.0  # a logit of a probability of one in a million
_RIDGE = 0.03  # of the mean square of the centred features


@dataclass(frozen=True, slots=True)
class FirstPass:
    """What a first pass is worth, on photos it has not learned from.

    Attributes:
        shortlist: tags it leaves for the decoder.
        photos: measured on.
        predicted: tags that the decoder gives when it looks at all.
        lost: share of them that the first pass leaves out.
    """

    shortlist: int
    photos: int
    predicted: int
    lost: float


def learn_first_pass(folder: str | Path, photos: Iterable[ImageSource], *, shortlist: int) -> FirstPass:
    """Teach a folder's first pass from its decoder's answers about photos, and write it into the folder.

    Args:
        folder: its queries get `coarse`, its card the shortlist and what is lost.
        photos: at least 8, better hundreds of the sort that will be tagged; three quarters teach.
        shortlist: tags left for the decoder, for each photo.

    Raises:
        ModelError: too few photos.
        ImageError: a photo cannot be read.
    """
    model, tagger = ModelFolder.open(folder), Tagger.load(folder)
    pooled, margins = _answers(tagger, photos)
    if len(pooled) < MIN_PHOTOS:
        raise ModelError(
            f"{len(pooled)} photos were given: a first pass needs at least {MIN_PHOTOS}, better hundreds"
        )
    held_out = np.arange(len(pooled)) % _HELD_OUT == 0
    coarse = fit_rows(pooled[~held_out], margins[~held_out])
    loss = measure_loss(coarse, pooled[held_out], margins[held_out], shortlist=shortlist)
    _write(model, coarse, loss)
    return loss


def fit_rows(pooled: Floats, margins: Floats) -> Floats:
    """Ridge regression, in its dual form: photos are fewer than features.

    Args:
        pooled: float32 N×D.
        margins: float32 N×K, what the decoder answers.

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


def measure_loss(coarse: Floats, pooled: Floats, margins: Floats, *, shortlist: int) -> FirstPass:
    """What the best `shortlist` of each photo by `coarse` leave out of the tags whose margin is above 0."""
    scores = pooled @ coarse[:, :-1].T + coarse[:, -1]
    shortlisted = np.zeros(scores.shape, bool)
    best = np.argpartition(-scores, min(shortlist, scores.shape[1]) - 1, axis=1)[:, :shortlist]
    np.put_along_axis(shortlisted, best, True, axis=1)
    predicted = margins > 0
    lost = float((predicted & ~shortlisted).sum() / max(1, predicted.sum()))
    return FirstPass(shortlist=shortlist, photos=len(pooled), predicted=int(predicted.sum()), lost=lost)


def _answers(tagger: Tagger, photos: Iterable[ImageSource]) -> tuple[Floats, Floats]:
    """Pooled vectors N×D, and by how much every tag's log-odds are above its threshold's: N×K."""
    thresholds = np.array([tag.threshold for tag in tagger.vocabulary])
    with np.errstate(divide="ignore"):  # 0 and 1 have log-odds that are not finite
        limits = (np.log(thresholds) - np.log1p(-thresholds)).clip(-_FAR, _FAR)
    pooled, margins = np.zeros((0, tagger.card.width), np.float32), np.zeros((0, len(limits)), np.float32)
    for photo in photos:
        encoded = tagger.encode(photo)
        pooled = np.vstack([pooled, encoded.pooled])
        margins = np.vstack([margins, (tagger.log_odds([encoded])[0] - limits).astype(np.float32)])
    return pooled, margins


def _write(model: ModelFolder, coarse: Floats, loss: FirstPass) -> None:
    tags = len(coarse)
    bank = Bank.read(model.file(QUERIES), tags=tags, width=model.card.width)
    with edited(model) as draft:
        replace(bank, coarse=coarse).write(draft / QUERIES)
    facts = {"photos": loss.photos, "given": loss.predicted, "lost": loss.lost}
    metrics = {**model.card.metrics, "first_pass": facts}
    write_card(model.path, replace(model.card, shortlist=loss.shortlist, metrics=metrics))
