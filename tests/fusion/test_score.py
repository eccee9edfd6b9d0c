"""Evidence of a sentence's parts, fused: against slow readings of the card's formula."""

from __future__ import annotations

import math

import numpy as np
import pytest

from anytag.fusion.score import CERTAIN, UNKNOWN, Evidence, decoded, evidence, fused
from anytag.fusion.sentences import Sentence, Term
from anytag.models.card import SearchFit

FIT = SearchFit(
    1.49, -3.11, 1.86, -9.9, scale=0.61, per_term=0.94, bias=-2.71, whole_scale=1.42, whole_bias=-6.0
)
NAN = float("nan")
COLUMN = np.ones(3, np.float32)
TAG = Term(("dog",), "dog", -0.1, COLUMN)
WORD = Term(("Anna",))


def row(*numbers: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.array(numbers, np.float32)


def test_vectors_alone_order_photos_above_the_limit_of_a_tag() -> None:
    """A shortlist is chosen by these: photos that the decoder has not seen must not tie."""
    said = np.stack([row(9, 9, 9), row(1, 3, 2)], axis=1)
    known = evidence(Sentence((TAG, WORD), row(1, 2)), said)
    assert known.whole is not None and known.whole.tolist() == [9, 9, 9]
    assert known.terms[0] is not None and known.terms[0].tolist() == [1, 3, 2] and known.terms[1] is None


def test_what_did_not_get_its_tag_stays_below_the_limit() -> None:
    answered = decoded(row(1, -5, 3, NAN), TAG, np.array([2]), np.array([0.9]))
    assert answered.tolist() == pytest.approx([-0.1, -5, math.log(9), -0.1])


@pytest.mark.parametrize("terms", [1, 2, 3])
def test_the_formula_of_the_card(terms: int) -> None:
    random = np.random.default_rng(terms)
    parts, whole = random.normal(-2, 3, (terms, 50)).astype(np.float32), random.normal(3, 3, 50)
    odds, _ = fused(Evidence(list(parts), whole.astype(np.float32), 50), FIT)
    for photo in range(50):
        least = min(parts[:, photo])
        if terms == 1:
            slow = min(least, FIT.whole_scale * whole[photo] + FIT.whole_bias)
            slow = max(slow, CERTAIN) if least >= CERTAIN else slow
        else:
            logs = sum(-math.log1p(math.exp(-odd)) for odd in parts[:, photo])
            slow = FIT.scale * (whole[photo] + FIT.term_weight * logs) + FIT.per_term * terms + FIT.bias
            slow = max(slow, least) if least >= 0 else slow
        assert odds[photo] == pytest.approx(slow, abs=1e-4)


def test_without_fitted_numbers_terms_decide_and_products_order() -> None:
    odds, second = fused(Evidence([row(2, -1), row(1, 3)], row(-5, 4), 2), None)
    assert odds.tolist() == [1, -1] and second[1] > second[0]
    odds, second = fused(Evidence([None], row(9, 11), 2), None)
    assert odds.tolist() == [UNKNOWN, UNKNOWN] and second.tolist() == [9, 11]


def test_words_that_nobody_knows_fit_nothing() -> None:
    odds, second = fused(Evidence([None, None], row(8, 1), 2), FIT)
    assert odds.tolist() == [UNKNOWN, UNKNOWN] and second.tolist() == [8, 1]
    odds, _ = fused(Evidence([None, row(7)], None, 1), FIT)
    assert odds[0] == pytest.approx(UNKNOWN), "nor beside one that is surely there, where no vector tells"


def test_without_a_vector_terms_alone_tell() -> None:
    odds, _ = fused(Evidence([row(3, -4), row(2, 6)], None, 2), FIT)
    assert odds.tolist() == [2, -4]
    odds, _ = fused(Evidence([row(1)], row(NAN), 1), FIT)
    assert odds.tolist() == [1]
