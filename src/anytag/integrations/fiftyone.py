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
    """Predicts tags as `Classifications`, and embeddings of photos.

    Only the arguments are pickled; the model is loaded at first use.

    Args:
        model, device: as for `Tagger.load`.
        tags: score exactly these, as for `Tagger.tag`; by default the tags of the vocabulary.
        threshold: minimum score; by default each tag's own, or 0.5 if `tags` are given.
    """

    media_type = "image"
    ragged_batches = False  # photos of a batch may have different sizes
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
        """The state for pickling, without the model, which is loaded again."""
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
        encoded = self._encode(args)
        found = self._tagger.score_many(encoded, self._tags, threshold=self._threshold)
        return [classifications(one) for one in found]

    def get_embeddings(self) -> Floats:
        """The embeddings of the last prediction: float32 N×D.

        Raises:
            RuntimeError: there was no prediction.
        """
        if self._embeddings is None:
            raise RuntimeError("no embeddings yet: call predict or predict_all first")
        return self._embeddings

    def embed(self, arg: Bytes) -> Floats:
        """The embedding of a photo, uint8 H×W×3: float32 D."""
        vector: Floats = self.embed_all([arg])[0]
        return vector

    def embed_all(self, args: Iterable[Bytes]) -> Floats:
        """The embeddings of photos, each uint8 H×W×3: float32 N×D."""
        self._encode(args)
        return self.get_embeddings()

    def _encode(self, photos: Iterable[Bytes]) -> list[Encoded]:
        encoded = [self._tagger.encode(photo) for photo in photos]
        self._embeddings = np.stack([one.pooled for one in encoded])
        return encoded


def classifications(found: TagResult) -> fiftyone.Classifications:
    """Convert tags to FiftyOne's `Classifications`."""
    return fiftyone.Classifications(
        classifications=[fiftyone.Classification(label=tag.name, confidence=tag.score) for tag in found.shown]
    )
