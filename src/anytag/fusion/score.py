"""What a sentence's parts say of photos -> the log-odds that the whole fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from anytag._typing import AnyFloats, Floats, Ints
from anytag.fusion.sentences import Sentence, Term
from anytag.models.card import SearchFit

CERTAIN, UNKNOWN = 6.0, -2.0
"""Log-odds from which evidence is not doubted, and which a word that nobody knows leaves at most."""
FITS = 0.5
"""A photo that scores less does not fit a sentence."""


@dataclass(slots=True)
class Evidence:
    """What is known of a sentence in N photos.

    Attributes:
        terms: log-odds of each term, float32 N; None where nobody knows it.
        whole: products with the sentence's vector, float32 N, NaN of photos without a vector; None where the
            sentence has no vector.
        count: N.
    """

    terms: list[Floats | None]
    whole: Floats | None
    count: int


def evidence(sentence: Sentence, said: Floats) -> Evidence:
    """What vectors tell of a sentence.

    Args:
        said: float32 N×C, of N photos, by the sentence's `columns`.
    """
    parts = iter(said.T)
    whole = None if sentence.query is None else next(parts)
    terms = [_seen(term, None if term.column is None else next(parts), len(said)) for term in sentence.terms]
    return Evidence(terms, whole, len(said))


def _seen(term: Term, said: Floats | None, count: int) -> Floats | None:
    if said is not None:
        return said
    return None if term.tag is None else np.full(count, term.limit, np.float32)


def decoded(odds: Floats, term: Term, places: Ints, scores: AnyFloats) -> Floats:
    """Log-odds of a term in N photos, when the decoder was asked which of them have its tag.

    Args:
        odds: float32 N, as vectors alone tell.
        places: int64 n, the photos that got the tag; all others, seen or not, stay below the term's limit.
        scores: n, of these.
    """
    answered = np.fmin(odds, np.float32(term.limit))
    answered[places] = logits(scores)
    return answered


def logits(scores: AnyFloats) -> AnyFloats:
    """Log-odds of scores in [0, 1], never infinite."""
    some = np.clip(scores, 1e-6, 1 - 1e-6)
    return np.asarray(np.log(some / (1 - some)))


def fused(known: Evidence, fit: SearchFit | None) -> tuple[Floats, Floats]:
    """Log-odds that a sentence fits N photos, and the same before what depends on the sentence alone.

    NaN where nothing tells. Without a fit nobody knows what a vector's product means: it orders photos that
    the terms tell the same of, and no more.
    """
    terms = [one for one in known.terms if one is not None]
    odds, second = _combined(terms, known, fit)
    if not terms or len(terms) < len(known.terms):
        return odds, second
    least = np.min(terms, axis=0)
    if len(terms) > 1:  # all that is named is there, by people or the decoder
        odds = np.where(least >= 0, np.fmax(odds, least), odds)
    else:  # people say it, whatever the model thinks
        odds = np.where(least >= CERTAIN, np.fmax(odds, CERTAIN), odds)
    return odds, second


def _combined(terms: Sequence[Floats], known: Evidence, fit: SearchFit | None) -> tuple[Floats, Floats]:
    """By the terms that are known, float32 N each, and what the whole says."""
    second, whole = np.zeros(known.count, np.float32), known.whole
    if terms:
        weight = np.float32(0.5 if fit is None else fit.term_weight)
        second = weight * np.sum([-np.logaddexp(0, -one) for one in terms], axis=0)
    if whole is not None:
        # where a photo has no vector, words alone tell
        second = second + np.where(np.isnan(whole) & bool(terms), 0, whole)
    if fit is None:
        whole = None
    if not terms or (whole is None and len(terms) < len(known.terms)):  # a word that nobody knows
        return np.minimum(second, UNKNOWN), second
    if whole is None or fit is None:
        return np.min(terms, axis=0), second
    if len(known.terms) == 1:
        return np.fmin(terms[0], np.float32(fit.whole_scale) * whole + np.float32(fit.whole_bias)), second
    return fit.scale * second + np.float32(fit.per_term * len(terms) + fit.bias), second
