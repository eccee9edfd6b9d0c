"""Photos in, tags out: what users call.

A photo becomes image tokens. A tag becomes queries. The decoder lets every query look at the tokens and
answers with a logit, which the card's calibration turns into a probability. So the list of tags is data, and
any text can be asked.
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
"""Tags as users ask them: a list, or descriptions by name."""


@dataclass(frozen=True, eq=False)
class Encoded:
    """What the model saw in one photo: ask it as often as you like with `Tagger.score`.

    Attributes:
        tokens: float32 T×D.
        pooled: float32 D.
        path: as the photo was named, None when it came as bytes, open file, PIL image or array.
        width: pixels of the upright original.
        height: the same.
        error: from `Tagger.encode_many`, why the photo could not be read; the arrays are empty then.
        hash: 32 bytes, `images.likeness.difference_hash` of the model's square; none from `log_odds_many`.
        thumbnail: a JPEG, where `encode_many` was asked for one.
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
    """Tags photos with one model; make one with `Tagger.load`. May be used from several threads at once.

    Attributes:
        card: what the model's folder says about itself.
        runtime: what runs the model; `runtime.device` says where.
        max_pixels: a photo that is larger as it is decoded is refused.
        questions: what makes questions of requests, for those who ask `runtime` themselves.
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
        """The tags that are asked where you name none, with their names and thresholds."""
        return self.questions.vocabulary

    def with_vocabulary(self, vocabulary: Vocabulary | str | os.PathLike[str] | None) -> Tagger:
        """A tagger that runs the same model and asks other tags; None is those the model learned.

        Args:
            vocabulary: or its file. Which tags are asked, their names and their thresholds are its own; what
                is broader is as the model learned it. A tag with an id that the model does not know is asked
                by its name and synonyms (source "custom").

        Raises:
            VocabularyError: the file is no vocabulary, no vocabulary was given, or one without tags.
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
        """A tagger with a model and a device that are there.

        Args:
            model: name or folder; None is the model that comes with the package.
            vocabulary: the tags to ask, as for `with_vocabulary`; by default those that the model learned.
            device: "auto" takes a GPU where one is active; "cuda" is an error where none is.
            threads: of one run of the network. The default, 1, is best for many photos, which `tag_many`
                spreads over workers; in torch the default is torch's.
            precision: "float32", "bfloat16" or, for a CPU, "int8" runs a converted checkpoint's weights in
                torch; by default torch runs what has no ONNX graphs, and on "cuda" in bfloat16. Whatever it
                is, tags near their thresholds are decoded in float32.
            max_pixels: a photo that is larger as it is decoded (large JPEGs are at 1/2, 1/4 or 1/8 of their
                sides) is refused: the limit against files made to fill the memory.

        Raises:
            UnknownModelError, ModelError, VocabularyError: no such model, or its folder is not what it says.
            DeviceError: the device is not active.
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
        """The tags of one photo, by falling score.

        Args:
            image: path, encoded bytes, open file, PIL image or uint8 array H×W×3 (RGB).
            tags: ask exactly these, and get each with its score. Each is "name", "name: description;
                description", a `CustomTag`, or a `Tag` of the vocabulary; or give descriptions by name,
                {"crane": ["a machine that lifts loads"]}. A bare name that the vocabulary knows, also as a
                synonym or in another language, is asked with its trained query (source "vocabulary"); any
                other and every described one is made from its words (source "custom").
            also: ask the vocabulary and these. A described one takes the place of the vocabulary's tag of the
                same name. Those that score below the threshold are in `Tags.below`.
            top_k: at most so many.
            threshold: leave out lower scores; 0 gives every tag. By default each tag of the vocabulary has
                its own, and tags of `also` 0.5.
            where: also tell where each tag is: its `box` and `heat`.

        Raises:
            ImageError, MissingExtraError: the photo cannot be read.
            VocabularyError: `tags` or `also` is wrong.
        """
        return self.score(self.encode(image), tags, also=also, top_k=top_k, threshold=threshold, where=where)

    def encode(self, image: ImageSource) -> Encoded:
        """What the model sees in one photo: most of the work of `tag`, done once for many questions.

        Raises:
            ImageError, MissingExtraError: the photo cannot be read.
        """
        seen = self._look(image)
        if seen.pixels is None:
            raise seen.error or AnytagError(f"{seen.path} was not read")
        tokens, pooled = self.runtime.encode(seen.pixels[None])
        return Encoded(tokens[0], pooled[0], seen.path, seen.width, seen.height, hash=seen.hash)

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
        """The tags of an encoded photo; arguments and errors as for `tag`."""
        question = self.questions.prepare(tags, also=also, top_k=top_k, threshold=threshold)
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
        """The tags of many photos, one by one in the order of the input; holds a few batches at a time.

        Args:
            images: any iterable, read as the work goes on; each as for `tag`. One without a length is read
                by a thread of its own, and each photo is tagged as it comes.
            tags, also, top_k, threshold, where: as for `tag`.
            batch_size: photos that go through the network together.
            workers: threads, each of which reads, encodes and scores batches; by default one a usable core.
            on_error: "record" puts the reason into `TagResult.error` and goes on; "raise" raises it.

        Raises:
            ImageError, MissingExtraError: a photo cannot be read, and `on_error` is "raise".
            VocabularyError: `tags` or `also` is wrong; raised at once, before the first photo.
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
        encoded: Sequence[Encoded],
        tags: Requests | None = None,
        *,
        also: Requests | None = None,
        top_k: int | None = None,
        threshold: float | None = None,
    ) -> list[TagResult]:
        """The tags of what `encode_many` gave, as `tag_many` gives them; arguments as for `tag`."""
        question = self.questions.prepare(tags, also=also, top_k=top_k, threshold=threshold)
        return self._score_batch(encoded, question)

    def encode_many(
        self,
        images: Iterable[ImageSource],
        *,
        batch_size: int = 8,
        workers: int | None = None,
        thumbnail: int | None = None,
    ) -> Generator[Encoded, None, None]:
        """What the model sees in many photos, one by one in the order of the input.

        A photo that cannot be read has `Encoded.error`; the rest goes on.

        Args:
            images, batch_size, workers: as for `tag_many`.
            thumbnail: also `Encoded.thumbnail` with at most so many pixels a side, of the pixels that are
                decoded for the model; see `images.thumbnail`.
        """
        check_many(images)
        work = partial(self._encode_batch, hashed=True, side=thumbnail)
        for encoded, _ in in_batches(work, images, batch_size=batch_size, workers=workers):
            yield from encoded

    def log_odds(self, encoded: Sequence[Encoded]) -> Doubles:
        """What the decoder answers for every tag that the model learned, of N photos that were read: N×K.

        No first pass, no threshold, and nothing that narrower tags add: what probabilities are fitted to.
        """
        count = len(self.questions.learned)
        if not encoded:
            return np.zeros((0, count))
        question = self.questions.prepare(None, also=None, top_k=None, threshold=0.0)
        _, logits = question.logits(self.runtime, *_stacked(encoded))
        return np.asarray(question.slope * logits + question.bias)[:, :count]

    def log_odds_many(
        self, images: Iterable[ImageSource], *, batch_size: int = 8, workers: int | None = None
    ) -> Generator[tuple[Encoded, Doubles], None, None]:
        """The same of many photos, each beside what was seen; arguments as for `tag_many`.

        A photo that cannot be read has `Encoded.error` and empty arrays; the rest goes on.
        """
        check_many(images)

        def work(batch: Sequence[ImageSource]) -> list[tuple[Encoded, Doubles]]:
            seen, _ = self._encode_batch(batch)
            odds = iter(list(self.log_odds([one for one in seen if one.error is None])))
            return [(one, np.zeros(0) if one.error else next(odds)) for one in seen]

        for batch in in_batches(work, images, batch_size=batch_size, workers=workers):
            yield from batch

    def queries(self, texts: Sequence[str]) -> Floats:
        """Texts as the decoder is asked with them, made from their words alone: float32 M×1×D.

        Raises:
            VocabularyError: a text is empty or has no word that is known.
        """
        return self.questions.words(texts)

    def unknown_words(self, tags: Requests) -> tuple[str, ...]:
        """Words of tags (as for `tag`) that the model's text encoder does not know: their scores say little.

        Raises:
            VocabularyError: `tags` is wrong.
            ModelError: the model asks no tags by their words.
        """
        return self.questions.unknown_words(parse_requests(tags, "tags") or ())

    def unknown_in(self, text: str) -> tuple[str, ...]:
        """The same of a sentence, whose words may be names of the vocabulary in another language."""
        return self.questions.unknown_in(self.questions.readable(text))

    def _encode_batch(
        self, images: Sequence[ImageSource], *, hashed: bool = False, side: int | None = None
    ) -> tuple[list[Encoded], list[AnytagError | None]]:
        """One worker's share, and the error of each photo that could not be read."""
        seen = [self._look(image, side) for image in images]
        pixels = [one.pixels for one in seen if one.pixels is not None]
        arrays = iter(zip(*self.runtime.encode(np.stack(pixels)), strict=True) if pixels else ())
        none = np.zeros((0, self.card.width), np.float32), np.zeros(0, np.float32)

        def encoded(one: Square) -> Encoded:
            tokens, pooled = none if one.error else next(arrays)
            failure = Failure(type(one.error).__name__, str(one.error)) if one.error else None
            seen = one.hash if hashed else b""
            return Encoded(tokens, pooled, one.path, one.width, one.height, failure, seen, one.thumbnail)

        return [encoded(one) for one in seen], [one.error for one in seen]

    def _score_batch(
        self, encoded: Sequence[Encoded], question: Question, *, where: bool = False
    ) -> list[TagResult]:
        good = [one for one in encoded if one.error is None]
        answers: Iterator[Answer] = iter(question.answer(self.runtime, *_stacked(good)) if good else ())
        if where:
            answers = map(partial(self._locate, question), answers, good)
        return [self._result(one, Answer((), ()) if one.error else next(answers)) for one in encoded]

    def _locate(self, question: Question, answer: Answer, encoded: Encoded) -> Answer:
        """The same tags, and where each is."""
        if not answer.tags:
            return answer
        queries = question.queries_of(answer.tags)
        where = self.runtime.locate(encoded.tokens[None], encoded.pooled[None], queries[None])[0]
        return answer._replace(tags=locate(answer.tags, where, width=encoded.width, height=encoded.height))

    def trained(self, ids: Sequence[str]) -> tuple[Floats, Doubles]:
        """What tags of the vocabulary are asked with, for those who ask `runtime` themselves.

        Returns:
            queries float32 K×P×D, and float64 2×K: slope and bias that make a tag's logits log-odds.

        Raises:
            VocabularyError: an id is not in the vocabulary.
        """
        return self.questions.trained(ids)

    def _look(self, image: ImageSource, side: int | None = None) -> Square:
        return square_of(image, self.card.image, max_pixels=self.max_pixels, side=side)

    def _result(self, one: Encoded, answer: Answer) -> TagResult:
        return TagResult(
            one.path, one.width, one.height, self.card.name, answer.tags, one.error, answer.below
        )


def _stacked(encoded: Sequence[Encoded]) -> tuple[Floats, Floats]:
    """Tokens N×T×D and pooled N×D of photos that were read."""
    return np.stack([one.tokens for one in encoded]), np.stack([one.pooled for one in encoded])


def _flatten(
    batches: Iterable[list[tuple[TagResult, AnytagError | None]]], *, raises: bool
) -> Generator[TagResult, None, None]:
    for batch in batches:
        for tags, error in batch:
            if raises and error is not None:
                raise error
            yield tags
