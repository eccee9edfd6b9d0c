"""The two stages of processing, which may run on different machines: preprocessing and the model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from typing import Any, Literal

import numpy as np

from anytag._typing import Bytes
from anytag.captioner import Captioner
from anytag.data.io import public
from anytag.errors import ImageError, ModelError
from anytag.images import MAX_PIXELS, ImageSource, load, prepare
from anytag.models.card import FILE_NAME, Card
from anytag.models.registry import resolve
from anytag.results import Failure
from anytag.runtime.base import Device
from anytag.tagger import Encoded, Tagger
from anytag.vocabulary import Vocabulary

BATCH = 8
"""Batch size, the same as of `anytag tag`, so that scores are the same."""

Answer = dict[str, Any]
"""The columns of a row except id and error."""


@dataclass(frozen=True)
class Task:
    """What to do with photos: plain values, sent to workers, which load the model themselves.

    Attributes:
        what: "tag" for tags and scores, "caption" for captions and the tags that guided them.
        model: name or folder of a model that all machines have; None for the embedded one.
        device: as for `Tagger.load`.
        vocabulary: the tags to score, as for `Tagger.load`.
        options: options of `Tagger.tag` or `Captioner.caption` by name.
        embed: whether to add an embedding of the photo.
        max_pixels: as for `Tagger.load`.
        card: hash of the model's card, to check that all machines have the same model.
    """

    what: Literal["tag", "caption"] = "tag"
    model: str | None = None
    device: Device = "auto"
    vocabulary: Vocabulary | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    embed: bool = False
    max_pixels: int = MAX_PIXELS
    card: str = ""

    def open(self) -> Model:
        """Load the model and check the options.

        Raises:
            AnytagError: as `Tagger.load`; the model differs from the driver's; invalid options.
        """
        if self.what == "caption":
            captioner = Captioner.load(self.model, device=self.device, max_pixels=self.max_pixels)
            tagger = captioner.tagger
        else:
            captioner = None
            tagger = Tagger.load(
                self.model, device=self.device, vocabulary=self.vocabulary, max_pixels=self.max_pixels
            )
        if self.card not in ("", card_hash(tagger.card)):
            raise ModelError(
                f"the model {tagger.card.name} of this machine differs from the driver's: install the same "
                "model on all machines"
            )
        return Model(self, tagger, captioner)

    def work(self) -> dict[str, Any]:
        """What determines the rows, as plain JSON, for `Parts`."""
        card = card_of(self.model)
        options = {name: plain(value) for name, value in self.options.items() if value is not None}
        words = None if self.vocabulary is None else _digest(repr([asdict(tag) for tag in self.vocabulary]))
        return {
            "anytag": self.what, "model": card.name, "card": card_hash(card), "vocabulary": words,
            "options": options, "embed": self.embed, "max_pixels": self.max_pixels,
        }  # fmt: skip


class Model:
    """A loaded model that performs a task."""

    def __init__(self, task: Task, tagger: Tagger, captioner: Captioner | None) -> None:
        self._task, self._tagger, self._captioner = task, tagger, captioner
        self._answer([])  # raises for invalid options

    def __call__(self, pixels: Sequence[Bytes]) -> list[Answer]:
        """The answers for any number of images, uint8 S×S×3, from `Preprocess`."""
        answers: list[Answer] = []
        for start in range(0, len(pixels), BATCH):
            some = pixels[start : start + BATCH]
            encoded = list(self._tagger.encode_many(some, batch_size=BATCH, workers=1))
            answers += self._answer(encoded)
        return answers

    def _answer(self, encoded: list[Encoded]) -> list[Answer]:
        options = self._task.options
        answers: list[Answer]
        if self._captioner is not None:
            captions = self._captioner.write(encoded, **options)
            answers = [{"caption": one.text, "tags": list(one.tags)} for one in captions]
        else:
            tagged = self._tagger.score_many(encoded, **options)
            answers = [
                {"tags": list(one.names), "scores": [tag.score for tag in one.shown]} for one in tagged
            ]
        if self._task.embed:
            for answer, one in zip(answers, encoded, strict=True):
                answer["vector"] = one.pooled.tolist()
        return answers


class Preprocess:
    """Decodes and resizes a photo to the model's input, on a CPU, without the model."""

    def __init__(self, task: Task) -> None:
        self._image, self._max_pixels = card_of(task.model).image, task.max_pixels

    def __call__(self, photo: ImageSource) -> Bytes | Failure:
        """uint8 S×S×3, or a `Failure`, for any exception: one photo must not stop the others."""
        spec = self._image
        try:
            loaded = load(photo, min_side=spec.size, max_pixels=self._max_pixels, exact=spec.plain)
            square = prepare(loaded, size=spec.size, resample=spec.resample, exact=spec.plain)
        except MemoryError:
            return failure(ImageError("not enough memory to decode it"))
        except Exception as error:
            return failure(error)
        return np.ascontiguousarray(square.transpose(1, 2, 0))


def failure(error: Exception) -> Failure:
    """An error as stored in a row, without passwords."""
    return Failure(type(error).__name__, public(str(error)))


def schema(task: Task) -> Any:
    """The pyarrow schema of the rows of a task."""
    pa = import_module("pyarrow")
    words, text = pa.list_(pa.string()), pa.string()
    vector = [("vector", pa.list_(pa.float32(), card_of(task.model).width))] if task.embed else []
    first = (
        [("tags", words), ("scores", pa.list_(pa.float64()))]
        if task.what == "tag"
        else [("caption", text), ("tags", words)]
    )
    error = ("error", pa.struct([("type", text), ("message", text)]))
    return pa.schema([("id", text), *first, *vector, error])


def card_of(model: str | None) -> Card:
    """The card of a model.

    Raises:
        UnknownModelError, CardError: there is no such model, or its card is invalid.
    """
    return Card.read(resolve(model) / FILE_NAME)


def card_hash(card: Card) -> str:
    """A hash that distinguishes models of the same name."""
    return _digest(repr(card))


def plain(value: Any) -> Any:
    """Convert an option to JSON types."""
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, Sequence) else repr(value)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
