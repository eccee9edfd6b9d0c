"""Parse a search sentence: the tags and other terms that it names, and its embedding."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from anytag._typing import Floats
from anytag.errors import VocabularyError
from anytag.models.card import Card, SearchFit
from anytag.parsing import Parser
from anytag.queries.build import Questions
from anytag.text_encoders.queries import check_texts

MAX_CHARACTERS, MAX_TERMS = 2000, 24
"""Maximum characters and terms of a sentence; the rest is ignored."""
_WORD = re.compile(r"[^\W_]+")
_STOP_WORDS = frozenset(
    "a about above across after against all along among an and another any are around as at away back be "  # noqa: SIM905
    "before behind being below beside between both but by can couple down during each either every few find "
    "for four from front group has have having he her his i image images in inside into is it its just me "
    "middle many more most my near next of off on one onto or other our out outside over past photo "
    "photograph photos pic picture pictures "
    "same several she show side some something that the their them then there "
    "these they this those three through to together top toward towards two under up upon very was we were "
    "what where which while who whose with within you your".split()
)


@dataclass(frozen=True, slots=True)
class Term:
    """A term of a sentence.

    Attributes:
        words: its spellings, searched for in names, keywords and captions.
        tag: id of its tag in the model's vocabulary, or None.
        limit: upper bound of the log-odds of photos without the tag.
        column: float32 E+1, weights and bias that map a photo's embedding to the term's log-odds; None if the
            term can only be matched by words.
    """

    words: tuple[str, ...]
    tag: str | None = None
    limit: float = np.inf
    column: Floats | None = None


@dataclass(frozen=True, slots=True)
class Sentence:
    """A parsed sentence.

    Attributes:
        terms: its terms; empty if it has only stop words.
        query: float32 E, its embedding, whose product with a photo's measures how well it fits; None
            if the model knows none of its words, or has no comparable embeddings.
    """

    terms: tuple[Term, ...]
    query: Floats | None

    @property
    def columns(self) -> tuple[Floats, ...]:
        """Columns for `compare.products`, float32 E+1 each: the embedding's, then those of terms."""
        whole = () if self.query is None else (np.append(self.query, np.float32(0)),)
        return *whole, *(term.column for term in self.terms if term.column is not None)


class SentenceReader:
    """Parses sentences for one model; the image encoder is not needed.

    Args:
        questions: the model's query builder.
        fit: calibration of products; by default the card's. Without one, terms have no columns, since other
            models' calibrations do not apply.
    """

    def __init__(self, questions: Questions, fit: SearchFit | None = None) -> None:
        self.card, self.fit = questions.card, fit or questions.card.search
        self._questions, self.vocabulary = questions, questions.learned

    @cached_property
    def _tag_parser(self) -> Parser:
        return Parser(vocabulary=self.vocabulary)

    @cached_property
    def _lexicon_parser(self) -> Parser:
        """Finds other visible things of the lexicon."""
        return Parser()

    def read(self, text: str) -> Sentence:
        """Parse a sentence.

        Raises:
            VocabularyError: it is empty, or not a text.
        """
        check_texts([text])
        text = text[:MAX_CHARACTERS]
        if self.card.text is not None:
            text = self._questions.readable(text)
        terms = [term for _, term in zip(range(MAX_TERMS), self._terms(text), strict=False)]
        return Sentence(tuple(terms), self._query(text))

    def _terms(self, text: str) -> Iterator[Term]:
        spans: list[tuple[int, int]] = []
        for name in ("_tag_parser", "_lexicon_parser"):
            if not _remaining_words(text, spans):
                return
            parser: Parser = getattr(self, name)  # loaded only when needed
            for found in parser.parse(text):
                if not _overlap(spans, found.start, found.end) and found.name not in _STOP_WORDS:
                    spans.append((found.start, found.end))
                    yield self._visible_term(found.name, text[found.start : found.end])
        yield from (Term((word,)) for word in _remaining_words(text, spans))

    def _visible_term(self, name: str, wording: str) -> Term:
        """A visible term: a tag, or another name with a query from its words."""
        fit, tag = self.fit, self.vocabulary.find(name)
        column: Floats | None = None
        if tag is None:
            query = self._query(name)
            if fit is not None and query is not None:
                column = _scaled(np.append(query, 0), fit.word_scale, fit.word_bias)
            return Term(_distinct(wording, name), column=column)
        odds = np.log(max(tag.threshold, 1e-6)) - np.log1p(-min(tag.threshold, 0.5))
        limit = min(float(odds), 0.0) - 0.05  # and below one half
        coarse = self.coarse([tag.id])
        if fit is not None and len(coarse):
            column = _scaled(coarse[0], fit.tag_scale, fit.tag_bias)
        return Term(_distinct(wording, tag.name, *tag.synonyms), tag.id, limit, column)

    def coarse(self, ids: Sequence[str]) -> Floats:
        """The first pass's weights and biases of K tags: float32 K×(E+1); empty if the model has none."""
        return self._questions.coarse(ids)

    def _query(self, text: str) -> Floats | None:
        if not has_embeddings(self.card):
            return None
        try:
            query: Floats = self._questions.words([text])[0, 0]
        except VocabularyError:
            return None
        return query


def has_embeddings(card: Card) -> bool:
    """Whether the product of a photo's pooled embedding and a text's query measures how well they fit.

    This holds for the folded decoder, whose logits grow with it, not for RAM and RAM++.
    """
    return card.family == "mini" and card.text is not None


def _distinct(*words: str) -> tuple[str, ...]:
    found: dict[str, str] = {}
    for word in words:
        found.setdefault(word.casefold(), word)
    return tuple(found.values())


def _scaled(column: npt.NDArray[np.floating], scale: float, bias: float) -> Floats:
    moved = np.asarray(scale * column, np.float32)
    moved[-1] += bias
    return moved


def _remaining_words(text: str, spans: list[tuple[int, int]]) -> list[str]:
    """The words outside of some spans, without stop words."""
    words = (match for match in _WORD.finditer(text) if not _overlap(spans, *match.span()))
    return [match.group() for match in words if match.group().casefold() not in _STOP_WORDS]


def _overlap(spans: list[tuple[int, int]], start: int, end: int) -> bool:
    return any(begin < end and start < stop for begin, stop in spans)
