"""`anytag.evaluation.metrics`: against slow loops, by hand and as published."""

from __future__ import annotations

from itertools import pairwise, permutations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from anytag.evaluation import metrics
from anytag.evaluation.metrics import (
    Counts,
    Reliability,
    average_precision,
    best_f1,
    calibration_curve,
    counts_at,
    expected_calibration_error,
    interval,
    mean_average_precision,
    micro_average_precision,
    precision_at,
    precision_recall_curve,
    precisions_at,
    ranks,
    recall_at,
    resampled_average_precision,
    resampled_counts,
    resamples,
    top_k_accuracy,
    wilson,
)
from tests.golden_cases import Case, cases


def slow_average_precision(scores: list[float], present: list[bool]) -> float:
    """At each hit, the precision among all photos with at least its score."""
    precisions = []
    for score, there in zip(scores, present, strict=True):
        if there:
            above = [present[n] for n in range(len(scores)) if scores[n] >= score]
            precisions.append(sum(above) / len(above))
    return sum(precisions) / len(precisions) if precisions else 0.0


@settings(max_examples=60, deadline=None)
@given(photos=st.integers(1, 30), ties=st.booleans(), seed=st.integers(0, 999))
def test_average_precision_is_the_slow_loop(photos: int, ties: bool, seed: int) -> None:
    random = np.random.default_rng(seed)
    scores = random.integers(0, 4, (photos, 3)) / 4 if ties else random.random((photos, 3))
    present = random.random((photos, 3)) < 0.4
    slow = [slow_average_precision(scores[:, k].tolist(), present[:, k].tolist()) for k in range(3)]
    assert average_precision(scores, present) == pytest.approx(slow)


@settings(max_examples=40, deadline=None)
@given(photos=st.integers(2, 20), tags=st.integers(1, 6), k=st.integers(1, 7), seed=st.integers(0, 999))
def test_no_ranking_depends_on_the_order_of_photos_or_tags(photos: int, tags: int, k: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    scores = random.integers(0, 4, (photos, tags)) / 4  # many are equal
    present = random.random((photos, tags)) < 0.4
    rows, columns = random.permutation(photos), random.permutation(tags)
    other, there = scores[rows][:, columns], present[rows][:, columns]
    assert average_precision(other, there) == pytest.approx(average_precision(scores, present)[columns])
    assert precision_at(other, there, k) == pytest.approx(precision_at(scores, present, k))
    assert best_f1(other, there) == pytest.approx(best_f1(scores, present))
    curves = [precision_recall_curve(*pair)[1] for pair in ((scores, present), (other, there))]
    assert curves[0] == pytest.approx(curves[1])
    weights = resamples(photos, 5)
    resampled = resampled_average_precision(scores, present, weights)[:, columns]
    found = resampled_average_precision(other, there, weights[:, rows])
    np.testing.assert_allclose(found, resampled, rtol=1e-5)


def test_a_constant_score_ranks_nothing() -> None:
    scores, present = np.zeros((10, 1)), np.arange(10)[:, None] < 3  # the positives come first in the file
    assert average_precision(scores, present).tolist() == [0.3]
    assert precision_at(scores.T, present.T, 2) == pytest.approx(0.3)


def test_scores_that_are_no_numbers_are_no_answers() -> None:
    scores = np.full((2, 3), np.nan)
    assert top_k_accuracy(scores, np.array([0, 1]), 1) == 0
    assert ranks(scores, np.eye(2, 3, dtype=bool)).tolist() == [3, 3]
    assert np.isnan(precisions_at(scores, np.ones((2, 3), bool), 1)).all()


def slow_precision_at(scores: list[float], present: list[bool], k: int) -> float:
    """The mean over all ways to order what is equal."""
    answers = [n for n in range(len(scores)) if np.isfinite(scores[n])]
    if not answers:
        return float("nan")
    shares = []
    for order in permutations(answers):
        if all(scores[a] >= scores[b] for a, b in pairwise(order)):
            best = order[:k]
            shares.append(sum(present[n] for n in best) / len(best))
    return sum(shares) / len(shares)


@settings(max_examples=40, deadline=None)
@given(tags=st.integers(1, 5), k=st.integers(1, 6), seed=st.integers(0, 999))
def test_precision_at_is_the_slow_loop(tags: int, k: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    scores = random.integers(-1, 3, (3, tags)).astype(float)
    scores[scores < 0] = -np.inf  # not asked
    present = (random.random((3, tags)) < 0.5) & np.isfinite(scores)
    slow = [slow_precision_at(scores[n].tolist(), present[n].tolist(), k) for n in range(3)]
    assert precisions_at(scores, present, k) == pytest.approx(slow, nan_ok=True)


@settings(max_examples=40, deadline=None)
@given(photos=st.integers(1, 12), ties=st.booleans(), seed=st.integers(0, 999))
def test_best_f1_is_that_of_the_best_threshold(photos: int, ties: bool, seed: int) -> None:
    random = np.random.default_rng(seed)
    scores = random.integers(0, 4, (photos, 3)) / 4 if ties else random.random((photos, 3))
    present = random.random((photos, 3)) < 0.4
    found = [Counts.of(scores >= threshold, present).micro()["F1"] for threshold in np.unique(scores)]
    assert best_f1(scores, present) == pytest.approx(max(map(float, found)))


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


def test_shares_of_nothing_are_no_numbers() -> None:
    nothing = np.zeros((3, 2), dtype=bool)
    found = Counts.of(nothing, nothing).micro()
    assert all(np.isnan(value) for value in found.values())
    some = Counts.of(nothing, ~nothing).micro()
    assert np.isnan(some["precision"]) and [float(some[key]) for key in ("recall", "F1")] == [0, 0]


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


def slow_calibration_error(scores: list[float], right: list[bool], bins: int) -> float:
    """The mean over all entries of the distance that their bin has."""
    total = 0.0
    for number in range(bins):
        inside = [n for n, score in enumerate(scores) if min(int(score * bins + 1e-5), bins - 1) == number]
        if inside:
            mean = sum(scores[n] for n in inside) / len(inside)
            share = sum(right[n] for n in inside) / len(inside)
            total += len(inside) * abs(mean - share)
    return total / len(scores)


@settings(max_examples=40, deadline=None)
@given(photos=st.integers(1, 15), bins=st.integers(1, 20), seed=st.integers(0, 999))
def test_reliability_is_the_slow_loop(photos: int, bins: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    scores, present = random.random((photos, 3)).round(2), random.random((photos, 3)) < 0.5
    chosen = scores >= 0.4
    chosen[0] = True
    found = Reliability.of(scores, present, chosen, bins=bins)
    assert found.pairs.shape == (photos, bins)
    slow = slow_calibration_error(scores[chosen].tolist(), present[chosen].tolist(), bins)
    assert float(found.total().error()) == pytest.approx(slow)
    assert float(found.total().mean_score()) == pytest.approx(scores[chosen].mean())
    for row, error in zip(resamples(photos, 3), found.resampled(resamples(photos, 3)).error(), strict=True):
        drawn = np.repeat(np.arange(photos), row.astype(int))
        some = Reliability.of(scores[drawn], present[drawn], chosen[drawn], bins=bins).total().error()
        assert error == pytest.approx(float(some), nan_ok=True)


def test_memory_is_bounded_by_work_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(3)
    scores, present = random.random((9, 7)), random.random((9, 7)) < 0.5
    whole = average_precision(scores, present), Reliability.of(scores, present)
    monkeypatch.setattr(metrics, "_ENTRIES", 20)
    assert average_precision(scores, present).tolist() == whole[0].tolist()
    parts = Reliability.of(scores, present)
    np.testing.assert_array_equal(parts.pairs, whole[1].pairs)
    np.testing.assert_array_equal(parts.score, whole[1].score)
    assert average_precision(np.zeros((3, 0)), np.zeros((3, 0), bool)).tolist() == []


def test_what_scores_near_zero_hides_the_error_of_what_is_given() -> None:
    scores, present = np.zeros((100, 100)), np.zeros((100, 100), bool)
    scores[:, 0] = 0.9  # given to every photo, and right for half of them
    present[::2, 0] = True
    assert expected_calibration_error(scores, present) == pytest.approx(0.004)
    given = Reliability.of(scores, present, scores >= 0.5).total()
    assert float(given.error()) == pytest.approx(0.4)
    assert np.isnan(Reliability.of(scores, present, scores > 1).total().error())


def test_wilson_by_hand() -> None:
    assert wilson(8, 10) == pytest.approx((0.4901625, 0.9433178))  # Brown, Cai and DasGupta 2001
    assert wilson(0, 0) == (0, 1)
    assert wilson(0, 5)[0] == 0 and 0.43 < wilson(0, 5)[1] < 0.44
    assert wilson(5, 5)[1] == 1


@given(total=st.integers(1, 1000), share=st.floats(0, 1))
def test_wilson_holds_the_share_within_0_and_1(total: int, share: float) -> None:
    right = round(share * total)
    low, high = wilson(right, total)
    assert 0 <= low <= right / total <= high <= 1
    assert high - low < 1


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
        assert found.predicted[number].tolist() == slow.predicted.tolist()
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


@settings(max_examples=100, deadline=None)
@given(
    value=st.floats(0, 1),
    resampled=st.lists(st.floats(0, 1), min_size=1, max_size=30),
    scale=st.sampled_from([1, 100]),
)
@example(value=0.171875, resampled=[5e-324], scale=100)
def test_an_interval_holds_its_value_and_is_within_bounds(
    value: float, resampled: list[float], scale: int
) -> None:
    drawn = scale * np.array([*resampled, np.nan])
    low, high = interval(scale * value, drawn, within=(0, scale))
    assert 0 <= low <= scale * value * (1 + 1e-9) + 1e-9
    assert scale * value <= high + 1e-9 * scale
    assert high <= scale * (1 + 1e-9)


def test_an_interval_is_the_percentiles_where_the_median_is_the_value() -> None:
    drawn = np.linspace(0.4, 0.8, 401)
    assert interval(0.6, drawn) == pytest.approx((0.41, 0.79))
    assert interval(0.9, drawn)[1] <= 1
    assert interval(-0.1, drawn - 0.7, within=(-1, 1)) == pytest.approx((-0.29, 0.09))
