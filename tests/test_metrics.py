"""`anytag.evaluation.metrics`: against slow loops, by hand and as published."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anytag.evaluation.metrics import (
    Counts,
    average_precision,
    calibration_curve,
    counts_at,
    expected_calibration_error,
    interval,
    mean_average_precision,
    micro_average_precision,
    precision_at,
    precision_recall_curve,
    ranks,
    recall_at,
    resampled_average_precision,
    resampled_counts,
    resamples,
    top_k_accuracy,
)
from tests.golden_cases import Case, cases


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


def named(lines: list[str], tags: list[str]) -> npt.NDArray[np.bool_]:
    """N×K of lines "image,tag,tag"."""
    told = [line.split(",")[1:] for line in lines]
    return np.array([[tag in some for tag in tags] for some in told])


@pytest.mark.parametrize("case", cases("metrics/tagging"), ids=str)
def test_golden_metrics(case: Case) -> None:
    scores, tags = case.inputs["scores"], case.given["taglist"]
    present = named(case.given["annotation_lines"], tags)
    mean, count = mean_average_precision(scores, present, at_least=0)
    assert count == len(tags)
    if not case.facts.get("informative_only"):  # the order of ties is not specified
        case.check("APs", average_precision(scores, present))
        case.check("mAP", mean)
    if "Ps" in case.outputs:
        found = Counts.of(named(case.given["prediction_lines"], tags), present)
        case.check("Ps", found.precision)
        case.check("Rs", found.recall)
        case.check("CP", found.macro()["precision"])
        case.check("CR", found.macro()["recall"])


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


def test_calibration_curve_tells_each_bin() -> None:
    score, share, count = calibration_curve(
        np.array([[0.1, 0.3, 0.9]]), np.array([[True, False, True]]), bins=2
    )
    assert (score.tolist(), share.tolist(), count.tolist()) == ([0.2, 0.9], [0.5, 1.0], [2, 1])


def test_micro_average_precision_is_one_ranking() -> None:
    scores = np.array([[0.9, 0.2], [0.8, 0.1]])
    present = np.array([[True, False], [False, True]])
    assert micro_average_precision(scores, present) == pytest.approx((1 + 2 / 4) / 2)


def test_counts_by_hand() -> None:
    given = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0]], dtype=bool)
    present = np.array([[1, 0, 1], [0, 1, 0], [1, 1, 0]], dtype=bool)
    found = Counts.of(given, present)
    assert found.precision.tolist() == [0.5, 1, 0]
    assert found.recall.tolist() == [0.5, 1, 0]
    assert found.f1.tolist() == [0.5, 1, 0]
    assert found.macro() == pytest.approx({"precision": 0.5, "recall": 0.5, "F1": 0.5})
    assert found.micro() == pytest.approx({"precision": 3 / 4, "recall": 3 / 5, "F1": 2 * 3 / 9})


@settings(max_examples=40, deadline=None)
@given(photos=st.integers(1, 20), seed=st.integers(0, 999))
def test_counts_at_thresholds_are_counts_of_what_is_given(photos: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    scores = random.integers(0, 6, (photos, 3)) / 5
    present = random.random((photos, 3)) < 0.4
    thresholds = np.array([0.0, 0.2, 0.5, 0.8, 1.0])
    found = counts_at(scores, present, thresholds)
    for number, threshold in enumerate(thresholds):
        slow = Counts.of(scores >= threshold, present)
        assert found.right[number].tolist() == slow.right.tolist()
        assert found.given[number].tolist() == slow.given.tolist()
        assert found.present[number].tolist() == slow.present.tolist()


def test_precision_recall_curve_by_hand() -> None:
    scores, present = np.array([[0.9, 0.8, 0.7, 0.6]]), np.array([[True, False, True, False]])
    recall, precision = precision_recall_curve(scores, present, points=3)
    assert recall.tolist() == [0, 0.5, 1]
    assert precision == pytest.approx([1, 1, 2 / 3])
    assert precision_recall_curve(scores, ~present & present, points=3)[1].tolist() == [0, 0, 0]


def test_ranks_of_the_best_right_answer() -> None:
    similar = np.array([[0.9, 0.5, 0.1], [0.9, 0.5, 0.1], [0.5, 0.5, 0.1]])
    right = np.array([[1, 0, 1], [0, 0, 1], [1, 0, 0]], dtype=bool)
    found = ranks(similar, right)
    assert found.tolist() == [1, 3, 2]  # a tie counts as worse
    assert recall_at(found, (1, 2, 3)) == pytest.approx({"R@1": 1 / 3, "R@2": 2 / 3, "R@3": 1})


def slow_resampled(
    scores: npt.NDArray[np.float64], present: npt.NDArray[np.bool_], drawn: list[int]
) -> float:
    """AP where a photo stands in the ranking as often as it was drawn."""
    return slow_average_precision(scores[drawn].tolist(), present[drawn].tolist())


def test_resampled_average_precision_is_that_of_the_drawn_photos() -> None:
    random = np.random.default_rng(0)
    scores, present = random.random((9, 2)), random.random((9, 2)) < 0.5
    weights = np.array([[1] * 9, [0, 1, 0, 1, 1, 0, 1, 0, 1]], dtype=np.float32)
    found = resampled_average_precision(scores, present, weights)
    assert found[0] == pytest.approx(average_precision(scores, present))
    drawn = np.flatnonzero(weights[1]).tolist()
    slow = [slow_resampled(scores[:, k], present[:, k], drawn) for k in range(2)]
    assert found[1] == pytest.approx(slow)


def test_a_resample_without_positives_is_no_number() -> None:
    weights = np.array([[0, 2], [1, 1]], dtype=np.float32)
    found = resampled_average_precision(np.array([[0.5], [0.4]]), np.array([[True], [False]]), weights)
    assert np.isnan(found[0, 0]) and found[1, 0] == 1


def test_resampled_counts_are_counts_of_the_drawn_photos() -> None:
    random = np.random.default_rng(1)
    given, present = random.random((6, 4)) < 0.5, random.random((6, 4)) < 0.5
    weights = resamples(6, 3)
    assert weights.sum(1).tolist() == [6, 6, 6]
    found = resampled_counts(given, present, weights)
    for number, drawn in enumerate(np.repeat(np.arange(6), row) for row in weights.astype(int)):
        slow = Counts.of(given[drawn], present[drawn])
        assert found.right[number].tolist() == slow.right.tolist()
        assert found.f1[number] == pytest.approx(slow.f1)


def test_the_interval_is_around_the_value_and_narrows() -> None:
    random = np.random.default_rng(2)
    widths = []
    for photos in (50, 800):
        present = random.random((photos, 3)) < 0.4
        scores = present + random.normal(0, 1, (photos, 3))
        value = mean_average_precision(scores, present)[0]
        low, high = interval(
            value, resampled_average_precision(scores, present, resamples(photos, 200)).mean(1)
        )
        assert low < value < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2
