"""`anytag.evaluation.metrics`: against slow loops, by hand and as published."""

from __future__ import annotations

import json

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anytag.evaluation.metrics import (
    average_precision,
    expected_calibration_error,
    mean_average_precision,
    precision_at,
    top_k_accuracy,
)
from tests.golden_cases import FOLDER, assert_close, read_case


def slow_average_precision(scores: list[float], present: list[bool]) -> float:
    """Walks down the ranking and notes the precision at each hit."""
    hits, total = 0, 0.0
    ranking = sorted(range(len(scores)), key=lambda photo: -scores[photo])
    for rank, photo in enumerate(ranking, 1):
        if present[photo]:
            hits += 1
            total += hits / rank
    return total / hits if hits else 0.0


@settings(max_examples=60, deadline=None)
@given(photos=st.integers(1, 30), ties=st.booleans(), seed=st.integers(0, 999))
def test_average_precision_is_the_slow_loop(photos: int, ties: bool, seed: int) -> None:
    random = np.random.default_rng(seed)
    scores = random.integers(0, 4, (photos, 3)) / 4 if ties else random.random((photos, 3))
    present = random.random((photos, 3)) < 0.4
    slow = [slow_average_precision(scores[:, k].tolist(), present[:, k].tolist()) for k in range(3)]
    assert average_precision(scores, present) == pytest.approx(slow)


def test_average_precision_by_hand() -> None:
    scores = np.array([[0.9], [0.8], [0.7], [0.6]])
    assert average_precision(scores, np.array([[True], [False], [True], [False]])) == pytest.approx(5 / 6)


def golden_truth(name: str) -> npt.NDArray[np.bool_]:
    """N×K of the case's annotation lines ("image,tag,tag")."""
    strings = json.loads((FOLDER / name / "inputs.json").read_text(encoding="utf-8"))
    told = [line.split(",")[1:] for line in strings["annotation_lines"]]
    return np.array([[tag in tags for tag in strings["taglist"]] for tags in told])


@pytest.mark.parametrize("name", ["metrics_plain", "metrics_duplicates"])
def test_golden_average_precision(name: str) -> None:
    case, inputs, outputs = read_case(name)
    present = golden_truth(name)
    assert_close(case, "APs", ours=average_precision(inputs["scores"], present), stored=outputs["APs"])
    mean, count = mean_average_precision(inputs["scores"], present, at_least=0)
    assert_close(case, "mAP", ours=mean, stored=outputs["mAP"])
    assert count == present.shape[1]


def test_mean_average_precision_counts_tags_with_enough_positives() -> None:
    scores = np.array([[0.9, 0.1, 0.5], [0.8, 0.9, 0.5], [0.1, 0.8, 0.5]])
    present = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0]], dtype=bool)
    assert mean_average_precision(scores, present, at_least=2) == (1.0, 1)
    mean, count = mean_average_precision(scores, present)
    assert (mean, count) == pytest.approx(((1 + 1 / 3) / 2, 2))


def test_precision_at() -> None:
    scores = np.array([[0.9, 0.5, 0.1], [0.2, 0.1, 0.7]])
    present = np.array([[True, False, True], [False, False, True]])
    assert precision_at(scores, present, 1) == 1.0
    assert precision_at(scores, present, 2) == 0.5
    assert precision_at(scores, present, 3) == 0.5


def test_top_k_accuracy() -> None:
    scores = np.array([[0.9, 0.5, 0.1], [0.2, 0.1, 0.7]])
    answer = np.array([1, 2])
    assert [top_k_accuracy(scores, answer, k) for k in (1, 2, 3)] == [0.5, 1.0, 1.0]


def test_equal_scores_are_no_answer() -> None:
    assert top_k_accuracy(np.zeros((4, 3)), np.arange(4) % 3, 1) == 0.0


def test_calibration_error() -> None:
    scores = np.array([[0.9, 0.9, 0.9, 0.9, 0.1]])
    right = np.array([[True, True, True, False, False]])
    assert expected_calibration_error(scores, right) == pytest.approx((4 * 0.15 + 0.1) / 5)
    assert expected_calibration_error(np.array([[0.0, 1.0]]), np.array([[False, True]])) == 0.0
