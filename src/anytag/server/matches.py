"""Rank photos for texts: `Retriever.ranking` with photos encoded by the batcher."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from threading import Event
from typing import cast

from anytag.images import ImageSource
from anytag.models.folder import ModelFolder
from anytag.reranking import open_pair_scorer
from anytag.results import Failure, Match
from anytag.retriever import Retriever
from anytag.server.batcher import Batcher
from anytag.tagger import Encoded, Tagger


class Matching:
    """Ranks the photos of requests with the same batches, and so the same scores, as `anytag match`.

    Args:
        folder, tagger: of the model.
        batcher: encodes photos together with those of other requests.
        batch_size: number of photos scored together.

    Raises:
        ModelError: the model has neither alignment heads nor a text encoder.
        MissingExtraError: the alignment heads need torch, which is not installed.
    """

    def __init__(self, folder: ModelFolder, tagger: Tagger, batcher: Batcher, *, batch_size: int) -> None:
        self._retriever = Retriever(_BatchedTagger(folder, tagger, batcher), open_pair_scorer(folder, tagger))
        self._batch_size = batch_size

    def unknown_words(self, texts: Sequence[str]) -> list[tuple[str, ...]]:
        """The words of each text that the model does not know.

        Raises:
            VocabularyError: a text is empty or has no known word.
        """
        return [self._retriever.unknown_words(text) for text in texts]

    def rank(
        self, photos: Sequence[bytes | Failure], texts: Sequence[str], *, top_k: int | None, stop: Event
    ) -> tuple[list[Encoded], list[tuple[Match, ...]]]:
        """Encode the photos and rank those that could be read for each text, best first.

        Args:
            photos: contents of image files, or why they are missing.
            texts: M texts.
            top_k: maximum number of photos per text; None for all.
            stop: set when the result is no longer needed.

        Returns:
            The encoded photos, and M tuples of matches, whose `Match.path` is the photo's index.

        Raises:
            VocabularyError: a text is empty or has no known word.
        """
        ranking = self._retriever.ranking(texts, top_k=top_k, shortlist=len(photos))
        seen = []
        images = cast("Sequence[bytes]", photos)  # `_BatchedTagger` takes failures, too
        for encoded in ranking.add(images, batch_size=self._batch_size):
            seen.append(encoded)
            if stop.is_set():
                break
        return seen, ranking.matches()


class _BatchedTagger(Tagger):
    """A tagger that encodes through the batcher; the path of each photo is its index."""

    def __init__(self, folder: ModelFolder, tagger: Tagger, batcher: Batcher) -> None:
        super().__init__(folder, tagger.runtime, max_pixels=tagger.max_pixels)
        self._batcher = batcher

    def encode_many(
        self,
        images: Iterable[ImageSource],
        *,
        batch_size: int = 8,
        workers: int | None = None,
        thumbnail: int | None = None,
    ) -> Generator[Encoded, None, None]:
        waiting: deque[Future[Encoded]] = deque()
        try:
            for number, image in enumerate(images):
                assert isinstance(image, bytes | Failure)
                waiting.append(self._batcher.submit(image, partial(_with_path, str(number))))
                if len(waiting) > 2 * batch_size:  # bounds the memory
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _with_path(name: str, encoded: Encoded) -> Encoded:
    return replace(encoded, path=name)
