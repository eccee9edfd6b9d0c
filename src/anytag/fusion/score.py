"""Fuse the scores of a sentence's terms and of its embedding into the log-odds that it fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from anytag._typing import AnyFloats, Floats, Ints
from anytag.fusion.sentences import Sentence, Term
from anytag.models.card import SearchFit

CERTAIN, UNKNOWN = 6.0, -2.0
"""Log-odds at or above which evidence overrides the model; upper bound for sentences with an unknown term."""
FITS = 0.5
"""Photos with a lower score do not fit a sentence."""


@dataclass(slots=True)
class Evidence:
    """Evidence that a sentence fits N photos.

    Attributes:
        terms: log-odds of each term, float32 N; None for an unknown term.
        whole: products with the sentence's embedding, float32 N, NaN for photos without an embedding; None
            if the sentence has no embedding.
        count: N.
    """

    terms: list[Floats | None]
    whole: Floats | None
    count: int


def evidence(sentence: Sentence, products: Floats) -> Evidence:
    """Evidence from embeddings.

    Args:
        sentence: with C `columns`.
        products: float32 N×C, products of N photos with these columns.
    """
    parts = iter(products.T)
    whole = None if sentence.query is None else next(parts)
    count = len(products)
    terms = [_term_odds(term, None if term.column is None else next(parts), count) for term in sentence.terms]
    return Evidence(terms, whole, count)


def _term_odds(term: Term, product: Floats | None, count: int) -> Floats | None:
    if product is not None:
        return product
    return None if term.tag is None else np.full(count, term.limit, np.float32)


def decoded(odds: Floats, term: Term, places: Ints, scores: AnyFloats) -> Floats:
    """Log-odds of a term in N photos, updated with the tag decoder's results.

    Args:
        odds: float32 N, log-odds from embeddings.
        term: with a tag.
        places: int64 n, the photos with this tag; all others are limited to `term.limit`.
        scores: float n, their scores.
    """
    updated = np.fmin(odds, np.float32(term.limit))
    updated[places] = logits(scores)
    return updated


def logits(scores: AnyFloats) -> AnyFloats:
    """Log-odds of scores in [0, 1], clipped to be finite."""
    some = np.clip(scores, 1e-6, 1 - 1e-6)
    return np.asarray(np.log(some / (1 - some)))


def fused(known: Evidence, fit: SearchFit | None) -> tuple[Floats, Floats]:
    """Log-odds that a sentence fits N photos, and an uncalibrated score to rank photos of equal log-odds.

    Both are float32 N, NaN without any evidence. Without a `fit`, products with the embedding are not
    calibrated and only affect the second.
    """
    terms = [one for one in known.terms if one is not None]
    odds, second = _combined(terms, known, fit)
    if not terms or len(terms) < len(known.terms):
        return odds, second
    least = np.min(terms, axis=0)
    if len(terms) > 1:  # users or the decoder confirm all terms
        odds = np.where(least >= 0, np.fmax(odds, least), odds)
    else:  # users confirm the only term
        odds = np.where(least >= CERTAIN, np.fmax(odds, CERTAIN), odds)
    return odds, second


def _combined(terms: Sequence[Floats], known: Evidence, fit: SearchFit | None) -> tuple[Floats, Floats]:
    """Combine the known terms, float32 N each, with the products of the whole sentence."""
    second, whole = np.zeros(known.count, np.float32), known.whole
    if terms:
        weight = np.float32(0.5 if fit is None else fit.term_weight)
        second = weight * np.sum([-np.logaddexp(0, -one) for one in terms], axis=0)
    if whole is not None:
        # photos without an embedding are ranked by terms alone
        second = second + np.where(np.isnan(whole) & bool(terms), 0, whole)
    if fit is None:
        whole = None
    if not terms or (whole is None and len(terms) < len(known.terms)):  # an unknown term
        return np.minimum(second, UNKNOWN), second
    if whole is None or fit is None:
        return np.min(terms, axis=0), second
    if len(known.terms) == 1:
        return np.fmin(terms[0], np.float32(fit.whole_scale) * whole + np.float32(fit.whole_bias)), second
    return fit.scale * second + np.float32(fit.per_term * len(terms) + fit.bias), second
