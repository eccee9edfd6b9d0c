"""A sentence as photos are asked: the tags that it names, the words that only people know, its vector."""

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

LONGEST, MOST_TERMS = 2000, 24
"""Letters of a sentence that are read, and terms that are asked."""
_WORD = re.compile(r"[^\W_]+")
_SILENT = frozenset(
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
    """One thing that a sentence asks for.

    Attributes:
        words: the ways to write it, by which it is found among names, keywords and captions.
        tag: its id in the model's vocabulary, or None.
        limit: log-odds that a photo which did not get the tag stays below.
        column: float32 E+1, weights and bias that make a photo's vector the term's log-odds; None where only
            words tell of it.
    """

    words: tuple[str, ...]
    tag: str | None = None
    limit: float = np.inf
    column: Floats | None = None


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence, read once.

    Attributes:
        terms: what it asks for; none where no word of it says anything.
        query: float32 E, whose product with a photo's vector tells how well the whole fits; None where the
            model reads none of its words, or its vectors tell nothing.
    """

    terms: tuple[Term, ...]
    query: Floats | None

    @property
    def columns(self) -> tuple[Floats, ...]:
        """What photos' vectors are multiplied with, E+1 floats each: the whole's, then those of terms."""
        whole = () if self.query is None else (np.append(self.query, np.float32(0)),)
        return *whole, *(term.column for term in self.terms if term.column is not None)


class SentenceReader:
    """Reads sentences for one model; what sees photos is not loaded for it.

    Args:
        questions: the model's.
        fit: how log-odds are made of products; by default as its card says. Where that says nothing, terms
            have no columns: another model's numbers would be wrong.
    """

    def __init__(self, questions: Questions, fit: SearchFit | None = None) -> None:
        self.card, self.fit = questions.card, fit or questions.card.search
        self._questions, self.vocabulary = questions, questions.learned

    @cached_property
    def _tags(self) -> Parser:
        return Parser(vocabulary=self.vocabulary)

    @cached_property
    def _things(self) -> Parser:
        """Finds whatever else the lexicon knows that can be seen."""
        return Parser()

    def read(self, text: str) -> Sentence:
        """What a sentence asks for.

        Raises:
            VocabularyError: it is empty, or no text.
        """
        check_texts([text])
        text = text[:LONGEST]
        if self.card.text is not None:
            text = self._questions.readable(text)
        terms = [term for _, term in zip(range(MOST_TERMS), self._terms(text), strict=False)]
        return Sentence(tuple(terms), self._query(text))

    def _terms(self, text: str) -> Iterator[Term]:
        spans: list[tuple[int, int]] = []
        for name in ("_tags", "_things"):
            if not _left(text, spans):
                return
            parser: Parser = getattr(self, name)  # the second is made where it is needed
            for found in parser.parse(text):
                if not _overlap(spans, found.start, found.end) and found.name not in _SILENT:
                    spans.append((found.start, found.end))
                    yield self._named(found.name, text[found.start : found.end])
        yield from (Term((word,)) for word in _left(text, spans))

    def _named(self, name: str, wording: str) -> Term:
        """A term that can be seen: a tag, or what is asked by its words."""
        fit, tag = self.fit, self.vocabulary.find(name)
        column: Floats | None = None
        if tag is None:
            query = self._query(name)
            if fit is not None and query is not None:
                column = _line(np.append(query, 0), fit.word_scale, fit.word_bias)
            return Term(_distinct(wording, name), column=column)
        odds = np.log(max(tag.threshold, 1e-6)) - np.log1p(-min(tag.threshold, 0.5))
        limit = min(float(odds), 0.0) - 0.05  # and below one half
        coarse = self.coarse([tag.id])
        if fit is not None and len(coarse):
            column = _line(coarse[0], fit.tag_scale, fit.tag_bias)
        return Term(_distinct(wording, tag.name, *tag.synonyms), tag.id, limit, column)

    def coarse(self, ids: Sequence[str]) -> Floats:
        """Of tags, weights and bias for photos' vectors: float32 K×(E+1); none where the model has none."""
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
    """Whether the product of a photo's pooled vector and a text's query tells how well they fit.

    The folded decoder's logits grow with it; those of RAM and RAM++ do not.
    """
    return card.family == "mini" and card.text is not None


def _distinct(*words: str) -> tuple[str, ...]:
    found: dict[str, str] = {}
    for word in words:
        found.setdefault(word.casefold(), word)
    return tuple(found.values())


def _line(column: npt.NDArray[np.floating], scale: float, bias: float) -> Floats:
    moved = np.asarray(scale * column, np.float32)
    moved[-1] += bias
    return moved


def _left(text: str, spans: list[tuple[int, int]]) -> list[str]:
    """The words outside of some spans, but those that say nothing."""
    words = (match for match in _WORD.finditer(text) if not _overlap(spans, *match.span()))
    return [match.group() for match in words if match.group().casefold() not in _SILENT]


def _overlap(spans: list[tuple[int, int]], start: int, end: int) -> bool:
    return any(begin < end and start < stop for begin, stop in spans)
