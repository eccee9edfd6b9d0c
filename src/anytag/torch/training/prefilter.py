"""A first pass for a folder whose decoder is slow: one linear row a tag, which learns from the decoder.

With it a photo's tags are decoded only where the first pass finds them likely. Tags do not touch each other
in the decoder, so those that are looked at have exactly the scores they would have anyway.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from anytag.errors import ModelError
from anytag.images import ImageSource
from anytag.models.folder import ModelFolder, write_card
from anytag.models.tensors import map_tensors
from anytag.queries.build import Questions
from anytag.tagger import Tagger

Floats = npt.NDArray[np.float32]

FEWEST = 8  # photos
_HELD_OUT = 4  # every so many-th photo is measured on, not learned from
_FAR = 14.0  # a logit of a probability of one in a million
_RIDGE = 0.03  # of the mean square of the centred features


@dataclass(frozen=True, slots=True)
class FirstPass:
    """What a first pass is worth, on photos it has not learned from.

    Attributes:
        shortlist: tags it leaves for the decoder.
        photos: measured on.
        given: tags that the decoder gives when it looks at all.
        lost: share of them that the first pass leaves out.
    """

    shortlist: int
    photos: int
    given: int
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
    pooled, margins = _answers(model, tagger, photos)
    if len(pooled) < FEWEST:
        raise ModelError(
            f"{len(pooled)} photos were given: a first pass needs at least {FEWEST}, better hundreds"
        )
    held_out = np.arange(len(pooled)) % _HELD_OUT == 0
    coarse = fit_rows(pooled[~held_out], margins[~held_out])
    found = measure_loss(coarse, pooled[held_out], margins[held_out], shortlist=shortlist)
    _write(model, coarse, found)
    return found


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
    kept = np.zeros(scores.shape, bool)
    best = np.argpartition(-scores, min(shortlist, scores.shape[1]) - 1, axis=1)[:, :shortlist]
    np.put_along_axis(kept, best, True, axis=1)
    given = margins > 0
    lost = float((given & ~kept).sum() / max(1, given.sum()))
    return FirstPass(shortlist=shortlist, photos=len(pooled), given=int(given.sum()), lost=lost)


def _answers(model: ModelFolder, tagger: Tagger, photos: Iterable[ImageSource]) -> tuple[Floats, Floats]:
    """Pooled vectors N×D, and by how much every tag's logit is above the least that is given: N×K."""
    questions = Questions(model)
    question = questions.prepare(None, also=None, top_k=None, threshold=0.0)  # so that all are decoded
    given = questions.prepare(None, also=None, top_k=None, threshold=None)
    limits = given.limits.clip(-_FAR, _FAR)  # a threshold of 0 or 1 has none that is finite
    rows: list[tuple[Floats, Floats]] = []
    for photo in photos:
        seen = tagger.encode(photo)
        _, logits = question.logits(tagger.runtime, seen.tokens[None], seen.pooled[None])
        rows.append((seen.pooled, (logits[0] - limits).astype(np.float32)))
    if not rows:
        return np.zeros((0, model.card.width), np.float32), np.zeros((0, len(tagger.vocabulary)), np.float32)
    pooled, answered = (np.stack(part) for part in zip(*rows, strict=True))
    return pooled, answered


def _write(model: ModelFolder, coarse: Floats, found: FirstPass) -> None:
    path = model.file("queries.safetensors")
    beside = path.with_name(f".{path.name}.new")
    save_file({**map_tensors(path), "coarse": coarse.astype(np.float16)}, beside)
    beside.replace(path)
    told = {"photos": found.photos, "given": found.given, "lost": found.lost}
    metrics = {**model.card.metrics, "first_pass": told}
    write_card(model.path, replace(model.card, shortlist=found.shortlist, metrics=metrics))
