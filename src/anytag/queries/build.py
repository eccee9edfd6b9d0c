"""Prepare queries from requests: trained queries for known tags, text embeddings for custom ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np

from anytag._typing import Doubles, Floats, Ints
from anytag.errors import ModelError, VocabularyError, brief
from anytag.models.folder import ModelFolder
from anytag.queries.bank import Bank
from anytag.queries.requests import CustomTag, Requested, TagLike, check_numbers, in_english, parse_requests
from anytag.queries.score import Question, pad
from anytag.results import Source
from anytag.runtime.text_onnx import open_text_encoder
from anytag.text_encoders import StaticTextEncoder, TextEncoder
from anytag.text_encoders.queries import Prompts, check_texts, tag_rows
from anytag.vocabulary import CUSTOM_PREFIX, NOUN_KINDS, Kind, Tag, Vocabulary, matching_key

CUSTOM_THRESHOLD = 0.5
_CACHE_BYTES = 32 << 20  # for vectors of custom tags: 10,000 tags of 3 rows and 256 floats


@dataclass(frozen=True, slots=True)
class _Row:
    """One tag to score, with a trained query or with one made from words, and its display name."""

    trained: int | None
    id: str
    name: str
    threshold: float = CUSTOM_THRESHOLD
    words: CustomTag | None = None

    @property
    def source(self) -> Source:
        return "custom" if self.trained is None else "vocabulary"


class Questions:
    """Prepares queries for one model; caches the vectors of custom tags and the last few requests.

    Args:
        folder: the model.
        vocabulary: the default tags, with their names and thresholds; by default the model's own. A tag that
            the model does not know gets a query made from its words.

    Raises:
        VocabularyError, ModelError: the folder's vocabulary, queries or text encoder cannot be read.
    """

    def __init__(self, folder: ModelFolder, vocabulary: Vocabulary | None = None) -> None:
        self.card = folder.card
        self.learned = Vocabulary.read(folder.file("vocabulary.jsonl"))
        self.vocabulary = self.learned if vocabulary is None else vocabulary
        self._folder = folder
        self._bank = Bank.read(
            folder.file("queries.safetensors"), tags=len(self.learned), width=folder.card.width
        )
        self._own: dict[CustomTag, Floats] = {}
        self._own_bytes = 0
        self._prepared = lru_cache(maxsize=8)(self._prepare)

    def prepare(
        self,
        tags: Iterable[TagLike] | Mapping[str, object] | None,
        *,
        also: Iterable[TagLike] | Mapping[str, object] | None,
        top_k: int | None,
        threshold: float | None,
    ) -> Question:
        """Prepare the queries of a request; arguments as for `Tagger.tag`."""
        if tags is not None and also is not None:
            raise VocabularyError(
                "both tags and also were given: tags scores exactly these, also scores the vocabulary and "
                "these; give one of them"
            )
        check_numbers(top_k, threshold)
        return self._prepared(parse_requests(tags, "tags"), parse_requests(also, "also"), top_k, threshold)

    def _prepare(
        self,
        tags: tuple[Requested, ...] | None,
        also: tuple[Requested, ...] | None,
        top_k: int | None,
        threshold: float | None,
    ) -> Question:
        if tags is not None:
            return self._exactly(self._rows(tags), top_k=top_k, threshold=threshold or 0.0)
        return self._with_vocabulary(self._rows(also or ()), top_k=top_k, threshold=threshold)

    def _exactly(self, rows: Sequence[_Row], *, top_k: int | None, threshold: float) -> Question:
        count = len(rows)
        trained = [row.trained for row in rows]
        rows = [*rows, *self._narrower(trained)]
        slope, bias = self._calibration([row.trained for row in rows])
        return Question(
            ids=tuple(row.id for row in rows),
            names=tuple(row.name for row in rows),
            sources=tuple(row.source for row in rows),
            slope=slope,
            bias=bias,
            threshold=np.where(np.arange(len(rows)) < count, threshold, np.inf),
            queries=pad([self._queries(row) for row in rows]),
            ancestor_pairs=self._pairs([row.trained for row in rows]),
            top_k=top_k,
            strict=self.card.strict,
            per_photo=self._bank.coarse is not None,
        )

    def _with_vocabulary(
        self, requested: Sequence[_Row], *, top_k: int | None, threshold: float | None
    ) -> Question:
        """Score every trained tag; those outside the vocabulary have an infinite threshold, but still raise
        the scores of broader tags."""
        vocabulary_rows, added = self._shown(requested)
        rows = [vocabulary_rows.get(k) or _Row(k, tag.id, tag.name, np.inf) for k, tag in self._numbered]
        rows += added
        count, shortlist = len(self._bank), self.card.shortlist
        thresholds = np.array([row.threshold for row in rows])
        # the first pass may miss tags that score below the model's own thresholds
        shown, own = thresholds[:count], np.array([tag.threshold for tag in self.learned])
        is_lower = bool((shown < own).any())
        is_default = threshold is None and bool(((shown == own) | np.isinf(shown)).all())
        decode_all = threshold is not None or is_lower or shortlist >= count or (top_k or 0) > shortlist
        if threshold is not None:
            thresholds = np.where(np.isinf(thresholds), np.inf, threshold)
        trained = [row.trained for row in rows]
        slope, bias = self._calibration(trained)
        return Question(
            ids=tuple(row.id for row in rows),
            names=tuple(row.name for row in rows),
            sources=tuple(row.source for row in rows),
            slope=slope,
            bias=bias,
            threshold=thresholds,
            queries=pad([self._queries(row) for row in added]),
            ancestor_pairs=self._pairs(trained),
            bank=self._bank,
            shortlist=None if decode_all or self._bank.coarse is None else shortlist,
            top_k=top_k,
            strict=self.card.strict,
            fewest=self.card.fewest if is_default else None,
            added=len(requested),
            per_photo=self._bank.coarse is not None,
        )

    def _shown(self, requested: Sequence[_Row]) -> tuple[dict[int, _Row], list[_Row]]:
        """Rows of the bank by index, and rows that are decoded for every photo, requested ones last.

        A requested custom tag replaces the vocabulary's tag of the same name. A requested trained tag is
        returned from `CUSTOM_THRESHOLD` on, or from its own threshold if that is lower.
        """
        names = {row.name.casefold() for row in requested if row.trained is None}
        rows = [self._row(tag) for tag in self.vocabulary if not names or tag.name.casefold() not in names]
        own: list[_Row] = []
        by_number: dict[int, _Row] = {}
        for row in rows:
            if row.trained is None or row.trained in by_number:  # or another name of the same tag
                own.append(row)
            else:
                by_number[row.trained] = row
        for row in requested:
            if row.trained is not None:
                by_number.pop(row.trained, None)
            own.append(replace(row, threshold=min(row.threshold, CUSTOM_THRESHOLD)))
        return by_number, own

    @cached_property
    def _numbered(self) -> list[tuple[int, Tag]]:
        return list(enumerate(self.learned))

    def _row(self, tag: Tag) -> _Row:
        """A tag of a vocabulary, with its trained query, or with one made from its words if there is none."""
        number = self._trained_number(tag)
        words = CustomTag(tag.name, tag.synonyms) if number is None else None
        return _Row(number, tag.id, tag.name, tag.threshold, words)

    def _trained_number(self, tag: Tag) -> int | None:
        """Index of the trained tag with a tag's id, else with its name; None if there is none.

        The kinds must agree: "orange" may be a colour or a fruit.
        """
        if tag.id in self.learned:
            number = self.learned.index(tag.id)
            if _part_of_speech(self.learned[number].kind) == _part_of_speech(tag.kind):
                return number
        return self._by_name.get((matching_key(tag.name), _part_of_speech(tag.kind)))

    @cached_property
    def _by_name(self) -> dict[tuple[str, Kind], int]:
        """Index of the first trained tag with each name and part of speech."""
        rows = reversed(self._numbered)
        return {(matching_key(tag.name), _part_of_speech(tag.kind)): number for number, tag in rows}

    def _requested_row(self, one: Requested) -> _Row:
        """A known bare name keeps the spelling of the request, with the known tag's id; a tag with
        descriptions is always custom."""
        if isinstance(one, Tag):
            return self._row(one)
        known = None if one.descriptions else self.vocabulary.find(one.name) or self.learned.find(one.name)
        if known:
            return replace(self._row(known), name=one.name)
        return _Row(None, CUSTOM_PREFIX + one.name, one.name, words=one)

    def _rows(self, requested: Iterable[Requested]) -> list[_Row]:
        """Match requested tags with the vocabulary; duplicates count once.

        Raises:
            VocabularyError: two different tags have the same name.
        """
        rows: dict[tuple[str, str], _Row] = {}
        by_name: dict[str, _Row] = {}
        for one in requested:
            row = self._requested_row(one)
            earlier = by_name.setdefault(row.name, row)
            if earlier != row and not (earlier.trained is not None and row.trained is not None):
                raise VocabularyError(_conflict(earlier, row))
            rows.setdefault((row.id, row.name), row)
        return list(rows.values())

    def trained(self, ids: Sequence[str]) -> tuple[Floats, Doubles]:
        """Queries of tags, float32 K×P×D, and slope and bias that turn their logits into log-odds, 2×K.

        Raises:
            VocabularyError: an id is not in the vocabulary.
        """
        numbers = [self.learned.index(key) for key in ids]
        return self._bank.queries(np.array(numbers, np.int64)), self._calibration(numbers)

    def coarse(self, ids: Sequence[str]) -> Floats:
        """First-pass weights over pooled vectors: K×(D+1), the bias last; 0×(D+1) without a first pass."""
        if self._bank.coarse is None:
            return np.zeros((0, self.card.width + 1), np.float32)
        return self._bank.coarse.linear([self.learned.index(key) for key in ids])

    def _queries(self, row: _Row) -> Floats:
        """float32 P×D: trained, or encoded from the user's words with the card's prompts."""
        if row.words is None:
            return self._bank.queries(np.asarray(row.trained))
        queries = self._own.get(row.words)
        if queries is None:
            queries = self._encoded(row.words, row.id)
            self._cache(row.words, queries)
        return queries

    def _cache(self, words: CustomTag, queries: Floats) -> None:
        """Cache the vectors of a custom tag; when the cache is full, it is cleared."""
        self._own_bytes += queries.nbytes
        if self._own_bytes > _CACHE_BYTES:
            self._own, self._own_bytes = (
                {},
                queries.nbytes,
            )  # a new dict, since other threads may read the old one
        self._own[words] = queries

    def _encoded(self, words: CustomTag, id: str) -> Floats:
        """Encode a tag's words: float32 P×D.

        Raises:
            VocabularyError: the text encoder knows none of them; names the tag, if it is in the vocabulary.
            ModelError: the model has no text encoder.
        """
        try:
            encoder = self._encoder
            texts = [self.readable(text) for text in (words.name, *words.descriptions)]
            return self._projected(tag_rows(texts[0], texts[1:], encoder, prompts=self._prompts))
        except (VocabularyError, ModelError) as error:
            if id.startswith(CUSTOM_PREFIX):
                raise
            raise VocabularyError(
                f"the tag {brief(id)} of the vocabulary is not one of the model's, so its query is made from "
                f"its words, and {error}"
            ) from error

    def words(self, texts: Sequence[str]) -> Floats:
        """Queries of texts, each made from its words alone, whatever the vocabulary knows: float32 M×1×D."""
        check_texts(texts)
        return self._projected(self._encoder.encode([self.readable(text) for text in texts]))[:, None]

    def readable(self, text: str) -> str:
        """Translate names that the vocabulary has in another language into English.

        Only words that the text encoder does not know: "eine rote Katze" becomes "eine rote cat".
        """
        return in_english(text, self.unknown_in(text), self.learned)

    def unknown_words(self, requests: Iterable[Requested]) -> tuple[str, ...]:
        """Words of requested custom tags that the text encoder does not know.

        It splits them into pieces or skips them, so such scores mean little.
        """
        rows = [row.words for row in self._rows(requests) if row.words is not None]
        texts = [self.readable(text) for one in rows for text in (one.name, *one.descriptions)]
        return tuple(dict.fromkeys(word for text in texts for word in self.unknown_in(text)))

    def unknown_in(self, text: str) -> tuple[str, ...]:
        """Words that the text encoder does not know; none for encoders that accept any text, such as CLIP."""
        encoder = self._encoder
        return encoder.unknown_words(text) if isinstance(encoder, StaticTextEncoder) else ()

    @cached_property
    def _encoder(self) -> TextEncoder:
        return open_text_encoder(self._folder)

    @property
    def _prompts(self) -> Prompts:
        return "words" if self.card.text is None else self.card.text.prompts

    def _projected(self, vectors: Floats) -> Floats:
        """Project text vectors n×W to queries n×D; unchanged if the encoder has no projection."""
        encoder = self._encoder
        if isinstance(encoder, StaticTextEncoder) and encoder.has_projection:
            return encoder.project(vectors)
        return vectors

    def _calibration(self, trained: Sequence[int | None]) -> Doubles:
        """Slope and bias of each tag's logit: float64 2×K; None is a custom tag."""
        own, known = self.card.calibration.own, self.card.calibration.vocabulary
        slope, offset = self._bank.line.T.astype(np.float64)
        lines = [
            (own.scale, own.bias)
            if i is None
            else (slope[i] * known.scale, slope[i] * known.bias + offset[i])
            for i in trained
        ]
        return np.array(lines).T

    def _narrower(self, trained: Iterable[int | None]) -> list[_Row]:
        """Narrower tags, which must be decoded too, so that a tag's score does not depend on the request."""
        requested_numbers = {number for number in trained if number is not None}
        below = [
            (number, self.learned[number])
            for number, above in enumerate(self.learned.broader)
            if number not in requested_numbers and requested_numbers.intersection(above)
        ]
        return [_Row(number, tag.id, tag.name) for number, tag in below]

    def _pairs(self, trained: Sequence[int | None]) -> Ints:
        """Pairs of a tag and a broader one, as indices into `trained`: int64 E×2."""
        places: dict[int, list[int]] = {}
        for place, number in enumerate(trained):
            if number is not None:
                places.setdefault(number, []).append(place)
        pairs = [
            (place, other)
            for place, number in enumerate(trained)
            if number is not None
            for parent in self.learned.broader[number]
            for other in places.get(parent, ())
        ]
        return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _part_of_speech(kind: Kind) -> Kind:
    """A kind; scenes count as objects, since many nouns are both, such as a bridge."""
    return "object" if kind in NOUN_KINDS else kind


def _conflict(one: _Row, other: _Row) -> str:
    """The message for two different requests with the same name."""
    words = [row.words for row in (one, other) if row.words]
    texts = "; ".join(dict.fromkeys(text for tag in words for text in tag.descriptions))
    if one.id == other.id:
        return (
            f"the tag {brief(one.name)} was requested twice with different descriptions; give it once, "
            f"with all of them: {brief(f'{one.name}: {texts}')}"
        )
    return (
        f"the name {brief(one.name)} was requested for two different tags, so that their scores could not be "
        f"told apart; rename one of them, as in {brief(f'my {one.name}: {texts or one.name}')}"
    )
