"""Retrieval of photos for a sentence, and of sentences for a photo.

Photos are encoded once and can then be ranked for any number of sentences, in two passes: embeddings are
compared, which is cheap, and the shortlist is re-ranked by a pair scorer (`anytag.reranking`). Encoded photos
are stored in galleries (`anytag.gallery`). Photos of a library are searched by `anytag.library`.
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
    """Ranks photos for texts and texts for photos; create one with `Retriever.load`.

    Attributes:
        tagger: encodes photos.
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
        """Load an installed model; arguments and errors as for `Tagger.load`.

        Raises:
            ModelError: also if the model has neither alignment heads nor a text encoder.
        """
        folder = ModelFolder.open(resolve(model))
        tagger = Tagger(folder, open_runtime(folder, device=device), max_pixels=max_pixels)
        return cls(tagger, open_pair_scorer(folder, tagger))

    @property
    def calibrated(self) -> bool:
        """Whether a score is the probability that a text matches a photo."""
        return self._scorer.calibrated

    def unknown_words(self, text: str) -> tuple[str, ...]:
        """Words of a text that are unknown or known only by their spelling; they carry little information.

        Raises:
            VocabularyError: not a text, or none of its words is known.
        """
        self._read([text])
        return self._scorer.unknown_words(text)

    def embed(
        self, images: Iterable[ImageSource], *, batch_size: int = 8, workers: int | None = None
    ) -> Gallery:
        """Encode photos into a gallery in memory; unreadable photos are listed in `Gallery.failed`."""
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
                encoded_tokens, vectors = self._scorer.encode_images(good)
                paths += [one.path or "" for one in good]
                tokens.append(self._scorer.to_records(encoded_tokens, vectors, layout))
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
        """Open a gallery folder to `add` photos to, as a context manager; created if it does not exist.

        Raises (on entering the context):
            OutputError: it cannot be written, another process writes it, or it has other content.
            ModelError: it was made with another model.
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
        """Add photos to a gallery on disk, batch by batch; yield each when it is stored or has failed.

            with retriever.open_gallery("holiday.gallery") as gallery:
                for photo in retriever.add(gallery, gallery.new(paths)):
                    print(photo.path, photo.error)

        Raises:
            OutputError: the gallery cannot be written; earlier batches are kept.
        """
        encoded = self.tagger.encode_many(photos, batch_size=batch_size, workers=workers)
        for batch in batches(encoded, batch_size):
            good = [one for one in batch if one.error is None]
            if good:
                tokens, vectors = self._scorer.encode_images(good)
                records = self._scorer.to_records(tokens, vectors, gallery.layout)
                gallery.add([one.path or "" for one in good], records, vectors)
            for one in batch:
                if one.error is not None:
                    gallery.remove(one.path or "")
            yield from batch

    def ranking(
        self, texts: Sequence[str], *, top_k: int | None = 10, shortlist: int | None = None
    ) -> Ranking:
        """Rank photos without storing them; arguments and errors as for `rank`."""
        count, texts = self._shortlist(top_k, shortlist), _listed(texts)
        return Ranking(self, texts, self._scorer, self._read(texts), top_k=top_k, shortlist=count)

    def score(self, gallery: Gallery, texts: Sequence[str], *, shortlist: int | None = None) -> Floats:
        """How well every text matches every photo: float32 N×M, probabilities of the scored pairs.

        Fused scores and those of the tag decoder cover all pairs. The matching head scores each text's
        `shortlist` likeliest photos and each photo's likeliest texts; the other pairs get a score from -1 to
        0, in the order of the contrastive head.

        Raises:
            VocabularyError: a text is empty or has no known word.
            ModelError: the gallery was made with another model.
        """
        self._check(gallery)
        count = self._shortlist(None, shortlist)
        texts = _listed(texts)
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
        """Return the photos that match a text best, by descending score.

        Args:
            top_k: maximum number of photos; None for all.
            shortlist: number of photos that are re-ranked, `top_k` at least, chosen by their embeddings,
                which is cheap; by default 64 with the embedded model, 256 with alignment heads. The ranking
                is exact if it is the number of photos. The embeddings of RAM and RAM++ are not comparable
                with texts, so there every photo is scored.
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
        """How many photos are re-ranked per text; raises AnytagError for invalid numbers."""
        for name, count in (("top_k", top_k), ("shortlist", shortlist)):
            if count is not None and not (is_whole(count) and count >= 1):
                raise AnytagError(f"{name} is {count!r}: expected a whole number, 1 or more, or None")
        return self._scorer.shortlist if shortlist is None else shortlist

    def _read(self, texts: Sequence[str]) -> Texts:
        for text in texts:
            _check_text(text)
        return self._scorer.encode_texts(texts)

    def _check(self, gallery: Gallery) -> None:
        source = gallery.model, gallery.weights, gallery.layout
        check_model(source, self.tagger.card.name, self._scorer.layouts)

    def _similarities(self, gallery: Gallery, texts: Texts) -> Floats:
        """How likely N photos match M texts according to their embeddings: N×M, read in blocks."""
        similarity = np.empty((len(gallery), len(texts.rows)), np.float32)
        for part, some in blocks(gallery.pooled, np.arange(len(gallery))):
            similarity[part] = self._scorer.similarities(some, texts)
        return similarity

    def _logits(self, gallery: Gallery, texts: Texts, mask: Bools) -> Floats:
        """Logits of the masked pairs of N×M; the others are 0."""
        logits = np.zeros(mask.shape, np.float32)
        photos = np.flatnonzero(mask.any(1))
        for start in range(0, len(photos), self._scorer.batch):  # a gallery on disk is read in these batches
            some = photos[start : start + self._scorer.batch]
            pairs = np.argwhere(mask[some])
            records, pooled = gallery.tokens[some], gallery.pooled[some]
            scores = self._scorer.score_pairs(records, pooled, texts, pairs, gallery.layout)
            logits[some[pairs[:, 0]], pairs[:, 1]] = scores
        return logits

    def probabilities(self, logits: Floats) -> Floats:
        """Calibrated probabilities of logits of any shape."""
        line = self._scorer.platt
        return sigmoid(line.scale * logits + line.bias).astype(np.float32)


class _Candidate(NamedTuple):
    """A photo scored for a text: similarity of the embeddings, and logit of the pair."""

    similarity: float
    logit: float
    number: int
    path: str


def _listed(texts: Iterable[str]) -> list[str]:
    """Texts as a list.

    Raises:
        VocabularyError: it is a single text.
    """
    if isinstance(texts, str):
        raise VocabularyError(f"got the single text {texts!r}, expected a list of texts: [{texts!r}]")
    return list(texts)


class Ranking:
    """Ranks a stream of photos for texts, keeping only the shortlisted ones.

    A photo is scored as it arrives, if its embedding is among the most similar so far. In the end the scores
    are those of `Retriever.rank`, in memory that does not grow with the number of photos.
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
        # without embeddings the shortlist is by score, and needs no more entries than are returned
        count = None if top_k is None else max(shortlist, top_k) if scorer.has_embeddings else top_k
        self._count: int | None = count
        self._seen: list[list[_Candidate]] = [[] for _ in texts]
        self._floor = np.full(len(texts), -np.inf, np.float32)
        self._photos = 0

    def add(
        self, images: Iterable[ImageSource], *, batch_size: int = 8, workers: int | None = None
    ) -> Iterator[Encoded]:
        """Encode and rank photos; yields each when it is done, or has failed with `Encoded.error`."""
        encoded = self._retriever.tagger.encode_many(images, batch_size=batch_size, workers=workers)
        for batch in batches(encoded, batch_size):
            good = [one for one in batch if one.error is None]
            if good:
                self._take(good)
            yield from batch

    def matches(self) -> list[tuple[Match, ...]]:
        """Return for each text the best matching photos, as `Retriever.rank` does."""
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
            records = self._scorer.to_records(tokens[likely], vectors, layout)  # as for a gallery
            pairs = np.argwhere(candidates[likely])
            logits = self._scorer.score_pairs(records, vectors, self._encoded_texts, pairs, layout)
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
        """Keep the photos most similar to a text, or those with the highest logits."""
        seen = self._seen[number]
        seen.sort(
            key=lambda one: (-(one.similarity if self._scorer.has_embeddings else one.logit), one.number)
        )
        if self._count is not None and len(seen) >= self._count:
            del seen[self._count :]
            self._floor[number] = seen[-1].similarity if self._scorer.has_embeddings else -math.inf


def matches(text: str, paths: Sequence[str], scores: Floats) -> tuple[Match, ...]:
    """Make results of photos in their order; scores are rounded to six digits."""
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
    """Mask of the `count` largest of N values in each of M columns: N×M."""
    best = np.zeros(similarity.shape, np.bool_)
    np.put_along_axis(best, np.argsort(-similarity, axis=0, kind="stable")[:count], True, axis=0)
    return best
