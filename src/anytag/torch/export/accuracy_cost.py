"""The cost of quantisation: a folder's graphs against its weights in float32, on some photos."""

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

_NOISE = 8  # photos made up where none are given
_CAPTIONED = 16  # of the photos: a caption takes as long as tagging many


@dataclass(frozen=True, slots=True)
class CaptionCost:
    """What quantisation changes in captions, each guided and decoded as the card says.

    Attributes:
        photos: how many.
        largest: difference of a wordpiece's score, all along the exact model's captions.
        changed: share of captions that differ in any word.
    """

    photos: int
    largest: float
    changed: float


@dataclass(frozen=True, slots=True)
class Cost:
    """What quantisation changes in the tags of some photos.

    Attributes:
        photos: how many.
        largest: difference of a tag's log-odds, before what is near its threshold is decoded exactly.
        flips: share of tags given by either, the exact model or the other, that the two do not agree on.
        predicted: tags that the exact model gives.
        captions: the same of captions, None where the model writes none.
    """

    photos: int
    largest: float
    flips: float
    predicted: int
    captions: CaptionCost | None = None


def measure_cost(folder: str | Path, photos: Sequence[Path] = ()) -> Cost:
    """What the folder's graphs answer otherwise than its weights in float32.

    Raises:
        ModelError: the folder has no graphs or no weights.
        ImageError: a photo cannot be read.
    """
    cost = _measure_tags(folder, photos)  # its networks are gone when those of captions come
    if ModelFolder.open(folder, verify=False).card.captions is None:
        return cost
    return replace(cost, captions=_measure_captions(folder, photos))


def _measure_tags(folder: str | Path, photos: Sequence[Path]) -> Cost:
    exact = Tagger.load(folder, device="cpu", precision="float32")
    graphs = Tagger.load(folder, device="cpu")
    count, largest, predicted, differ, either = 0, 0.0, 0, 0, 0
    for image in _images(exact, photos):
        (ours, a), (approximate, b) = (_answers(tagger, image) for tagger in (exact, graphs))
        count, largest = count + 1, max(largest, float(np.abs(ours - approximate).max()))
        predicted, differ, either = predicted + len(a), differ + len(a ^ b), either + len(a | b)
    return Cost(count, largest, differ / max(1, either), predicted)


def _measure_captions(folder: str | Path, photos: Sequence[Path]) -> CaptionCost:
    exact = Captioner.load(folder, device="cpu", precision="float32")
    graphs = Captioner.load(folder, device="cpu")
    count, largest, changed = 0, 0.0, 0
    for image in islice(_images(exact.tagger, photos), _CAPTIONED):
        encoded, guessed = (captioner.tagger.encode(image) for captioner in (exact, graphs))
        (caption,), (other,) = exact.write([encoded]), graphs.write([guessed])
        steps = zip(_scores(exact, encoded, caption), _scores(graphs, guessed, caption), strict=True)
        largest = max(largest, *(float(np.abs(ours - approximate).max()) for ours, approximate in steps))
        count, changed = count + 1, changed + (caption.text != other.text)
    return CaptionCost(count, largest, changed / max(1, count))


def _images(tagger: Tagger, photos: Sequence[Path]) -> Iterable[ImageSource]:
    """The photos, or noise where there are none."""
    size = tagger.card.image.size
    return photos or np.random.default_rng(0).integers(0, 256, (_NOISE, size, size, 3), np.uint8)


def _answers(tagger: Tagger, image: ImageSource) -> tuple[Doubles, set[str]]:
    """Log-odds of every tag, as they come: K; ids of the tags that are given."""
    encoded = tagger.encode(image)
    return tagger.log_odds([encoded])[0], {tag.id for tag in tagger.score(encoded).tags}


def _scores(captioner: Captioner, encoded: Encoded, caption: Caption) -> Iterator[Floats]:
    """Of each next wordpiece, 1×V, along a caption and guided by its tags."""
    pieces, prompt = captioner.pieces, captioner.spec.prompt
    start, ids = len(pieces.prompt(prompt)), pieces.prompt(prompt + caption.text)
    writer = captioner.writer([encoded], [caption.tags])
    scores, state = writer.start(np.array([ids[:start]]))
    yield scores
    for number in ids[start:]:
        scores, state = writer.step(np.array([number]), state)
        yield scores
