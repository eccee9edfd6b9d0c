"""A FiftyOne model: `dataset.apply_model(AnytagModel())` and `dataset.compute_embeddings(AnytagModel())`."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import fiftyone
import numpy as np
from fiftyone.core.models import EmbeddingsMixin, Model

from anytag._typing import Bytes, Floats
from anytag.results import TagResult
from anytag.runtime.base import Device
from anytag.tagger import Encoded, Requests, Tagger


class AnytagModel(EmbeddingsMixin, Model):  # type: ignore[misc]  # fiftyone is not typed
    """Tags as `Classifications`, and the photo's vector as the embedding.

    It is pickled by its arguments alone, and loads the model where it is first used.

    Args:
        model, device: as for `Tagger.load`.
        tags: score exactly these, as for `Tagger.tag`; by default the tags of the vocabulary.
        threshold: leave out lower scores; by default each tag's own, and 0.5 where `tags` are given.
    """

    media_type = "image"
    ragged_batches = False  # photos of any sizes may come together
    transforms = None
    preprocess = False
    has_embeddings = True

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        device: Device = "auto",
        tags: Requests | None = None,
        threshold: float | None = None,
    ) -> None:
        self._model, self._device, self._tags = model, device, tags
        self._threshold = 0.5 if threshold is None and tags is not None else threshold
        self._embeddings: Floats | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: not the model, which is loaded again by its name."""
        return {name: value for name, value in vars(self).items() if name not in ("_tagger", "_embeddings")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _embeddings=None)

    @cached_property
    def _tagger(self) -> Tagger:
        return Tagger.load(self._model, device=self._device)

    def predict(self, arg: Bytes) -> fiftyone.Classifications:
        """The tags of a photo, uint8 H×W×3."""
        return self.predict_all([arg])[0]

    def predict_all(self, args: Iterable[Bytes]) -> list[fiftyone.Classifications]:
        """The tags of photos, each uint8 H×W×3."""
        seen = self._look(args)
        found = self._tagger.score_many(seen, self._tags, threshold=self._threshold)
        return [classifications(one) for one in found]

    def get_embeddings(self) -> Floats:
        """The vectors of what was predicted last: float32 N×D."""
        if self._embeddings is None:
            raise RuntimeError("nothing was predicted yet: call predict or predict_all before")
        return self._embeddings

    def embed(self, arg: Bytes) -> Floats:
        """The vector of a photo: float32 D."""
        vector: Floats = self.embed_all([arg])[0]
        return vector

    def embed_all(self, args: Iterable[Bytes]) -> Floats:
        """The vectors of photos: float32 N×D."""
        self._look(args)
        return self.get_embeddings()

    def _look(self, photos: Iterable[Bytes]) -> list[Encoded]:
        seen = [self._tagger.encode(photo) for photo in photos]
        self._embeddings = np.stack([one.pooled for one in seen])
        return seen


def classifications(found: TagResult) -> fiftyone.Classifications:
    """Tags as FiftyOne keeps them."""
    return fiftyone.Classifications(
        classifications=[fiftyone.Classification(label=tag.name, confidence=tag.score) for tag in found.shown]
    )
