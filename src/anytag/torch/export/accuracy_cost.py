"""Accuracy cost of quantisation: compare a folder's graphs with its float32 weights on photos."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from anytag._typing import Doubles, Floats
from anytag.captioner import Captioner
from anytag.images import ImageSource
from anytag.models.folder import ModelFolder
from anytag.results import Caption
from anytag.tagger import Encoded, Tagger

_NOISE = 8  # number of random images if no photos are given
_CAPTIONED = 16  # captions are compared for the first photos only, since they take far longer than tags


@dataclass(frozen=True, slots=True)
class CaptionCost:
    """Effect of quantisation on captions, guided and decoded as the card says.

    Attributes:
        photos: number of photos.
        largest: largest difference of a wordpiece's logit along the captions of the exact model.
        changed: share of captions that differ in any word.
    """

    photos: int
    largest: float
    changed: float


@dataclass(frozen=True, slots=True)
class Cost:
    """Effect of quantisation on the tags of photos.

    Attributes:
        photos: number of photos.
        largest: largest difference of a tag's log-odds, before tags near their threshold are decoded exactly.
        flips: share of disagreements among the tags that at least one of the two models predicts.
        predicted: number of tags that the exact model predicts.
        captions: the effect on captions, None if the model has no caption head.
    """

    photos: int
    largest: float
    flips: float
    predicted: int
    captions: CaptionCost | None = None


def measure_cost(folder: str | Path, photos: Sequence[Path] = ()) -> Cost:
    """Measure how the results of a folder's graphs differ from those of its float32 weights.

    Args:
        photos: photos to compare on; random images by default.

    Raises:
        ModelError: the folder has no graphs or no weights.
        ImageError: a photo cannot be read.
    """
    cost = _measure_tags(folder, photos)  # frees its networks before those for captions are loaded
    if ModelFolder.open(folder, verify=False).card.captions is None:
        return cost
    return replace(cost, captions=_measure_captions(folder, photos))


def _measure_tags(folder: str | Path, photos: Sequence[Path]) -> Cost:
    exact = Tagger.load(folder, device="cpu", precision="float32")
    graphs = Tagger.load(folder, device="cpu")
    count, largest, predicted, differ, either = 0, 0.0, 0, 0, 0
    for image in _images(exact, photos):
        (expected, a), (approximate, b) = (_predictions(tagger, image) for tagger in (exact, graphs))
        count, largest = count + 1, max(largest, float(np.abs(expected - approximate).max()))
        predicted, differ, either = predicted + len(a), differ + len(a ^ b), either + len(a | b)
    return Cost(count, largest, differ / max(1, either), predicted)


def _measure_captions(folder: str | Path, photos: Sequence[Path]) -> CaptionCost:
    exact = Captioner.load(folder, device="cpu", precision="float32")
    graphs = Captioner.load(folder, device="cpu")
    count, largest, changed = 0, 0.0, 0
    for image in islice(_images(exact.tagger, photos), _CAPTIONED):
        encoded, other_encoded = (captioner.tagger.encode(image) for captioner in (exact, graphs))
        (caption,), (other,) = exact.write([encoded]), graphs.write([other_encoded])
        steps = zip(_logits(exact, encoded, caption), _logits(graphs, other_encoded, caption), strict=True)
        largest = max(largest, *(float(np.abs(a - b).max()) for a, b in steps))
        count, changed = count + 1, changed + (caption.text != other.text)
    return CaptionCost(count, largest, changed / max(1, count))


def _images(tagger: Tagger, photos: Sequence[Path]) -> Iterable[ImageSource]:
    """The photos, or random images if there are none."""
    size = tagger.card.image.size
    return photos or np.random.default_rng(0).integers(0, 256, (_NOISE, size, size, 3), np.uint8)


def _predictions(tagger: Tagger, image: ImageSource) -> tuple[Doubles, set[str]]:
    """Log-odds of every tag, K, and the ids of the predicted tags."""
    encoded = tagger.encode(image)
    return tagger.log_odds([encoded])[0], {tag.id for tag in tagger.score(encoded).tags}


def _logits(captioner: Captioner, encoded: Encoded, caption: Caption) -> Iterator[Floats]:
    """Logits of each next wordpiece, 1×V, along a caption and guided by its tags."""
    pieces, prompt = captioner.pieces, captioner.spec.prompt
    start, ids = len(pieces.prompt(prompt)), pieces.prompt(prompt + caption.text)
    writer = captioner.writer([encoded], [caption.tags])
    scores, state = writer.start(np.array([ids[:start]]))
    yield scores
    for number in ids[start:]:
        scores, state = writer.step(np.array([number]), state)
        yield scores
