"""Requests become questions: tags by their trained queries, the user's own by their words."""

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
from anytag.vocabulary import CUSTOM_PREFIX, Tag, Vocabulary

CUSTOM_THRESHOLD = 0.5
_REMEMBERED = 32 << 20  # bytes of the vectors of custom tags that are kept: 10,000 of 3 rows and 256 floats


@dataclass(frozen=True, slots=True)
class _Row:
    """One tag to ask, by the trained query of a number or else by its words, and how results show it."""

    trained: int | None
    id: str
    name: str
    threshold: float = CUSTOM_THRESHOLD
    words: CustomTag | None = None

    @property
    def source(self) -> Source:
        return "custom" if self.trained is None else "vocabulary"


class Questions:
    """Makes questions for one model; remembers the vectors of custom tags and the last few questions.

    Args:
        folder: the model.
        vocabulary: the tags that are asked where the user names none, with their names and thresholds; by
            default the model's own. A tag that the model does not know is asked by its words.

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
        """The question as users put it: see `Tagger.tag`."""
        if tags is not None and also is not None:
            raise VocabularyError(
                "both tags and also were given: tags asks exactly these, also asks the vocabulary and these; "
                "give one of them"
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
        """Every tag that the model learned is in the bank; those that are not asked have no way over their
        thresholds, but raise broader ones as ever."""
        vocabulary_rows, added = self._shown(requested)
        rows = [vocabulary_rows.get(k) or _Row(k, tag.id, tag.name, np.inf) for k, tag in self._numbered]
        rows += added
        count, shortlist = len(self._bank), self.card.shortlist
        thresholds = np.array([row.threshold for row in rows])
        # the first pass may lose a tag that scores below the model's own threshold for it
        is_lower = bool((thresholds[:count] < [tag.threshold for tag in self.learned]).any())
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
            added=sum(row.trained is None for row in requested),
            per_photo=self._bank.coarse is not None,
        )

    def _shown(self, requested: Sequence[_Row]) -> tuple[dict[int, _Row], list[_Row]]:
        """What is asked with the vocabulary: rows of the bank by number, and rows of words, requested last.

        A requested tag that is asked by its words takes the place of the vocabulary's tag of that name.
        """
        names = {row.name.casefold() for row in requested if row.trained is None}
        rows = [self._row(tag) for tag in self.vocabulary if not names or tag.name.casefold() not in names]
        own = [row for row in rows if row.trained is None]
        by_number = {row.trained: row for row in rows if row.trained is not None}
        for row in requested:
            if row.trained is None:
                own.append(row)
            else:
                by_number.setdefault(row.trained, row)
        return by_number, own

    @cached_property
    def _numbered(self) -> list[tuple[int, Tag]]:
        return list(enumerate(self.learned))

    def _row(self, tag: Tag) -> _Row:
        """A tag of a vocabulary, asked with its trained query, or by its words where the model has none."""
        if tag.id in self.learned:
            return _Row(self.learned.index(tag.id), tag.id, tag.name, tag.threshold)
        return _Row(None, tag.id, tag.name, tag.threshold, CustomTag(tag.name, tag.synonyms))

    def _requested_row(self, one: Requested) -> _Row:
        """A bare name that is known is shown as it was asked, under the known tag's id; a described tag is
        asked as it is described, whatever its name."""
        if isinstance(one, Tag):
            return self._row(one)
        known = None if one.descriptions else self.vocabulary.find(one.name) or self.learned.find(one.name)
        if known:
            return replace(self._row(known), name=one.name)
        return _Row(None, CUSTOM_PREFIX + one.name, one.name, words=one)

    def _rows(self, requested: Iterable[Requested]) -> list[_Row]:
        """Requested tags matched with the vocabulary; the same tag asked twice counts once.

        Raises:
            VocabularyError: one name stands for two things.
        """
        rows: dict[tuple[str, str], _Row] = {}
        by_name: dict[str, _Row] = {}
        for one in requested:
            row = self._requested_row(one)
            earlier = by_name.setdefault(row.name, row)
            if earlier != row and not (earlier.trained is not None and row.trained is not None):
                raise VocabularyError(_twice(earlier, row))
            rows.setdefault((row.id, row.name), row)
        return list(rows.values())

    def trained(self, ids: Sequence[str]) -> tuple[Floats, Doubles]:
        """The queries of tags, float32 K×P×D, and the slope and bias that make their logits log-odds, 2×K.

        Raises:
            VocabularyError: an id is not in the vocabulary.
        """
        numbers = [self.learned.index(key) for key in ids]
        return self._bank.queries(np.array(numbers, np.int64)), self._calibration(numbers)

    def coarse(self, ids: Sequence[str]) -> Floats:
        """Weights of the first pass over pooled vectors: K×(D+1), the bias last; without one 0×(D+1)."""
        if self._bank.coarse is None:
            return np.zeros((0, self.card.width + 1), np.float32)
        return self._bank.coarse[[self.learned.index(key) for key in ids]]

    def _queries(self, row: _Row) -> Floats:
        """float32 P×D: trained, or in the user's words, as the card's text encoder is asked."""
        if row.words is None:
            return self._bank.queries(np.asarray(row.trained))
        queries = self._own.get(row.words)
        if queries is None:
            queries = self._encoded(row.words, row.id)
            self._remember(row.words, queries)
        return queries

    def _remember(self, words: CustomTag, queries: Floats) -> None:
        """Keeps the vectors of a custom tag; when they become too many, all earlier ones are forgotten."""
        self._own_bytes += queries.nbytes
        if self._own_bytes > _REMEMBERED:
            self._own, self._own_bytes = {}, queries.nbytes  # a new one: other threads may read the old
        self._own[words] = queries

    def _encoded(self, words: CustomTag, id: str) -> Floats:
        """float32 P×D of a tag's words.

        Raises:
            VocabularyError: they say nothing to the text encoder; names the tag, if it is of a vocabulary.
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
                f"the tag {brief(id)} of the vocabulary is none that the model learned, so it is asked by "
                f"its words, and {error}"
            ) from error

    def words(self, texts: Sequence[str]) -> Floats:
        """Texts as queries, each on its own, whatever the vocabulary knows: float32 M×1×D."""
        check_texts(texts)
        return self._projected(self._encoder.encode([self.readable(text) for text in texts]))[:, None]

    def readable(self, text: str) -> str:
        """A text in which names that the vocabulary has in another language stand in English.

        Only where the text encoder does not know a word: "eine rote Katze" is asked as "eine rote cat".
        """
        return in_english(text, self.unknown_in(text), self.learned)

    def unknown_words(self, requests: Iterable[Requested]) -> tuple[str, ...]:
        """Words that the text encoder does not know, of requested tags that are asked by their words.

        It spells them in pieces, or leaves them out, so that scores say little.
        """
        rows = [row.words for row in self._rows(requests) if row.words is not None]
        texts = [self.readable(text) for one in rows for text in (one.name, *one.descriptions)]
        return tuple(dict.fromkeys(word for text in texts for word in self.unknown_in(text)))

    def unknown_in(self, text: str) -> tuple[str, ...]:
        """Words that the text encoder does not know; none where it reads every text, as CLIP does."""
        encoder = self._encoder
        return encoder.unknown_words(text) if isinstance(encoder, StaticTextEncoder) else ()

    @cached_property
    def _encoder(self) -> TextEncoder:
        return open_text_encoder(self._folder)

    @property
    def _prompts(self) -> Prompts:
        return "words" if self.card.text is None else self.card.text.prompts

    def _projected(self, vectors: Floats) -> Floats:
        """Text vectors n×W -> rows of queries n×D; where nothing projects them, as they are."""
        encoder = self._encoder
        if isinstance(encoder, StaticTextEncoder) and encoder.has_projection:
            return encoder.project(vectors)
        return vectors

    def _calibration(self, trained: Sequence[int | None]) -> Doubles:
        """Slope and bias of each tag, from the index of its trained query: float64 2×K."""
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
        """What must be decoded besides, so that a tag scores the same whether asked alone or with all."""
        requested_numbers = {number for number in trained if number is not None}
        below = [
            (number, self.learned[number])
            for number, above in enumerate(self.learned.broader)
            if number not in requested_numbers and requested_numbers.intersection(above)
        ]
        return [_Row(number, tag.id, tag.name) for number, tag in below]

    def _pairs(self, trained: Sequence[int | None]) -> Ints:
        """Pairs of a tag and a broader one among those asked, by their place in `trained`: int64 E×2."""
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


def _twice(one: _Row, other: _Row) -> str:
    """Why two different requests cannot have one name."""
    words = [row.words for row in (one, other) if row.words]
    texts = "; ".join(dict.fromkeys(text for tag in words for text in tag.descriptions))
    if one.id == other.id:
        return (
            f"the tag {brief(one.name)} was asked twice with different descriptions; give it once, with all: "
            f"{brief(f'{one.name}: {texts}')}"
        )
    return (
        f"the name {brief(one.name)} was asked for two tags, so that nobody could tell their scores apart; "
        f"give one of them another name, as in {brief(f'my {one.name}: {texts or one.name}')}"
    )
