"""Captions for photos, guided by the user's tags or by those that the model recognises."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from anytag.batching import in_batches
from anytag.caption_check import LIKELY, CaptionChecker
from anytag.errors import AnytagError, ImageError, ModelError, VocabularyError, brief
from anytag.generation import Decoder, GenerationConfig, beam_search, check_whole, greedy, sample
from anytag.images import MAX_PIXELS, ImageSource, check_many
from anytag.models.card import CaptionSpec
from anytag.models.folder import ModelFolder
from anytag.models.registry import resolve
from anytag.parsing import Parser
from anytag.results import Caption, TagScore
from anytag.runtime.base import Captions, Device, Precision
from anytag.runtime.open import open_runtime
from anytag.tagger import Encoded, Tagger
from anytag.text_encoders.wordpiece import WordPieces
from anytag.vocabulary import Tag

MAX_BEAMS = 100
"""Maximum number of beams: each keeps its own KV cache, and more than a few gain nothing."""

_MAX_WORDPIECES = 1024  # more than any caption head has positions for
_MAX_ROWS = 64  # texts decoded together: each holds 14 MB of BERT's keys and values


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
    """Write captions with one model; create one with `Captioner.load`. Thread-safe.

    Attributes:
        tagger: a tagger with the same model.
        spec: caption settings of the model card.
        pieces: the wordpiece tokenizer.
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
        """Load an installed model; arguments and errors as for `Tagger.load`.

        Raises:
            ModelError: also if the model has no caption head.
        """
        folder = ModelFolder.open(resolve(model))
        spec = folder.card.captions
        if spec is None:
            raise ModelError(
                f"the model {folder.card.name} has no caption head: use tag2text, ram or the embedded model"
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
        """Write a caption for one photo.

        Args:
            image: path, encoded bytes, open file, PIL image or uint8 array H×W×3 (RGB).
            tags: words that guide the caption; by default the recognised tags, as the model card specifies;
                an empty list gives no guidance.
            exclude_tags: words that the caption must not contain: in any form, with their synonyms and
                narrower tags (cat excludes kitten); they do not guide it either.
            beams: beam width, 100 at most; 1 is greedy search; by default as in the model card.
            sample: nucleus sampling (top p 0.9) instead of beam search.
            seed: random seed for sampling.
            max_length, min_length: in wordpieces, including the card's prompt.

        Raises:
            ImageError, MissingExtraError: the photo cannot be read.
            AnytagError, VocabularyError: another argument is invalid.
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
        """Write captions for many photos, in the order of the input; each as from `caption`.

        Args:
            images: any iterable, read lazily as by `Tagger.tag_many`; each item as for `caption`.
            batch_size: photos that go through the network together.
            workers: number of threads; by default one per usable core.
            on_error: "record" stores the reason in `Caption.error` and continues; "raise" raises it.

        Raises:
            ImageError: a photo cannot be read, and `on_error` is "raise".
            AnytagError, VocabularyError: an argument is invalid; raised at once, before the first photo.
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
        self, encoded: Iterable[Encoded], tags: Iterable[str] | None = None, **options: Any
    ) -> list[Caption]:
        """Write captions for photos encoded by `Tagger.encode`; arguments and errors as for `caption`."""
        return self._write(list(encoded), self._request(tags, **options))

    def writer(self, encoded: Sequence[Encoded], guides: Sequence[Iterable[str]]) -> Decoder[Any]:
        """Return a decoder, for `anytag.generation`, over encoded photos that are each guided by tags."""
        ids, mask = self.pieces.tag_text(guides, length=self.spec.tag_length)
        return self._captions.decoder(ids, mask, np.stack([one.tokens for one in encoded]))

    def _request(
        self, tags: Iterable[str] | None = None, exclude_tags: Iterable[str] = (), **options: Any
    ) -> CaptionRequest:
        """Collect and check the arguments before the first photo."""
        guides = None if tags is None else _words(tags, "tags")
        excluded = tuple(dict.fromkeys(map(self._singular, _words(exclude_tags, "exclude_tags"))))
        request = CaptionRequest(guides, excluded, **options)
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
                f"max_length is {length}, but the prompt alone has {prompt} wordpieces: "
                f"give {prompt + 1} or more"
            )
        if length > self.spec.max_length and length > self._max_wordpieces:
            raise AnytagError(
                f"max_length is {length}: this model has positions for {self._max_wordpieces} wordpieces; "
                "give that many or fewer"
            )

    @cached_property
    def _max_wordpieces(self) -> int:
        """The longest text that the model accepts, found by bisection: ONNX graphs do not state it."""
        lengths = range(self.spec.max_length, _MAX_WORDPIECES + 1)
        return lengths[
            max(
                0,
                bisect_left(lengths, True, key=lambda length: not self._captions.supports_length(length)) - 1,
            )
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
        """Write the captions of a batch; empty ones for photos that could not be read."""
        good = [one for one in encoded if one.error is None]
        guides = self._guides(good, request)
        texts = self._texts(good, guides, request)
        if request.tags is None and self.spec.support:
            texts, guides = self._supported(good, texts, guides, request)
        pairs = iter(zip(texts, guides, strict=True))
        return [self._result(one, *(("", ()) if one.error else next(pairs))) for one in encoded]

    def _guides(self, encoded: Sequence[Encoded], request: CaptionRequest) -> list[tuple[str, ...]]:
        """Return the tags that guide each photo's caption."""
        if request.tags is not None:
            excluded = self._names(request.exclude_tags)
            guides = tuple(name for name in request.tags if name.lower() not in excluded)
            return [guides] * len(encoded)
        if self.spec.guide > 1:
            return [()] * len(encoded)
        ids = {tag.id for word in request.exclude_tags for tag in self._tags_of(word)}
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
        """Replace captions that the photos' tags do not support.

        A caption that names an unrecognised thing, has a misspelled word, or names none of the confident tags
        is generated again, guided by these tags; if that is no better, it becomes a plain list of them. Where
        no tag is likely, the caption says no more than that.
        """
        excluded = {tag.id for word in request.exclude_tags for tag in self._tags_of(word)}
        plain = partial(self._checker.plain, excluded=self._names(request.exclude_tags))
        for number, one in enumerate(encoded):
            tags = [tag for tag in self.tagger.score(one).tags if tag.id not in excluded]
            scores = {tag.id: tag.score for tag in self.tagger.score(one, threshold=self.spec.support).tags}
            confident = self._checker.confident(tags, self.spec.sure) or self._checker.confident(tags, LIKELY)
            if not confident:
                texts[number] = plain([tag for tag in tags[:1] if tag.score >= LIKELY])
                continue
            texts[number] = self._checker.neutralise(texts[number], scores)
            if self._is_supported(texts[number], scores, confident, repeats=2):
                continue
            guide = tuple(tag.name for tag in confident)
            again = self._checker.neutralise(self._texts([one], [guide], request)[0], scores)
            if not self._is_supported(again, scores, confident, repeats=1):
                again = plain(confident)
            texts[number], guides[number] = again, guide
        return texts, guides

    def _is_supported(
        self, text: str, scores: Mapping[str, float], confident: Sequence[TagScore], *, repeats: int
    ) -> bool:
        checker = self._checker
        if checker.max_repeats(text) > repeats or checker.misspelled(text):
            return False
        if checker.unsupported(text, scores, self.spec.support):
            return False
        return any(checker.mentions(text, tag.id) for tag in confident)

    @cached_property
    def _checker(self) -> CaptionChecker:
        vocabulary = self.tagger.vocabulary
        return CaptionChecker(vocabulary, Parser(vocabulary=vocabulary), self.pieces.is_whole)

    def _texts(
        self, encoded: Sequence[Encoded], guides: Sequence[Sequence[str]], request: CaptionRequest
    ) -> list[str]:
        """Generate captions, in batches small enough to bound the memory of beam search."""
        beams = 1 if request.sample else self.spec.beams if request.beams is None else request.beams
        step = max(1, _MAX_ROWS // beams)
        starts = range(0, len(encoded), step)
        parts = [
            self._generate(encoded[k : k + step], guides[k : k + step], request, beams=beams) for k in starts
        ]
        return [text for part in parts for text in part]

    def _generate(
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

    def _tags_of(self, word: str) -> list[Tag]:
        """Return the tag with this name and all narrower ones: a kitten is a cat."""
        vocabulary = self.tagger.vocabulary
        exact = vocabulary.find(word)
        return [] if exact is None else [vocabulary[id] for id in vocabulary.find_all([exact.id])]

    def _singular(self, word: str) -> str:
        """A word or the last word of a name in the singular; unchanged if the vocabulary has it."""
        if self.tagger.vocabulary.find(word) is not None:
            return word
        rest, space, last = word.rpartition(" ")
        return f"{rest}{space}{self._parser.lexicon.inflection.singular(last)}"

    def _forbidden(self, words: Iterable[str]) -> tuple[tuple[int, ...], ...]:
        """Return the wordpieces of all forms of some words, their synonyms and narrower tags."""
        named = self._names(words)
        if not named:
            return ()
        forms = [entry for entry in self._words if entry in named or self._lemma(entry) & named]
        return tuple(dict.fromkeys(ids for name in (*sorted(named), *forms) for ids in self._ids(name)))

    def _names(self, words: Iterable[str]) -> set[str]:
        """Return the words and all names of the tags that they refer to."""
        tags = {tag for word in words for tag in self._tags_of(word)}
        names = (name for tag in tags for name in (tag.name, *tag.synonyms))
        return {name.lower() for name in (*words, *names)}

    def _ids(self, name: str) -> list[tuple[int, ...]]:
        """Return the wordpiece spellings of a name; none if it cannot be spelled, and so in no caption."""
        try:
            return self.pieces.wordings(name)
        except VocabularyError:
            return []

    @cached_property
    def _words(self) -> list[str]:
        """Words that are a single wordpiece."""
        return [entry for entry in self.pieces.entries if entry.isalpha()]

    @cached_property
    def _parser(self) -> Parser:
        return Parser()

    def _lemma(self, word: str) -> set[str]:
        inflection = self._parser.lexicon.inflection
        verb = inflection.verb(word)
        return {inflection.singular(word), *([] if verb is None else [verb[0]])}


def _words(value: object, name: str) -> tuple[str, ...]:
    """Check a list of words.

    Raises:
        VocabularyError: not a list of words.
    """
    if isinstance(value, str) or not isinstance(value, Iterable):
        example = brief(value if isinstance(value, str) else "red car")
        raise VocabularyError(f"{name} is {brief(value)}: expected a list of words, as in {name}=[{example}]")
    words = tuple(word.name if isinstance(word, Tag) else word for word in value)
    for word in words:
        if not isinstance(word, str) or not word.strip():
            raise VocabularyError(f"{name} contains {brief(word)}: expected words such as 'red car'")
    return words


def _flatten(batches: Iterable[list[Caption]], *, raises: bool) -> Generator[Caption, None, None]:
    for batch in batches:
        for caption in batch:
            if raises and caption.error is not None:
                raise ImageError(caption.error.message)
            yield caption
