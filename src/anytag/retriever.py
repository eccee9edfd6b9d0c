"""Photos found by a sentence, and sentences by a photo.

Photos are embedded once and ranked for as many sentences as you like, in two passes: vectors are compared,
which costs next to nothing, and the likely photos are re-ranked: by whom, `anytag.reranking` says; where
what the model saw is kept, `anytag.gallery`. Photos that are in a library are searched by `anytag.library`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from anytag._typing import Bools, Floats
from anytag.batching import batches
from anytag.errors import AnytagError, VocabularyError, is_whole
from anytag.fusion.compare import blocks
from anytag.gallery import Gallery, GalleryWriter, check_model
from anytag.images import MAX_PIXELS, ImageSource
from anytag.models.folder import ModelFolder
from anytag.models.registry import resolve
from anytag.reranking import PairScorer, Texts, open_pair_scorer, text_pair_scorer
from anytag.results import Failure, Match
from anytag.runtime.base import Device
from anytag.runtime.open import open_runtime
from anytag.scoring import sigmoid
from anytag.tagger import Encoded, Tagger


class Retriever:
    """Ranks photos for texts and texts for photos; make one with `Retriever.load`.

    Attributes:
        tagger: whose model encodes photos.
    """

    def __init__(self, tagger: Tagger, scorer: PairScorer | None = None) -> None:
        self.tagger = tagger
        self._scorer = scorer or text_pair_scorer(tagger)

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
        return cls(tagger, open_pair_scorer(folder, tagger))

    @property
    def calibrated(self) -> bool:
        """Whether a score is the probability that a text fits a photo: below one half it does not."""
        return self._scorer.calibrated

    def unknown_words(self, text: str) -> tuple[str, ...]:
        """The words of a text that the model knows by their letters alone, if at all: they say little.

        Raises:
            VocabularyError: not a text, or none of its words is known.
        """
        self._read([text])
        return self._scorer.unknown_words(text)

    def embed(
        self, images: Iterable[ImageSource], *, batch_size: int = 8, workers: int | None = None
    ) -> Gallery:
        """Photos as the model sees them, in memory; one that cannot be read is listed in `Gallery.failed`."""
        layout, weights = next(iter(self._scorer.layouts.items()))
        tokens: list[npt.NDArray[np.floating]] = []
        pooled: list[Floats] = [np.zeros((0, layout.space), np.float32)]
        paths: list[str] = []
        failed: list[tuple[str, Failure]] = []
        encoded = self.tagger.encode_many(images, batch_size=batch_size, workers=workers)
        for batch in batches(encoded, batch_size):
            failed += [(one.path or "", one.error) for one in batch if one.error is not None]
            good = [one for one in batch if one.error is None]
            if good:
                seen, vectors = self._scorer.encode_images(good)
                paths += [one.path or "" for one in good]
                tokens.append(self._scorer.keep(seen, vectors, layout))
                pooled.append(vectors)
        return Gallery(
            self.tagger.card.name,
            tuple(paths),
            np.concatenate(tokens or [np.zeros((0, 1, layout.width), np.float16)]),
            np.concatenate(pooled),
            tuple(failed),
            weights,
            layout.kind,
        )

    def open_gallery(self, path: str | Path) -> GalleryWriter:
        """A gallery's folder to `add` photos to, for a with statement; made if it is not there.

        Raises (at the with):
            OutputError: it cannot be written, another process writes it, or something else is there.
            ModelError: another model made it.
        """
        return GalleryWriter(path, model=self.tagger.card.name, layouts=self._scorer.layouts)

    def add(
        self,
        gallery: GalleryWriter,
        photos: Iterable[str | Path],
        *,
        batch_size: int = 8,
        workers: int | None = None,
    ) -> Iterator[Encoded]:
        """Photos into a gallery on disk, a batch at a time; yields each when it is kept, or cannot be read.

            with retriever.open_gallery("holiday.gallery") as gallery:
                for photo in retriever.add(gallery, gallery.new(paths)):
                    print(photo.path, photo.error)

        Raises:
            OutputError: the gallery cannot be written; the batches before are kept.
        """
        encoded = self.tagger.encode_many(photos, batch_size=batch_size, workers=workers)
        for batch in batches(encoded, batch_size):
            good = [one for one in batch if one.error is None]
            if good:
                tokens, vectors = self._scorer.encode_images(good)
                seen = self._scorer.keep(tokens, vectors, gallery.layout)
                gallery.add([one.path or "" for one in good], seen, vectors)
            for one in batch:
                if one.error is not None:
                    gallery.remove(one.path or "")
            yield from batch

    def ranking(
        self, texts: Sequence[str], *, top_k: int | None = 10, shortlist: int | None = None
    ) -> Ranking:
        """A ranking of photos that need not be kept; arguments and errors as for `rank`."""
        count = self._shortlist(top_k, shortlist)
        return Ranking(self, texts, self._scorer, self._read(texts), top_k=top_k, shortlist=count)

    def score(self, gallery: Gallery, texts: Sequence[str], *, shortlist: int | None = None) -> Floats:
        """How well every text fits every photo: float32 N×M, probabilities of pairs that were scored.

        Fused scores and the tag decoder's are of all. The matching head scores each text's `shortlist`
        likeliest photos and each photo's likeliest texts; the other pairs score from -1 to 0, as the contrast
        ranks them.

        Raises:
            VocabularyError: a text is empty or has no word that is known.
            ModelError: the gallery is of another model.
        """
        self._check(gallery)
        count = self._shortlist(None, shortlist)
        texts_encoded = self._read(texts)
        pairs = np.ones((len(gallery), len(texts)), np.bool_)
        if self._scorer.rerank_only:
            similarity = self._similarities(gallery, texts_encoded)
            pairs = _best(similarity, count) | _best(similarity.T, count).T
        scores = self.probabilities(self._logits(gallery, texts_encoded, pairs))
        if self._scorer.rerank_only:
            scores = np.where(pairs, scores, (np.clip(similarity, -1, 1) - 1) / 2)
        return scores

    def rank(
        self, gallery: Gallery, text: str, *, top_k: int | None = 10, shortlist: int | None = None
    ) -> tuple[Match, ...]:
        """The photos that fit a text best, by falling score.

        Args:
            top_k: at most so many; None for all.
            shortlist: photos that are re-ranked, `top_k` at least, chosen by their vectors, which costs next
                to nothing; by default 64 with the embedded model, 256 with alignment heads. With as many as
                there are photos the ranking is exact. RAM's and RAM++'s vectors tell nothing, so there every
                photo is scored.
        """
        self._check(gallery)
        count = max(self._shortlist(top_k, shortlist), top_k or len(gallery))
        query = self._read([text])
        similarity = self._similarities(gallery, query)  # N×1
        candidates = _best(similarity, count if self._scorer.has_embeddings else len(gallery))
        likely = np.flatnonzero(candidates)
        logits = self._logits(gallery, query, candidates)[likely, 0]
        best = np.lexsort((-similarity[likely, 0], -logits))[:top_k]
        paths = [gallery.paths[number] for number in likely[best].tolist()]
        return matches(text, paths, self.probabilities(logits[best]))

    def _shortlist(self, top_k: int | None, shortlist: int | None) -> int:
        """How many photos are re-ranked for a text; raises AnytagError for what is no count."""
        for name, count in (("top_k", top_k), ("shortlist", shortlist)):
            if count is not None and not (is_whole(count) and count >= 1):
                raise AnytagError(f"{name} is {count!r}: expected a whole number from 1 on, or None")
        return self._scorer.shortlist if shortlist is None else shortlist

    def _read(self, texts: Sequence[str]) -> Texts:
        if isinstance(texts, str):
            raise VocabularyError(f"got the single text {texts!r}, expected a list of texts: [{texts!r}]")
        for text in texts:
            _check_text(text)
        return self._scorer.encode_texts(texts)

    def _check(self, gallery: Gallery) -> None:
        made = gallery.model, gallery.weights, gallery.layout
        check_model(made, self.tagger.card.name, self._scorer.layouts)

    def _similarities(self, gallery: Gallery, texts: Texts) -> Floats:
        """How likely N photos fit M texts, by their vectors: N×M, read in pieces."""
        similarity = np.empty((len(gallery), len(texts.rows)), np.float32)
        for part, some in blocks(gallery.pooled, np.arange(len(gallery))):
            similarity[part] = self._scorer.similarities(some, texts)
        return similarity

    def _logits(self, gallery: Gallery, texts: Texts, mask: Bools) -> Floats:
        """Of the wanted among N×M pairs; the others are 0."""
        logits = np.zeros(mask.shape, np.float32)
        photos = np.flatnonzero(mask.any(1))
        for start in range(0, len(photos), self._scorer.batch):  # a gallery on disk is read in these pieces
            some = photos[start : start + self._scorer.batch]
            pairs = np.argwhere(mask[some])
            seen, pooled = gallery.tokens[some], gallery.pooled[some]
            scores = self._scorer.score_pairs(seen, pooled, texts, pairs, gallery.layout)
            logits[some[pairs[:, 0]], pairs[:, 1]] = scores
        return logits

    def probabilities(self, logits: Floats) -> Floats:
        """What logits say, in [0, 1]; any shape."""
        line = self._scorer.platt
        return sigmoid(line.scale * logits + line.bias).astype(np.float32)


class _Candidate(NamedTuple):
    """A photo that a text was held against: how near its vector is, and the logit of the pair."""

    similarity: float
    logit: float
    number: int
    path: str


class Ranking:
    """Photos ranked for texts as they come; of a photo that is not among the likely ones nothing is kept.

    A photo is scored when it comes, if its vector is among the nearest so far. So what is kept at the end
    are the scores that `Retriever.rank` takes, in memory that does not grow with the photos.
    """

    def __init__(
        self,
        retriever: Retriever,
        texts: Sequence[str],
        scorer: PairScorer,
        encoded_texts: Texts,
        *,
        top_k: int | None,
        shortlist: int,
    ) -> None:
        self._retriever, self._texts, self._scorer, self._encoded_texts = (
            retriever,
            texts,
            scorer,
            encoded_texts,
        )
        self._top_k = top_k
        # where vectors tell nothing, scores choose, and no more are kept than are shown
        count = None if top_k is None else max(shortlist, top_k) if scorer.has_embeddings else top_k
        self._count: int | None = count
        self._seen: list[list[_Candidate]] = [[] for _ in texts]
        self._floor = np.full(len(texts), -np.inf, np.float32)
        self._photos = 0

    def add(
        self, images: Iterable[ImageSource], *, batch_size: int = 8, workers: int | None = None
    ) -> Iterator[Encoded]:
        """Embeds and ranks photos; yields each when it is done, or `Encoded.error` says why it is not."""
        encoded = self._retriever.tagger.encode_many(images, batch_size=batch_size, workers=workers)
        for batch in batches(encoded, batch_size):
            good = [one for one in batch if one.error is None]
            if good:
                self._take(good)
            yield from batch

    def matches(self) -> list[tuple[Match, ...]]:
        """For each text the photos that fit it best, as `Retriever.rank` gives them."""
        found = []
        for number, text in enumerate(self._texts):
            self._prune(number)
            ranked = sorted(self._seen[number], key=lambda one: (-one.logit, -one.similarity, one.number))
            best = ranked[: self._top_k]
            scores = self._retriever.probabilities(np.array([one.logit for one in best], np.float32))
            found.append(matches(text, [one.path for one in best], scores))
        return found

    def _take(self, photos: Sequence[Encoded]) -> None:
        tokens, pooled = self._scorer.encode_images(photos)
        similarity = self._scorer.similarities(pooled, self._encoded_texts)  # n×M
        candidates = (
            similarity > self._floor if self._scorer.has_embeddings else np.ones(similarity.shape, np.bool_)
        )
        likely = np.flatnonzero(candidates.any(1))
        if len(likely):
            layout, vectors = next(iter(self._scorer.layouts)), pooled[likely]
            kept = self._scorer.keep(tokens[likely], vectors, layout)  # as a gallery does
            pairs = np.argwhere(candidates[likely])
            logits = self._scorer.score_pairs(kept, vectors, self._encoded_texts, pairs, layout)
            for (row, text), logit in zip(pairs.tolist(), logits.tolist(), strict=True):
                photo = int(likely[row])
                seen = _Candidate(
                    float(similarity[photo, text]), logit, self._photos + photo, photos[photo].path or ""
                )
                self._seen[text].append(seen)
        self._photos += len(photos)
        for number, seen_ in enumerate(self._seen):
            if self._count is not None and len(seen_) >= 2 * self._count:
                self._prune(number)

    def _prune(self, number: int) -> None:
        """Keeps the photos most similar to a text, or those with the best logits."""
        seen = self._seen[number]
        seen.sort(
            key=lambda one: (-(one.similarity if self._scorer.has_embeddings else one.logit), one.number)
        )
        if self._count is not None and len(seen) >= self._count:
            del seen[self._count :]
            self._floor[number] = seen[-1].similarity if self._scorer.has_embeddings else -math.inf


def matches(text: str, paths: Sequence[str], scores: Floats) -> tuple[Match, ...]:
    """What is shown of photos in their order: six digits of the score."""
    pairs = zip(paths, scores.tolist(), strict=True)
    return tuple(Match(path, text, float(f"{score:.6g}")) for path, score in pairs)


def _check_text(text: object) -> None:
    if not isinstance(text, str):
        raise VocabularyError(f"got {text!r} as a text, expected words such as 'a red car'")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise VocabularyError(
            f"the text {text!r} is not Unicode: expected words such as 'a red car'; on a terminal that "
            "is not set to UTF-8 set PYTHONUTF8=1"
        ) from error


def _best(similarity: Floats, count: int) -> Bools:
    """Which `count` of N are the largest, in each of M columns: N×M."""
    best = np.zeros(similarity.shape, np.bool_)
    np.put_along_axis(best, np.argsort(-similarity, axis=0, kind="stable")[:count], True, axis=0)
    return best
