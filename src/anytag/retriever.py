"""Photos found by a sentence, and sentences by a photo.

Photos are embedded once and ranked for as many sentences as you like, in two passes: vectors are compared,
which costs next to nothing, and the likely photos are looked at. Who looks, `anytag.judges` says.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from anytag.errors import AnytagError, ModelError
from anytag.images import MAX_PIXELS, ImageSource
from anytag.judges import DecoderJudge, Judge, Texts, open_judge
from anytag.models.folder import ModelFolder
from anytag.models.hub import resolve
from anytag.models.onnx import Device
from anytag.models.runtime import open_runtime
from anytag.results import Failure, Match
from anytag.tagger import Tagger, batches

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

SHORTLIST = 256
"""Photos that are looked at for a text by default, as ALBEF does on COCO."""
_PATHS, _MODEL = "paths", "model"


@dataclass(frozen=True, eq=False)
class Gallery:
    """Photos as a model saw them.

    Attributes:
        model: name of the model.
        paths: N, as the photos were named; "" where one came without a name.
        tokens: float16 N×T×D, what texts look at: image tokens, and encoded tags where tags guide.
        pooled: float32 N×E, a vector of each photo, by which the likely ones are found.
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
        """Writes a safetensors file, atomically. About 50 kB a photo with `mini`."""
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
        shapes = (tokens.ndim, pooled.ndim, len(pooled)) == (3, 2, len(tokens))
        if not shapes or len(gallery) != len(tokens) or tokens.dtype != np.float16:
            raise AnytagError(f"{path}: paths, tokens and pooled do not fit together; make it again")
        return gallery


class Retriever:
    """Ranks photos for texts and texts for photos; make one with `Retriever.load`.

    Attributes:
        tagger: whose model encodes photos.
    """

    def __init__(self, tagger: Tagger, judge: Judge | None = None) -> None:
        self.tagger = tagger
        self._judge = judge or DecoderJudge(tagger)

    @classmethod
    def load(
        cls,
        model: str | Path | None = None,
        *,
        device: Device = "auto",
        max_pixels: int = MAX_PIXELS,
    ) -> Retriever:
        """A retriever with a model and a device that are there; arguments and errors as for `Tagger.load`.

        Raises:
            ModelError: besides, the model has neither alignment heads nor a text encoder.
        """
        folder = ModelFolder.open(resolve(model))
        tagger = Tagger(folder, open_runtime(folder, device=device), max_pixels=max_pixels)
        return cls(tagger, open_judge(folder, tagger))

    def embed(
        self, images: Iterable[ImageSource], *, batch_size: int = 8, workers: int | None = None
    ) -> Gallery:
        """Photos as the model sees them; one that cannot be read is listed in `Gallery.failed`."""
        depth, width = self._judge.widths
        tokens: list[npt.NDArray[np.float16]] = [np.zeros((0, 1, depth), np.float16)]
        pooled: list[Floats] = [np.zeros((0, width), np.float32)]
        paths: list[str] = []
        failed: list[tuple[str, Failure]] = []
        encoded = self.tagger.encode_many(images, batch_size=batch_size, workers=workers)
        for batch in batches(encoded, batch_size):
            failed += [(one.path or "", one.error) for one in batch if one.error is not None]
            good = [one for one in batch if one.error is None]
            if not good:
                continue
            seen, vectors = self._judge.see(good)
            paths += [one.path or "" for one in good]
            tokens.append(seen.astype(np.float16))  # half the memory, while they come
            pooled.append(vectors)
        first = 1 if paths else 0  # the empty array, which alone knows no T
        return Gallery(
            self.tagger.card.name,
            tuple(paths),
            np.concatenate(tokens[first:]),
            np.concatenate(pooled),
            tuple(failed),
        )

    def score(self, gallery: Gallery, texts: Sequence[str], *, shortlist: int = SHORTLIST) -> Floats:
        """How well every text fits every photo: float32 N×M, probabilities of pairs that were looked at.

        The tag decoder looks at all. The matching head looks at each text's `shortlist` likeliest photos and
        at each photo's likeliest texts; the other pairs score from -1 to 0, as the contrast ranks them.

        Raises:
            VocabularyError: a text is empty or has no word that is known.
            ModelError: the gallery is of another model.
        """
        self._check(gallery)
        asked = self._judge.read(texts)
        wanted = np.ones((len(gallery), len(texts)), np.bool_)
        if self._judge.dear:
            near = gallery.pooled @ asked.vectors.T
            wanted = _best(near, shortlist) | _best(near.T, shortlist).T
        scores = self._probabilities(self._logits(gallery, asked, wanted))
        if self._judge.dear:
            scores = np.where(wanted, scores, (np.clip(near, -1, 1) - 1) / 2)
        return scores

    def rank(
        self, gallery: Gallery, text: str, *, top_k: int | None = 10, shortlist: int = SHORTLIST
    ) -> tuple[Match, ...]:
        """The photos that fit a text best, by falling score.

        Args:
            top_k: at most so many; None for all.
            shortlist: photos that are looked at, `top_k` at least, chosen by their vectors, which costs next
                to nothing. With as many as there are photos the ranking is exact. RAM's and RAM++'s vectors
                tell nothing, so there every photo is looked at.
        """
        self._check(gallery)
        asked = self._judge.read([text])
        count = max(shortlist, top_k or len(gallery)) if self._judge.near else len(gallery)
        wanted = _best(gallery.pooled @ asked.vectors.T, count)  # N×1
        likely = np.flatnonzero(wanted)
        logits = self._logits(gallery, asked, wanted)[likely, 0]
        best = np.argsort(-logits, kind="stable")[:top_k]
        return tuple(
            Match(gallery.paths[number], text, float(f"{score:.6g}"))
            for number, score in zip(
                likely[best].tolist(), self._probabilities(logits[best]).tolist(), strict=True
            )
        )

    def _check(self, gallery: Gallery) -> None:
        widths = gallery.tokens.shape[2], gallery.pooled.shape[1]
        if gallery.model != self.tagger.card.name or widths != self._judge.widths:
            raise ModelError(
                f"the gallery was made with the model {gallery.model!r} ({widths[0]} and {widths[1]} wide), "
                f"this is {self.tagger.card.name!r} ({self._judge.widths[0]} and {self._judge.widths[1]}); "
                "embed the photos again"
            )

    def _logits(self, gallery: Gallery, asked: Texts, wanted: Bools) -> Floats:
        """Of the wanted among N×M pairs; the others are 0."""
        logits = np.zeros(wanted.shape, np.float32)
        photos = np.flatnonzero(wanted.any(1))
        for start in range(0, len(photos), self._judge.batch):
            some = photos[start : start + self._judge.batch]
            pairs = np.argwhere(wanted[some])
            tokens, pooled = gallery.tokens[some].astype(np.float32), gallery.pooled[some]
            logits[some[pairs[:, 0]], pairs[:, 1]] = self._judge.look(tokens, pooled, asked, pairs)
        return logits

    def _probabilities(self, logits: Floats) -> Floats:
        line = self._judge.line
        scores: Floats = 1 / (1 + np.exp(-np.clip(line.scale * logits + line.bias, -60, 60)))
        return scores


def _best(near: Floats, count: int) -> Bools:
    """Which `count` of N are the largest, in each of M columns: N×M."""
    best = np.zeros(near.shape, np.bool_)
    np.put_along_axis(best, np.argsort(-near, axis=0, kind="stable")[:count], True, axis=0)
    return best
