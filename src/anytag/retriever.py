"""Photos found by a sentence, and sentences by a photo.

A sentence is a query like any tag (captions as queries; RAM++, section 3.2): the decoder looks at the image
tokens and answers how well it fits. Photos are embedded once and ranked for as many sentences as you like.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from anytag.errors import AnytagError, ModelError
from anytag.images import ImageSource
from anytag.models.onnx import Device
from anytag.results import Failure, Match
from anytag.tagger import Encoded, Tagger

Floats = npt.NDArray[np.float32]

SHORTLIST = 256
_BATCH = 32  # photos, and texts, that go through the decoder together
_PATHS, _MODEL = "paths", "model"


@dataclass(frozen=True, eq=False)
class Gallery:
    """Photos as a model saw them.

    Attributes:
        model: name of the model.
        paths: N, as the photos were named; "" where one came without a name.
        tokens: float16 N×T×D.
        pooled: float32 N×D.
        failed: what could not be read, with the reason; these photos are not among the N.
    """

    model: str
    paths: tuple[str, ...]
    tokens: npt.NDArray[np.float16]
    pooled: Floats
    failed: tuple[tuple[str, Failure], ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def write(self, path: str | Path) -> None:
        """Writes a safetensors file, atomically. About 50 kB a photo."""
        import json

        from safetensors.numpy import save_file

        path = Path(path)
        beside = path.with_name(path.name + ".new")
        said = {_MODEL: self.model, _PATHS: json.dumps(self.paths)}
        save_file({"tokens": self.tokens, "pooled": self.pooled}, beside, metadata=said)
        beside.replace(path)

    @classmethod
    def read(cls, path: str | Path) -> Gallery:
        """The gallery that `write` made.

        Raises:
            AnytagError: the file is missing, damaged, or no gallery.
        """
        import json

        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                said, tokens, pooled = file.metadata(), file.get_tensor("tokens"), file.get_tensor("pooled")
            gallery = cls(said[_MODEL], tuple(json.loads(said[_PATHS])), tokens, pooled)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise AnytagError(f"{path} is no gallery of anytag ({error}); make it again") from error
        shapes = tokens.ndim == 3 and pooled.shape == (len(tokens), tokens.shape[2])
        if not shapes or len(gallery) != len(tokens) or tokens.dtype != np.float16:
            raise AnytagError(f"{path}: paths, tokens and pooled do not fit together; make it again")
        return gallery


class Retriever:
    """Ranks photos for texts and texts for photos; make one with `Retriever.load`.

    Attributes:
        tagger: whose model encodes photos and texts.
    """

    def __init__(self, tagger: Tagger) -> None:
        self.tagger = tagger

    @classmethod
    def load(cls, model: str | Path | None = None, *, device: Device = "auto") -> Retriever:
        """A retriever with a model and a device that are there; arguments and errors as for `Tagger.load`."""
        return cls(Tagger.load(model, device=device))

    def embed(
        self, images: Iterable[ImageSource], *, batch_size: int = 8, workers: int | None = None
    ) -> Gallery:
        """Photos as the model sees them; one that cannot be read is listed in `Gallery.failed`."""
        seen = self.tagger.encode_many(images, batch_size=batch_size, workers=workers)
        good: list[Encoded] = []
        failed: list[tuple[str, Failure]] = []
        tokens: list[npt.NDArray[np.float16]] = []
        for one in seen:
            if one.error is not None:
                failed.append((one.path or "", one.error))
            else:
                tokens.append(one.tokens.astype(np.float16))  # half the memory, while they come
                good.append(Encoded(one.tokens[:0], one.pooled, one.path, one.width, one.height))
        width = self.tagger.card.width
        return Gallery(
            self.tagger.card.name,
            tuple(one.path or "" for one in good),
            np.stack(tokens) if tokens else np.zeros((0, 1, width), np.float16),
            np.stack([one.pooled for one in good]) if good else np.zeros((0, width), np.float32),
            tuple(failed),
        )

    def score(self, gallery: Gallery, texts: Sequence[str]) -> Floats:
        """How well every text fits every photo, by the decoder: probabilities, float32 N×M.

        Raises:
            VocabularyError: a text is empty or has no word that is known.
            ModelError: the gallery is of another model.
        """
        return self._score(gallery, np.arange(len(gallery)), self._queries(gallery, texts))

    def rank(
        self, gallery: Gallery, text: str, *, top_k: int | None = 10, shortlist: int = SHORTLIST
    ) -> tuple[Match, ...]:
        """The photos that fit a text best, by falling score.

        Args:
            top_k: at most so many; None for all.
            shortlist: photos that the decoder looks at, chosen by their mean token, which costs next to
                nothing. With as many as there are photos the ranking is exact.
        """
        queries = self._queries(gallery, [text])
        count = min(len(gallery), max(shortlist, top_k or len(gallery)))
        likely = np.argsort(-(gallery.pooled @ queries[0, 0]), kind="stable")[:count]
        scores = self._score(gallery, np.sort(likely), queries)[:, 0]
        best = np.argsort(-scores, kind="stable")[:top_k]
        order = np.sort(likely)[best]
        return tuple(
            Match(gallery.paths[number], text, float(f"{score:.6g}"))
            for number, score in zip(order.tolist(), scores[best].tolist(), strict=True)
        )

    def _queries(self, gallery: Gallery, texts: Sequence[str]) -> Floats:
        """float32 M×1×D."""
        if gallery.model != self.tagger.card.name:
            raise ModelError(
                f"the gallery was made with the model {gallery.model!r}, this is {self.tagger.card.name!r}; "
                "embed the photos again"
            )
        return self.tagger.queries(texts)

    def _score(self, gallery: Gallery, photos: npt.NDArray[np.intp], queries: Floats) -> Floats:
        """Probabilities of M queries for the photos at `photos`: float32 N×M."""
        line = self.tagger.card.calibration.own
        logits = np.zeros((len(photos), len(queries)), np.float32)
        for start in range(0, len(photos), _BATCH):
            some = photos[start : start + _BATCH]
            tokens, pooled = gallery.tokens[some].astype(np.float32), gallery.pooled[some]
            logits[start : start + _BATCH] = self.tagger.runtime.score(tokens, pooled, queries[None])
        scores: Floats = 1 / (1 + np.exp(-np.clip(line.scale * logits + line.bias, -60, 60)))
        return scores
