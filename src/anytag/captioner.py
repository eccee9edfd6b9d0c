"""Photos in, sentences out, guided by tags: the user's own, or those that the model recognises."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from anytag.batching import in_batches
from anytag.errors import AnytagError, ImageError, ModelError, VocabularyError, brief
from anytag.generation import (
    Decoder,
    GenerationConfig,
    beam_search,
    check_whole,
    greedy,
    sample,
)
from anytag.images import MAX_PIXELS, ImageSource, check_many
from anytag.models.card import CaptionSpec
from anytag.models.folder import ModelFolder
from anytag.models.registry import resolve
from anytag.parsing import Parser
from anytag.plain import Support
from anytag.results import Caption, TagScore
from anytag.runtime.base import Captions, Device, Precision
from anytag.runtime.open import open_runtime
from anytag.tagger import Encoded, Tagger
from anytag.text_encoders.wordpiece import WordPieces
from anytag.vocabulary import Tag

MAX_BEAMS = 100
"""Beams of a search at most: each keeps its own keys and values, and more than a few gain nothing."""

_LONGEST = 1024  # wordpieces of a caption, more than any caption head has positions for
_ROWS = 64  # texts that are followed together: of BERT's keys and values each keeps 14 MB


@dataclass(frozen=True)
class CaptionRequest:
    """Options of a caption; the names are those of `Captioner.caption`."""

    tags: tuple[str, ...] | None = None
    exclude_tags: tuple[str, ...] = ()
    beams: int | None = None
    sample: bool = False
    seed: int = 0
    max_length: int | None = None
    min_length: int | None = None


class Captioner:
    """Writes captions with one model; make one with `Captioner.load`. May be used from several threads.

    Attributes:
        tagger: the same model as a tagger.
        spec: how captions are written, as the model's card says.
        pieces: the wordpieces that they are made of.
    """

    def __init__(self, tagger: Tagger, captions: Captions, pieces: WordPieces, spec: CaptionSpec) -> None:
        self.tagger, self.spec, self.pieces = tagger, spec, pieces
        self._captions = captions

    @classmethod
    def load(
        cls,
        model: str | Path | None = None,
        *,
        device: Device = "auto",
        threads: int | None = None,
        precision: Precision | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> Captioner:
        """A captioner with a model and a device that are there; arguments and errors as for `Tagger.load`.

        Raises:
            ModelError: besides, the model writes no captions.
        """
        folder = ModelFolder.open(resolve(model))
        spec = folder.card.captions
        if spec is None:
            raise ModelError(
                f"the model {folder.card.name} writes no captions: take tag2text, ram or the embedded one"
            )
        runtime = open_runtime(folder, device=device, threads=threads, precision=precision)
        pieces = WordPieces.from_file(folder.file(spec.wordpieces))
        tagger = Tagger(folder, runtime, max_pixels=max_pixels)
        return cls(tagger, runtime.captions(), pieces, spec)

    def caption(
        self,
        image: ImageSource,
        tags: Iterable[str] | None = None,
        *,
        exclude_tags: Iterable[str] = (),
        beams: int | None = None,
        sample: bool = False,
        seed: int = 0,
        max_length: int | None = None,
        min_length: int | None = None,
    ) -> Caption:
        """A sentence about one photo.

        Args:
            image: path, encoded bytes, open file, PIL image or uint8 array H×W×3 (RGB).
            tags: what the sentence shall speak of, any words; by default what is recognised, as far as the
                model's card says so; an empty list guides nothing.
            exclude_tags: what it must not speak of: these words in any form, their synonyms and what is
                narrower (cat leaves out kitten), and no such tag guides it.
            beams: of the search, 100 at most; 1 takes the likeliest wordpiece each time; by default what the
                card says.
            sample: draw wordpieces at random, from the likeliest nine tenths, instead of searching.
            seed: of the draws.
            max_length, min_length: in wordpieces, the card's prompt included.

        Raises:
            ImageError, MissingExtraError: the photo cannot be read.
            AnytagError, VocabularyError: another argument is wrong.
        """
        request = self._request(
            tags, exclude_tags, beams=beams, sample=sample, seed=seed,
            max_length=max_length, min_length=min_length,
        )  # fmt: skip
        return self._write([self.tagger.encode(image)], request)[0]

    def caption_many(
        self,
        images: Iterable[ImageSource],
        tags: Iterable[str] | None = None,
        *,
        exclude_tags: Iterable[str] = (),
        beams: int | None = None,
        sample: bool = False,
        seed: int = 0,
        max_length: int | None = None,
        min_length: int | None = None,
        batch_size: int = 8,
        workers: int | None = None,
        on_error: Literal["record", "raise"] = "record",
    ) -> Generator[Caption, None, None]:
        """Sentences about many photos, in the order of the input; each is what `caption` gives.

        Args:
            images: any iterable, read as the work goes on, as by `Tagger.tag_many`; each as for `caption`.
            batch_size: photos that go through the network together.
            workers: threads; by default one a usable core.
            on_error: "record" puts the reason into a photo's `Caption.error` and goes on; "raise" raises it.

        Raises:
            ImageError: a photo cannot be read, and `on_error` is "raise".
            AnytagError, VocabularyError: an argument is wrong; raised at once, before the first photo.
        """
        request = self._request(
            tags, exclude_tags, beams=beams, sample=sample, seed=seed,
            max_length=max_length, min_length=min_length,
        )  # fmt: skip
        if on_error not in ("record", "raise"):
            raise AnytagError(f"on_error is {on_error!r}: expected 'record' or 'raise'")

        def work(batch: list[ImageSource]) -> list[Caption]:
            encoded = self.tagger.encode_many(batch, batch_size=len(batch), workers=1)
            return self._write(list(encoded), request)

        check_many(images)
        batches = in_batches(work, images, batch_size=batch_size, workers=workers)
        return _flatten(batches, raises=on_error == "raise")

    def write(
        self, encoded: Sequence[Encoded], tags: Iterable[str] | None = None, **options: Any
    ) -> list[Caption]:
        """Sentences about photos that `Tagger.encode` saw; arguments and errors as for `caption`."""
        return self._write(encoded, self._request(tags, **options))

    def writer(self, encoded: Sequence[Encoded], guides: Sequence[Iterable[str]]) -> Decoder[Any]:
        """What writes about photos that `Tagger.encode` saw, each guided by tags: for `anytag.generation`."""
        ids, mask = self.pieces.tag_text(guides, length=self.spec.tag_length)
        return self._captions.about(ids, mask, np.stack([one.tokens for one in encoded]))

    def _request(
        self, tags: Iterable[str] | None = None, exclude_tags: Iterable[str] = (), **options: Any
    ) -> CaptionRequest:
        """What is asked, checked before the first photo."""
        guides = None if tags is None else _words(tags, "tags")
        request = CaptionRequest(guides, _words(exclude_tags, "exclude_tags"), **options)
        if request.beams is not None:
            check_whole("beams", request.beams, least=1, most=MAX_BEAMS)
        for name, number in (("max_length", request.max_length), ("min_length", request.min_length)):
            if number is not None:
                check_whole(name, number, least=0)
        check_whole("seed", request.seed, least=0)
        if not isinstance(request.sample, bool):
            raise AnytagError(f"sample is {brief(request.sample)}: expected True or False")
        self._check_length(self._generation_config(request).max_length)
        return request

    def _check_length(self, length: int) -> None:
        prompt = len(self.pieces.prompt(self.spec.prompt))
        if length <= prompt:
            raise AnytagError(
                f"max_length is {length}, and the prompt alone has {prompt}: give {prompt + 1} or more"
            )
        if length > self.spec.max_length and length > self._longest:
            raise AnytagError(
                f"max_length is {length}: this model has positions for {self._longest} wordpieces; "
                "give so many or fewer"
            )

    @cached_property
    def _longest(self) -> int:
        """The most wordpieces that the model takes, found by trying: graphs do not say it."""
        lengths = range(self.spec.max_length, _LONGEST + 1)
        return lengths[
            max(0, bisect_left(lengths, True, key=lambda length: not self._captions.takes(length)) - 1)
        ]

    def _generation_config(self, request: CaptionRequest) -> GenerationConfig:
        spec = self.spec
        longest = spec.max_length if request.max_length is None else request.max_length
        shortest = min(spec.min_length, longest) if request.min_length is None else request.min_length
        return GenerationConfig(
            end=self.pieces.end, max_length=longest, min_length=shortest,
            length_penalty=spec.length_penalty, forbidden=self._forbidden(request.exclude_tags),
            repetition_penalty=1.1 if request.sample else 1.0,
        )  # fmt: skip

    def _write(self, encoded: Sequence[Encoded], request: CaptionRequest) -> list[Caption]:
        """The captions of a batch, those of photos that could not be read empty."""
        good = [one for one in encoded if one.error is None]
        guides = self._guides(good, request)
        texts = self._texts(good, guides, request)
        if request.tags is None and self.spec.support:
            texts, guides = self._supported(good, texts, guides, request)
        pairs = iter(zip(texts, guides, strict=True))
        return [self._result(one, *(("", ()) if one.error else next(pairs))) for one in encoded]

    def _guides(self, encoded: Sequence[Encoded], request: CaptionRequest) -> list[tuple[str, ...]]:
        """The tags that guide each photo's caption."""
        if request.tags is not None:
            excluded = self._names(request.exclude_tags)
            guides = tuple(name for name in request.tags if name.lower() not in excluded)
            return [guides] * len(encoded)
        if self.spec.guide > 1:
            return [()] * len(encoded)
        ids = {tag.id for word in request.exclude_tags for tag in self._meant(word)}
        return [
            tuple(
                tag.name
                for tag in self.tagger.score(one).tags
                if tag.score >= self.spec.guide and tag.id not in ids
            )
            for one in encoded
        ]

    def _supported(
        self,
        encoded: Sequence[Encoded],
        texts: list[str],
        guides: list[tuple[str, ...]],
        request: CaptionRequest,
    ) -> tuple[list[str], list[tuple[str, ...]]]:
        """The captions that the photos' tags bear out; another, or plain words, for those that they do not.

        A caption that names what no tag sees, or nothing that the photo is sure to show, is written again,
        guided by the sure tags; if that is no better, the sure tags are named and no more.
        """
        excluded = {tag.id for word in request.exclude_tags for tag in self._meant(word)}
        for number, one in enumerate(encoded):
            tags = [tag for tag in self.tagger.score(one).tags if tag.id not in excluded]
            scores = {tag.id: tag.score for tag in self.tagger.score(one, threshold=self.spec.support).tags}
            sure = self._support.sure(tags, self.spec.sure)
            texts[number] = self._support.without_guesses(texts[number], scores)
            if self._is_supported(texts[number], scores, sure, repeats=2):
                continue
            guide = tuple(tag.name for tag in sure)
            again = self._texts([one], [guide], request)[0] if guide else ""
            again = self._support.without_guesses(again, scores)
            if not again or not self._is_supported(again, scores, sure, repeats=1):
                again = self._support.plain(sure or [tag for tag in tags[:1] if tag.score >= 0.5])
            texts[number], guides[number] = again, guide
        return texts, guides

    def _is_supported(
        self, text: str, scores: Mapping[str, float], sure: Sequence[TagScore], *, repeats: int
    ) -> bool:
        support = self._support
        if support.repeats(text) > repeats or support.unsupported(text, scores, self.spec.support):
            return False
        return not sure or any(support.names(text, tag.id) for tag in sure)

    @cached_property
    def _support(self) -> Support:
        vocabulary = self.tagger.vocabulary
        return Support(vocabulary, Parser(vocabulary=vocabulary))

    def _texts(
        self, encoded: Sequence[Encoded], guides: Sequence[Sequence[str]], request: CaptionRequest
    ) -> list[str]:
        """The captions, of so many photos at a time that beams keep to a bounded memory."""
        beams = 1 if request.sample else self.spec.beams if request.beams is None else request.beams
        step = max(1, _ROWS // beams)
        starts = range(0, len(encoded), step)
        parts = [
            self._some(encoded[k : k + step], guides[k : k + step], request, beams=beams) for k in starts
        ]
        return [text for part in parts for text in part]

    def _some(
        self,
        encoded: Sequence[Encoded],
        guides: Sequence[Sequence[str]],
        request: CaptionRequest,
        *,
        beams: int,
    ) -> list[str]:
        config, prompt = self._generation_config(request), self.pieces.prompt(self.spec.prompt)
        writer = self.writer(encoded, guides)
        prompts = np.tile(np.array(prompt, np.int64), (len(encoded), 1))
        if request.sample:
            ids = sample(writer, prompts, config, seed=request.seed)
        elif beams == 1:
            ids = greedy(writer, prompts, config)
        else:
            ids = beam_search(writer, prompts, config, beams=beams)
        return [self.pieces.decode(row)[len(self.spec.prompt) :] for row in ids.tolist()]

    def _result(self, one: Encoded, text: str, guide: tuple[str, ...]) -> Caption:
        return Caption(one.path, one.width, one.height, self.tagger.card.name, text, guide, one.error)

    def _meant(self, word: str) -> list[Tag]:
        """The tag of a name, and all that are narrower: a kitten is a cat."""
        vocabulary = self.tagger.vocabulary
        exact = vocabulary.find(word)
        return [] if exact is None else [vocabulary[id] for id in vocabulary.find_all([exact.id])]

    def _forbidden(self, words: Iterable[str]) -> tuple[tuple[int, ...], ...]:
        """Wordpieces of words, of their synonyms and narrower tags, and of every form of one of them."""
        named = self._names(words)
        if not named:
            return ()
        forms = [entry for entry in self._words if entry in named or self._lemma(entry) & named]
        return tuple(dict.fromkeys(ids for name in (*sorted(named), *forms) for ids in self._ids(name)))

    def _names(self, words: Iterable[str]) -> set[str]:
        """Words, and every name of the tags that they mean."""
        tags = {tag for word in words for tag in self._meant(word)}
        names = (name for tag in tags for name in (tag.name, *tag.synonyms))
        return {name.lower() for name in (*words, *names)}

    def _ids(self, name: str) -> list[tuple[int, ...]]:
        """None where the wordpieces cannot write it: then no caption holds it."""
        try:
            return self.pieces.wordings(name)
        except VocabularyError:
            return []

    @cached_property
    def _words(self) -> list[str]:
        """Whole words that one wordpiece writes."""
        return [entry for entry in self.pieces.entries if entry.isalpha()]

    @cached_property
    def _parser(self) -> Parser:
        return Parser()

    def _lemma(self, word: str) -> set[str]:
        inflection = self._parser.lexicon.inflection
        verb = inflection.verb(word)
        return {inflection.singular(word), *([] if verb is None else [verb[0]])}


def _words(value: object, name: str) -> tuple[str, ...]:
    """What sentences shall or must not speak of.

    Raises:
        VocabularyError: not a list of words.
    """
    if isinstance(value, str) or not isinstance(value, Iterable):
        example = brief(value if isinstance(value, str) else "red car")
        raise VocabularyError(f"{name} is {brief(value)}: expected a list of words, as in {name}=[{example}]")
    words = tuple(word.name if isinstance(word, Tag) else word for word in value)
    for word in words:
        if not isinstance(word, str) or not word.strip():
            raise VocabularyError(f"{name} asks for the tag {brief(word)}: expected words such as 'red car'")
    return words


def _flatten(batches: Iterable[list[Caption]], *, raises: bool) -> Generator[Caption, None, None]:
    for batch in batches:
        for caption in batch:
            if raises and caption.error is not None:
                raise ImageError(caption.error.message)
            yield caption
