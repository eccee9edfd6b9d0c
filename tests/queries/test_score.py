"""`anytag.queries.score`: a rounded decoder gives an exact one's tags, and asks for few exactly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from anytag._typing import Floats, Rows
from anytag.models.card import Fewest
from anytag.queries.score import Question
from anytag.runtime.onnx import OnnxRuntime

NOTHING = np.zeros((1, 1, 2), np.float32), np.zeros((1, 2), np.float32)


class Rounded(OnnxRuntime):
    """A decoder whose queries are the logit that it gives exactly, and the error that it makes otherwise."""

    is_approximate = False

    def __init__(self, *, is_approximate: bool) -> None:
        self.is_approximate, self.exactly = is_approximate, 0

    def score(self, tokens: Floats, pooled: Floats, queries: Rows, *, exact: bool = False) -> Floats:
        logits, errors = queries[:, :, 0, 0], queries[:, :, 0, 1]
        self.exactly += exact * logits.shape[1]
        found: Floats = (logits if exact or not self.is_approximate else logits + errors).astype(np.float32)
        return found


def ask(
    logits: npt.NDArray[np.float64], errors: npt.NDArray[np.float64], threshold: npt.NDArray[np.float64]
) -> Question:
    names = tuple(map(str, range(len(logits))))
    return Question(
        ids=names,
        names=names,
        sources=tuple("vocabulary" for _ in names),
        slope=np.full(len(names), 0.8),
        bias=np.full(len(names), -0.3),
        threshold=threshold,
        queries=np.stack([logits, errors], 1)[:, None].astype(np.float32),
        ancestor_pairs=np.zeros((0, 2), np.int64),
    )


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 1 << 20), largest=st.floats(1e-3, 10), tags=st.integers(1, 1500))
def test_settled_answers_are_the_exact_ones(seed: int, largest: float, tags: int) -> None:
    """Where no error is more than twice as large as another, so that any of them tells the margin."""
    random = np.random.default_rng(seed)
    errors = random.uniform(0.51, 1, tags) * largest * random.choice([-1, 1], tags)
    threshold = random.choice([0.2, 0.5, 0.9, 0, 1], tags, p=[0.3, 0.3, 0.3, 0.05, 0.05])
    question = ask(random.normal(0, 2.5, tags), errors, threshold)
    rounded, exact = (
        question.answer(Rounded(is_approximate=is_approximate), *NOTHING)[0].tags
        for is_approximate in (True, False)
    )
    assert {tag.id for tag in rounded} == {tag.id for tag in exact}


def test_few_tags_are_decoded_exactly() -> None:
    random = np.random.default_rng(0)
    question = ask(random.normal(0, 2.5, 4585), random.normal(0, 0.06, 4585), np.full(4585, 0.99))
    runtime = Rounded(is_approximate=True)
    rounded, exact = (
        question.answer(one, *NOTHING)[0].tags for one in (runtime, Rounded(is_approximate=False))
    )
    assert {tag.id for tag in rounded} == {tag.id for tag in exact}
    assert 0 < runtime.exactly <= 384


def test_what_has_no_threshold_is_not_decoded_again() -> None:
    runtime = Rounded(is_approximate=True)
    ask(np.zeros(5), np.ones(5), np.zeros(5)).answer(runtime, *NOTHING)
    assert runtime.exactly == 0


def test_a_photo_gets_the_fewest_tags() -> None:
    """Those below their thresholds are added to a photo that has too few, but never custom ones."""
    logits, threshold = np.array([2.0, 0.3, 0.0, 0.3]), np.full(4, 0.6)
    question = replace(ask(logits, np.zeros(4), threshold), fewest=Fewest(tags=3, share=0.7), added=1)
    answer = question.answer(Rounded(is_approximate=False), *NOTHING)[0]
    assert [tag.id for tag in answer.tags] == ["0", "1", "2"]
    assert [tag.id for tag in answer.below] == ["3"]
    strict = replace(question, fewest=Fewest(tags=3, share=0.7, max_threshold=0.5))
    assert [tag.id for tag in strict.answer(Rounded(is_approximate=False), *NOTHING)[0].tags] == ["0"]
    few = replace(question, fewest=Fewest(tags=1, share=0.7))
    assert [tag.id for tag in few.answer(Rounded(is_approximate=False), *NOTHING)[0].tags] == ["0"]
