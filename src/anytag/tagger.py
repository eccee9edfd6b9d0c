"""Photos in, tags out: what users call.

A photo becomes image tokens. A tag becomes queries. The decoder lets every query look at the tokens and
answers with a logit, which the card's calibration turns into a probability. So the list of tags is data, and
any text can be asked.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from anytag.asked import Ask, Question, Questions
from anytag.errors import AnytagError
from anytag.images import MAX_PIXELS, ImageSource, is_source, load, path_of, prepare
from anytag.models.card import Card
from anytag.models.folder import ModelFolder
from anytag.models.hub import resolve
from anytag.models.onnx import Device, usable_cores
from anytag.models.runtime import Precision, Runtime, open_runtime
from anytag.results import Failure, Tags, TagScore
from anytag.vocabulary import Vocabulary
from anytag.where import locate

In = TypeVar("In")
Out = TypeVar("Out")


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
    """

    tokens: npt.NDArray[np.float32]
    pooled: npt.NDArray[np.float32]
    path: str | None
    width: int
    height: int
    error: Failure | None = None


@dataclass(frozen=True, slots=True)
class _Seen:
    """A photo that was read, or why it was not."""

    path: str | None
    width: int = 0
    height: int = 0
    pixels: npt.NDArray[np.uint8] | None = None
    error: AnytagError | None = None


class Tagger:
    """Tags photos with one model; make one with `Tagger.load`. May be used from several threads at once.

    Attributes:
        card: what the model's folder says about itself.
        vocabulary: the tags it was trained on, with their thresholds.
        runtime: what runs the model; `runtime.device` says where.
        max_pixels: a photo that is larger as it is decoded is refused.
    """

    def __init__(self, folder: ModelFolder, runtime: Runtime, *, max_pixels: int = MAX_PIXELS) -> None:
        self.runtime = runtime
        self.max_pixels = max_pixels
        self.card: Card = folder.card
        self._questions = Questions(folder)
        self.vocabulary: Vocabulary = self._questions.vocabulary

    @classmethod
    def load(
        cls,
        model: str | Path | None = None,
        *,
        device: Device = "auto",
        threads: int | None = None,
        precision: Precision | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> Tagger:
        """A tagger with a model and a device that are there.

        Args:
            model: name or folder; None is the model that comes with the package.
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
        return cls(folder, runtime, max_pixels=max_pixels)

    def tag(
        self,
        image: ImageSource,
        tags: Iterable[Ask] | None = None,
        *,
        also: Iterable[Ask] | None = None,
        top_k: int | None = None,
        threshold: float | None = None,
        where: bool = False,
    ) -> Tags:
        """The tags of one photo, by falling score.

        Args:
            image: path, encoded bytes, open file, PIL image or uint8 array H×W×3 (RGB).
            tags: ask exactly these, each "name" or "name: description; description", and get each with its
                score. A name or synonym that the vocabulary knows is asked with its trained query, described
                or not (source "vocabulary"); any other is made from its words (source "own").
            also: ask the vocabulary and these.
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
        return Encoded(tokens[0], pooled[0], seen.path, seen.width, seen.height)

    def score(
        self,
        encoded: Encoded,
        tags: Iterable[Ask] | None = None,
        *,
        also: Iterable[Ask] | None = None,
        top_k: int | None = None,
        threshold: float | None = None,
        where: bool = False,
    ) -> Tags:
        """The tags of an encoded photo; arguments and errors as for `tag`."""
        question = self._questions.prepare(tags, also=also, top_k=top_k, threshold=threshold)
        (answer,) = question.answer(self.runtime, encoded.tokens[None], encoded.pooled[None])
        if where:
            answer = self._locate(question, answer, encoded)
        return Tags(encoded.path, encoded.width, encoded.height, self.card.name, answer)

    def tag_many(
        self,
        images: Iterable[ImageSource],
        tags: Iterable[Ask] | None = None,
        *,
        also: Iterable[Ask] | None = None,
        top_k: int | None = None,
        threshold: float | None = None,
        where: bool = False,
        batch_size: int = 8,
        workers: int | None = None,
        on_error: Literal["record", "raise"] = "record",
    ) -> Generator[Tags, None, None]:
        """The tags of many photos, one by one in the order of the input; holds a few batches at a time.

        Args:
            images: any iterable, read as the work goes on; each as for `tag`.
            tags, also, top_k, threshold, where: as for `tag`.
            batch_size: photos that go through the network together.
            workers: threads, each of which reads, encodes and scores batches; by default one a usable core.
            on_error: "record" puts the reason into a photo's `Tags.error` and goes on; "raise" raises it.

        Raises:
            ImageError, MissingExtraError: a photo cannot be read, and `on_error` is "raise".
            VocabularyError: `tags` or `also` is wrong; raised at once, before the first photo.
        """
        if on_error not in ("record", "raise"):
            raise AnytagError(f"on_error is {on_error!r}: expected 'record' or 'raise'")
        question = self._questions.prepare(tags, also=also, top_k=top_k, threshold=threshold)

        def work(batch: Sequence[ImageSource]) -> list[tuple[Tags, AnytagError | None]]:
            return self._tag_batch(batch, question, where=where)

        batches = in_batches(work, images, batch_size=batch_size, workers=workers)
        return _flatten(batches, raises=on_error == "raise")

    def encode_many(
        self, images: Iterable[ImageSource], *, batch_size: int = 8, workers: int | None = None
    ) -> Generator[Encoded, None, None]:
        """What the model sees in many photos, one by one in the order of the input.

        A photo that cannot be read has `Encoded.error`; the rest goes on. Arguments as for `tag_many`.
        """
        for batch in in_batches(self._encode_batch, images, batch_size=batch_size, workers=workers):
            yield from batch

    def queries(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Texts as the decoder is asked with them, made from their words alone: float32 M×1×D.

        Raises:
            VocabularyError: a text is empty or has no word that is known.
        """
        return self._questions.words(texts)

    def _encode_batch(self, images: Sequence[ImageSource]) -> list[Encoded]:
        seen = [self._look(image) for image in images]
        pixels = [one.pixels for one in seen if one.pixels is not None]
        arrays = iter(zip(*self.runtime.encode(np.stack(pixels)), strict=True) if pixels else ())
        none = np.zeros((0, self.card.width), np.float32), np.zeros(0, np.float32)

        def encoded(one: _Seen) -> Encoded:
            tokens, pooled = none if one.error else next(arrays)
            return Encoded(tokens, pooled, one.path, one.width, one.height, _failure(one.error))

        return [encoded(one) for one in seen]

    def _tag_batch(
        self, images: Sequence[ImageSource], question: Question, *, where: bool
    ) -> list[tuple[Tags, AnytagError | None]]:
        """One worker's share: photos in, tags out, with the error of each that could not be read."""
        seen = [self._look(image) for image in images]
        pixels = [one.pixels for one in seen if one.pixels is not None]
        answers: Iterator[tuple[TagScore, ...]] = iter(())
        if pixels:
            tokens, pooled = self.runtime.encode(np.stack(pixels))
            answers = iter(question.answer(self.runtime, tokens, pooled))
            if where:
                good = [one for one in seen if one.error is None]
                encoded = (
                    Encoded(*arrays, one.path, one.width, one.height)
                    for arrays, one in zip(zip(tokens, pooled, strict=True), good, strict=True)
                )
                answers = map(partial(self._locate, question), list(answers), encoded)
        return [(self._result(one, () if one.error else next(answers)), one.error) for one in seen]

    def _locate(
        self, question: Question, answer: tuple[TagScore, ...], encoded: Encoded
    ) -> tuple[TagScore, ...]:
        """The same tags, and where each is."""
        if not answer:
            return answer
        queries = question.queries_of(answer)
        where = self.runtime.where(encoded.tokens[None], encoded.pooled[None], queries[None])[0]
        return locate(answer, where, width=encoded.width, height=encoded.height)

    def trained(self, ids: Sequence[str]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
        """What tags of the vocabulary are asked with, for those who ask `runtime` themselves.

        Returns:
            queries float32 K×P×D, and float64 2×K: slope and bias that make a tag's logits log-odds.

        Raises:
            VocabularyError: an id is not in the vocabulary.
        """
        return self._questions.trained(ids)

    def _look(self, image: ImageSource) -> _Seen:
        """Reads one photo and squashes it to the model's square, uint8 3×S×S."""
        path = path_of(image)
        spec = self.card.image
        try:
            photo = load(image, near=spec.size, max_pixels=self.max_pixels, plain=spec.plain)
            pixels = prepare(photo, size=spec.size, resample=spec.resample, plain=spec.plain)
            return _Seen(path, photo.width, photo.height, pixels)
        except AnytagError as error:
            return _Seen(path, error=error)

    def _result(self, seen: _Seen, answer: tuple[TagScore, ...]) -> Tags:
        return Tags(seen.path, seen.width, seen.height, self.card.name, answer, _failure(seen.error))


def _failure(error: AnytagError | None) -> Failure | None:
    return Failure(type(error).__name__, str(error)) if error else None


def in_batches(
    work: Callable[[list[In]], Out], images: Iterable[In], *, batch_size: int, workers: int | None
) -> Iterator[Out]:
    """`work` on batches of images by threads, in order, reading the images as the work goes on.

    Raises:
        AnytagError: a number is below 1, or `images` is a single image.
    """
    if is_source(images):
        what = repr(images) if isinstance(images, str | bytes | Path) else f"a {type(images).__name__}"
        raise AnytagError(f"got one image, {what:.200}, for many: give a list, or use tag() or encode()")
    if not isinstance(images, Iterable):
        raise AnytagError(f"images is a {type(images).__name__}: give a list of photos, or what yields them")
    workers = usable_cores() if workers is None else workers
    if batch_size < 1 or workers < 1:
        raise AnytagError(f"batch_size is {batch_size}, workers is {workers}: expected 1 or more of each")
    if isinstance(images, Sized):  # batches of one size, and as many for every worker: none waits at the end
        workers = max(1, min(workers, len(images)))
        rounds = max(1, -(-len(images) // (workers * batch_size)))
        batch_size = max(1, -(-len(images) // (workers * rounds)))
    return _in_order(work, batches(images, batch_size), workers)


def batches(items: Iterable[In], size: int) -> Iterator[list[In]]:
    """Lists of `size` items, the last one shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _in_order(work: Callable[[In], Out], items: Iterable[In], workers: int) -> Iterator[Out]:
    """`map` over threads, in order, at most two items a worker ahead of whoever takes the results."""
    if workers == 1:
        yield from map(work, items)
        return
    from concurrent.futures import Future, ThreadPoolExecutor  # 20 ms that a single photo need not wait for

    pool = ThreadPoolExecutor(workers, thread_name_prefix="anytag")
    waiting: deque[Future[Out]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            while waiting and (len(waiting) > 2 * workers or waiting[0].done()):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # also when the user stops: what has not begun is dropped
        pool.shutdown(cancel_futures=True)


def _flatten(
    batches: Iterable[list[tuple[Tags, AnytagError | None]]], *, raises: bool
) -> Generator[Tags, None, None]:
    for batch in batches:
        for tags, error in batch:
            if raises and error is not None:
                raise error
            yield tags
