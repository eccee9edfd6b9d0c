"""The tagger: photos in, tags out.

The image encoder turns a photo into tokens; tags are queries. The decoder attends from each query to the
tokens and returns a logit, which the card's calibration turns into a probability. So the list of tags is
data, and any text can be a tag.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from anytag._typing import Doubles, Floats
from anytag.batching import in_batches
from anytag.errors import AnytagError, VocabularyError, brief
from anytag.images import MAX_PIXELS, ImageSource, check_many
from anytag.images.squares import Square, square_of
from anytag.localization import locate
from anytag.models.card import Card
from anytag.models.folder import ModelFolder
from anytag.models.registry import resolve
from anytag.queries.build import Questions
from anytag.queries.requests import TagLike, parse_requests
from anytag.queries.score import Answer, Question
from anytag.results import Failure, TagResult
from anytag.runtime.base import Device, Precision, Runtime
from anytag.runtime.open import open_runtime
from anytag.vocabulary import Vocabulary

Requests = Iterable[TagLike] | Mapping[str, str | Iterable[str]]
"""Tags as users request them: a list, or a mapping of names to descriptions."""


@dataclass(frozen=True, eq=False)
class Encoded:
    """An encoded photo, which can be scored any number of times with `Tagger.score`.

    Attributes:
        tokens: float32 T×D.
        pooled: float32 D.
        path: the photo's path as given, None for bytes, an open file, a PIL image or an array.
        width: of the upright original in pixels.
        height: the same.
        error: from `Tagger.encode_many`, why the photo could not be read; the arrays are empty then.
        hash: 32 bytes, `images.likeness.difference_hash` of the model's square; empty from `log_odds_many`.
        thumbnail: a JPEG, if `encode_many` was called with `thumbnail`.
    """

    tokens: Floats
    pooled: Floats
    path: str | None
    width: int
    height: int
    error: Failure | None = None
    hash: bytes = b""
    thumbnail: bytes = b""


class Tagger:
    """Tags photos with one model; create one with `Tagger.load`. Thread-safe.

    Attributes:
        card: the model card.
        runtime: runs the model; `runtime.device` is its device.
        max_pixels: photos that decode to more pixels are refused.
        questions: prepares queries from requests, for callers who use `runtime` themselves.
    """

    def __init__(
        self,
        folder: ModelFolder,
        runtime: Runtime,
        *,
        vocabulary: Vocabulary | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.runtime = runtime
        self.max_pixels = max_pixels
        self.card: Card = folder.card
        self._folder = folder
        self.questions = Questions(folder, vocabulary)

    @property
    def vocabulary(self) -> Vocabulary:
        """The tags used by default, with their names and thresholds."""
        return self.questions.vocabulary

    def with_vocabulary(self, vocabulary: Vocabulary | str | os.PathLike[str] | None) -> Tagger:
        """Return a tagger with the same model and another vocabulary; None is the model's own.

        Args:
            vocabulary: a vocabulary or its file. It defines tags, names and thresholds; the hierarchy is the
                model's. A tag that has neither the id nor the name of a trained tag of its kind becomes a
                custom tag made from its name and synonyms (source "custom").

        Raises:
            VocabularyError: the file is not a vocabulary, or the argument is not one or has no tags.
        """
        if isinstance(vocabulary, str | os.PathLike):
            vocabulary = Vocabulary.read(vocabulary)
        value: object = vocabulary
        if value is not None and not (isinstance(value, Vocabulary) and len(value)):
            raise VocabularyError(f"got {brief(vocabulary)}: expected a Vocabulary with tags, or its file")
        return Tagger(self._folder, self.runtime, vocabulary=vocabulary, max_pixels=self.max_pixels)

    @classmethod
    def load(
        cls,
        model: str | Path | None = None,
        *,
        device: Device = "auto",
        threads: int | None = None,
        precision: Precision | None = None,
        vocabulary: Vocabulary | str | os.PathLike[str] | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> Tagger:
        """Load an installed model on an available device.

        Args:
            model: name or folder; None is the model embedded in the package.
            vocabulary: as for `with_vocabulary`; by default the tags that the model was trained with.
            device: "auto" uses a GPU if one is available; "cuda" raises an error if none is.
            threads: per run of the network. The default, 1, is best for many photos, which `tag_many`
                distributes over workers; in torch the default is torch's.
            precision: "float32", "bfloat16" or, on a CPU, "int8" runs the weights of a converted checkpoint
                in torch; by default torch runs models without ONNX graphs, and on "cuda" in bfloat16. In all
                of them tags near their thresholds are decoded in float32.
            max_pixels: photos that decode to more pixels (large JPEGs are decoded at 1/2, 1/4 or 1/8 of their
                sides) are refused; protects against decompression bombs.

        Raises:
            UnknownModelError, ModelError, VocabularyError: the model does not exist or is invalid.
            DeviceError: the device is not available.
            MissingExtraError: torch is needed and not installed.
        """
        folder = ModelFolder.open(resolve(model))
        runtime = open_runtime(folder, device=device, threads=threads, precision=precision)
        tagger = cls(folder, runtime, max_pixels=max_pixels)
        return tagger if vocabulary is None else tagger.with_vocabulary(vocabulary)

    def tag(
        self,
        image: ImageSource,
        tags: Requests | None = None,
        *,
        also: Requests | None = None,
        top_k: int | None = None,
        threshold: float | None = None,
        where: bool = False,
    ) -> TagResult:
        """Tag one photo; the tags are in descending order of score.

        Args:
            image: path, encoded bytes, open file, PIL image or uint8 array H×W×3 (RGB).
            tags: score exactly these tags and return all of them. Each is "name", "name: description;
                description", a `CustomTag`, or a `Tag` of the vocabulary; or pass descriptions by name,
                {"crane": ["a machine that lifts loads"]}. A bare name in the vocabulary, including synonyms
                and other languages, uses its trained query (source "vocabulary"); any other name, and every
                tag with descriptions, uses a query made from its words (source "custom").
            also: score these in addition to the vocabulary. A tag with descriptions replaces the vocabulary's
                tag of the same name. Those that score below the threshold are in `TagResult.below`.
            top_k: maximum number of tags.
            threshold: minimum score; 0 returns every tag. By default each tag of the vocabulary has its own,
                and tags of `also` have 0.5.
            where: also localise the tags: sets `box` and `heat`.

        Raises:
            ImageError, MissingExtraError: the photo cannot be read.
            VocabularyError: `tags` or `also` is invalid.
        """
        return self.score(self.encode(image), tags, also=also, top_k=top_k, threshold=threshold, where=where)

    def encode(self, image: ImageSource) -> Encoded:
        """Encode one photo, which is most of the work of `tag`, to score it several times.

        Raises:
            ImageError, MissingExtraError: the photo cannot be read.
        """
        square = self._preprocess(image)
        if square.pixels is None:
            raise square.error or AnytagError(f"{square.path} was not read")
        tokens, pooled = self.runtime.encode(square.pixels[None])
        return Encoded(tokens[0], pooled[0], square.path, square.width, square.height, hash=square.hash)

    def score(
        self,
        encoded: Encoded,
        tags: Requests | None = None,
        *,
        also: Requests | None = None,
        top_k: int | None = None,
        threshold: float | None = None,
        where: bool = False,
    ) -> TagResult:
        """Tag an encoded photo; arguments as for `tag`. One that could not be read has its error."""
        question = self.questions.prepare(tags, also=also, top_k=top_k, threshold=threshold)
        if encoded.error is not None:
            return self._result(encoded, Answer((), ()))
        (answer,) = question.answer(self.runtime, encoded.tokens[None], encoded.pooled[None])
        if where:
            answer = self._locate(question, answer, encoded)
        return self._result(encoded, answer)

    def tag_many(
        self,
        images: Iterable[ImageSource],
        tags: Requests | None = None,
        *,
        also: Requests | None = None,
        top_k: int | None = None,
        threshold: float | None = None,
        where: bool = False,
        batch_size: int = 8,
        workers: int | None = None,
        on_error: Literal["record", "raise"] = "record",
    ) -> Generator[TagResult, None, None]:
        """Tag many photos, in the order of the input; only a few batches are in memory at a time.

        Args:
            images: any iterable, read lazily; each item as for `tag`. An iterable without a length is read by
                a separate thread, and each photo is tagged as it arrives.
            tags, also, top_k, threshold, where: as for `tag`.
            batch_size: photos that go through the network together.
            workers: threads, each of which reads, encodes and scores batches; by default one per usable core.
            on_error: "record" stores the reason in `TagResult.error` and continues; "raise" raises it.

        Raises:
            ImageError, MissingExtraError: a photo cannot be read, and `on_error` is "raise".
            VocabularyError: `tags` or `also` is invalid; raised at once, before the first photo.
        """
        check_many(images)
        if on_error not in ("record", "raise"):
            raise AnytagError(f"on_error is {on_error!r}: expected 'record' or 'raise'")
        question = self.questions.prepare(tags, also=also, top_k=top_k, threshold=threshold)

        def work(batch: Sequence[ImageSource]) -> list[tuple[TagResult, AnytagError | None]]:
            encoded, errors = self._encode_batch(batch)
            return list(zip(self._score_batch(encoded, question, where=where), errors, strict=True))

        batches = in_batches(work, images, batch_size=batch_size, workers=workers)
        return _flatten(batches, raises=on_error == "raise")

    def score_many(
        self,
        encoded: Iterable[Encoded],
        tags: Requests | None = None,
        *,
        also: Requests | None = None,
        top_k: int | None = None,
        threshold: float | None = None,
    ) -> list[TagResult]:
        """Tag photos encoded by `encode_many`, as `tag_many` does; arguments as for `tag`."""
        question = self.questions.prepare(tags, also=also, top_k=top_k, threshold=threshold)
        return self._score_batch(list(encoded), question)

    def encode_many(
        self,
        images: Iterable[ImageSource],
        *,
        batch_size: int = 8,
        workers: int | None = None,
        thumbnail: int | None = None,
    ) -> Generator[Encoded, None, None]:
        """Encode many photos, in the order of the input.

        A photo that cannot be read has `Encoded.error`; the others are processed.

        Args:
            images, batch_size, workers: as for `tag_many`.
            thumbnail: also create `Encoded.thumbnail`, of at most this many pixels a side, from the pixels
                decoded for the model; see `images.thumbnail`.
        """
        check_many(images)
        work = partial(self._encode_batch, hashed=True, side=thumbnail)
        for encoded, _ in in_batches(work, images, batch_size=batch_size, workers=workers):
            yield from encoded

    def log_odds(self, encoded: Iterable[Encoded]) -> Doubles:
        """Log-odds of every trained tag, from the decoder, for N encoded photos: N×K.

        Without first pass, thresholds and hierarchy: the values that calibration is fitted to.
        """
        encoded, count = list(encoded), len(self.questions.learned)
        if not encoded:
            return np.zeros((0, count))
        question = self.questions.prepare(None, also=None, top_k=None, threshold=0.0)
        _, logits = question.logits(self.runtime, *_stacked(encoded))
        return np.asarray(question.slope * logits + question.bias)[:, :count]

    def log_odds_many(
        self, images: Iterable[ImageSource], *, batch_size: int = 8, workers: int | None = None
    ) -> Generator[tuple[Encoded, Doubles], None, None]:
        """Encode many photos and return each with its log-odds; arguments as for `tag_many`.

        A photo that cannot be read has `Encoded.error` and empty arrays; the others are processed.
        """
        check_many(images)

        def work(batch: Sequence[ImageSource]) -> list[tuple[Encoded, Doubles]]:
            encoded, _ = self._encode_batch(batch)
            odds = iter(list(self.log_odds([one for one in encoded if one.error is None])))
            return [(one, np.zeros(0) if one.error else next(odds)) for one in encoded]

        for batch in in_batches(work, images, batch_size=batch_size, workers=workers):
            yield from batch

    def queries(self, texts: Sequence[str]) -> Floats:
        """Queries of texts, made from their words alone: float32 M×1×D.

        Raises:
            VocabularyError: a text is empty or has no known word.
        """
        return self.questions.words(texts)

    def unknown_words(self, tags: Requests) -> tuple[str, ...]:
        """Words of tags (as for `tag`) that the model's text encoder does not know; such scores mean little.

        Raises:
            VocabularyError: `tags` is invalid.
            ModelError: the model cannot make queries from words.
        """
        return self.questions.unknown_words(parse_requests(tags, "tags") or ())

    def unknown_in(self, text: str) -> tuple[str, ...]:
        """The same for a sentence, whose words may be names of the vocabulary in another language."""
        return self.questions.unknown_in(self.questions.readable(text))

    def _encode_batch(
        self, images: Sequence[ImageSource], *, hashed: bool = False, side: int | None = None
    ) -> tuple[list[Encoded], list[AnytagError | None]]:
        """Encode one batch; also return the error of each photo that could not be read."""
        squares = [self._preprocess(image, side) for image in images]
        pixels = [one.pixels for one in squares if one.pixels is not None]
        arrays = iter(zip(*self.runtime.encode(np.stack(pixels)), strict=True) if pixels else ())
        none = np.zeros((0, self.card.width), np.float32), np.zeros(0, np.float32)

        def encoded(one: Square) -> Encoded:
            tokens, pooled = none if one.error else next(arrays)
            failure = Failure(type(one.error).__name__, str(one.error)) if one.error else None
            hash_ = one.hash if hashed else b""
            return Encoded(tokens, pooled, one.path, one.width, one.height, failure, hash_, one.thumbnail)

        return [encoded(one) for one in squares], [one.error for one in squares]

    def _score_batch(
        self, encoded: Sequence[Encoded], question: Question, *, where: bool = False
    ) -> list[TagResult]:
        good = [one for one in encoded if one.error is None]
        answers: Iterator[Answer] = iter(question.answer(self.runtime, *_stacked(good)) if good else ())
        if where:
            answers = map(partial(self._locate, question), answers, good)
        return [self._result(one, Answer((), ()) if one.error else next(answers)) for one in encoded]

    def _locate(self, question: Question, answer: Answer, encoded: Encoded) -> Answer:
        """Add heat maps and boxes to the tags."""
        if not answer.tags:
            return answer
        queries = question.queries_of(answer.tags)
        evidence = self.runtime.locate(encoded.tokens[None], encoded.pooled[None], queries[None])[0]
        tags = locate(answer.tags, evidence, width=encoded.width, height=encoded.height)
        return answer._replace(tags=tags)

    def trained(self, ids: Sequence[str]) -> tuple[Floats, Doubles]:
        """Queries and calibration of tags of the vocabulary, for callers who use `runtime` themselves.

        Returns:
            queries float32 K×P×D, and float64 2×K: slope and bias that turn a tag's logits into log-odds.

        Raises:
            VocabularyError: an id is not in the vocabulary.
        """
        return self.questions.trained(ids)

    def _preprocess(self, image: ImageSource, side: int | None = None) -> Square:
        return square_of(image, self.card.image, max_pixels=self.max_pixels, side=side)

    def _result(self, one: Encoded, answer: Answer) -> TagResult:
        return TagResult(
            one.path, one.width, one.height, self.card.name, answer.tags, one.error, answer.below
        )


def _stacked(encoded: Sequence[Encoded]) -> tuple[Floats, Floats]:
    """Tokens N×T×D and pooled vectors N×D of readable photos."""
    return np.stack([one.tokens for one in encoded]), np.stack([one.pooled for one in encoded])


def _flatten(
    batches: Iterable[list[tuple[TagResult, AnytagError | None]]], *, raises: bool
) -> Generator[TagResult, None, None]:
    for batch in batches:
        for tags, error in batch:
            if raises and error is not None:
                raise error
            yield tags
