"""`anytag.calibration.fit`: Platt scaling, offsets, thresholds; and the thresholds of `mini`'s release."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anytag.calibration.fit import (
    Goal,
    best_f1_thresholds,
    broader_pairs,
    fit_common_threshold,
    fit_line,
    fit_lines,
    fit_offsets,
    fit_tags,
    probabilities,
)
from anytag.errors import AnytagError
from anytag.scoring import sigmoid
from scripts.release_mini import GRID, fit_thresholds

Floats = npt.NDArray[np.float64]


@settings(max_examples=30, deadline=None)
@given(scale=st.floats(0.2, 4), bias=st.floats(-3, 3), seed=st.integers(0, 99))
def test_recovers_scale_and_bias_from_beliefs(scale: float, bias: float, seed: int) -> None:
    logits = np.random.default_rng(seed).normal(0, 2, (40, 5))
    fitted = fit_line(logits, sigmoid(scale * logits + bias))
    assert (fitted.scale, fitted.bias) == pytest.approx((scale, bias), abs=1e-4)


def test_recovers_scale_and_bias_from_yes_and_no() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(-2, 2, 20_000)
    truth = (random.random(20_000) < sigmoid(0.7 * logits - 0.5)).astype(float)
    fitted = fit_line(logits, truth)
    assert (fitted.scale, fitted.bias) == pytest.approx((0.7, -0.5), abs=0.06)


def test_offsets_are_recovered_where_photos_are_many_and_small_where_they_are_few() -> None:
    random, offsets = np.random.default_rng(0), np.array([-1.0, 0.0, 1.5])
    log_odds = random.normal(-1, 1.5, (20_000, 3))
    truth = (random.random(log_odds.shape) < sigmoid(log_odds + offsets)).astype(float)
    assert fit_offsets(log_odds, truth) == pytest.approx(offsets, abs=0.1)
    few = fit_offsets(log_odds[:3], np.ones((3, 3)))
    assert (few > 0).all() and (few < 2).all()
    assert np.abs(fit_offsets(log_odds[:3], np.ones((3, 3)), spread=0.01)).max() < 0.01
    assert fit_offsets(log_odds[:0], truth[:0]) == pytest.approx(0)


def test_separable_photos_do_not_overflow() -> None:
    fitted = fit_line(np.array([-3.0, -2.0, 2.0, 3.0]), np.array([0.0, 0.0, 1.0, 1.0]))
    assert fitted.scale > 1
    assert sigmoid(fitted.scale * np.array([-1e6, 1e6]) + fitted.bias) == pytest.approx([0, 1])


def slow_threshold(p: Floats, y: Floats, *, precision: float, prior: float, default: float) -> float:
    """Threshold after threshold, photo after photo."""
    last = default
    for threshold in GRID.tolist():
        given = [(s, t) for s, t in zip(p.tolist(), y.tolist(), strict=True) if s >= threshold]
        if not given:
            break
        last = threshold
        promised = sum(s for s, _ in given) / len(given)
        if (sum(t for _, t in given) + prior * promised) / (len(given) + prior) >= precision:
            break
    return last


@settings(max_examples=60, deadline=None)
@given(
    photos=st.integers(1, 40),
    sharp=st.floats(0.5, 4),
    precision=st.sampled_from([0.5, 0.65, 0.9]),
    prior=st.sampled_from([0.0, 4.0]),
    seed=st.integers(0, 999),
)
def test_lowest_threshold_whose_estimated_precision_suffices(
    photos: int, sharp: float, precision: float, prior: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    scores = random.random((photos, 3)) ** sharp
    truth = (random.random((photos, 3)) < scores).astype(float)
    found = fit_thresholds(scores, truth, precision=precision, prior=prior)
    columns = zip(scores.T, truth.T, strict=True)
    slow = [slow_threshold(p, y, precision=precision, prior=prior, default=0.5) for p, y in columns]
    assert found.tolist() == pytest.approx(slow)


def test_counted_precision_is_reached_with_enough_photos() -> None:
    random = np.random.default_rng(0)
    scores = random.random((5_000, 4))
    truth = random.random((5_000, 4)) < scores**2  # too sure of themselves
    thresholds = fit_thresholds(scores, truth.astype(float), precision=0.65)
    given = scores >= thresholds
    assert ((given & truth).sum(0) / given.sum(0) >= 0.645).all()
    assert (thresholds > 0.55).all()


def test_a_tag_that_never_scores_has_the_default() -> None:
    assert fit_thresholds(np.full((5, 1), 0.1), np.zeros((5, 1)), default=0.4).tolist() == [0.4]


def test_a_tag_that_is_always_wrong_has_the_highest_that_gives_it() -> None:
    assert fit_thresholds(np.full((50, 1), 0.455), np.zeros((50, 1))).tolist() == [0.45]
    assert fit_thresholds(np.full((50, 1), 1.0), np.zeros((50, 1))).tolist() == [0.99]


def test_goals() -> None:
    assert Goal.parse("f1") == Goal() and Goal.parse("precision=0.8") == Goal(0.8)
    for wrong in ("precision", "precision=2", "f2", "precision=x"):
        with pytest.raises(AnytagError, match="is unknown"):
            Goal.parse(wrong)


def test_best_f1_between_what_is_there_and_what_is_not() -> None:
    scores = np.array([[0.9, 0.4], [0.8, 0.3], [0.2, 0.1], [0.1, 0.05]])
    truth = np.array([[1, 1], [1, 1], [0, 0], [0, 0]])
    thresholds = best_f1_thresholds(scores, truth, prior=0)
    assert 0.2 < thresholds[0] <= 0.8 and 0.1 < thresholds[1] <= 0.3


def test_a_tag_that_is_nowhere_keeps_the_default() -> None:
    assert best_f1_thresholds(np.zeros((3, 1)), np.zeros((3, 1))).tolist() == [0.5]


@pytest.mark.parametrize("precision", [0.3, 0.5, 0.8, 1.0])
def test_the_common_threshold_is_the_lowest_that_is_precise_enough(precision: float) -> None:
    random = np.random.default_rng(5)
    scores = random.random((60, 4)) ** 2
    truth = (random.random(scores.shape) < scores).astype(float)
    right = [
        threshold
        for threshold in np.round(np.arange(0.01, 0.995, 0.01), 2).tolist()
        if (given := scores >= threshold).any() and truth[given].mean() >= precision
    ]
    assert fit_common_threshold(scores, truth, precision=precision) == pytest.approx(right[0])


def test_a_precision_that_no_threshold_has() -> None:
    assert fit_common_threshold(np.full((4, 2), 0.3), np.zeros((4, 2)), precision=0.5) == 0.01
    assert fit_common_threshold(np.zeros((3, 1)), np.zeros((3, 1)), precision=0.5) == 0.5


def test_no_order_is_turned_round_and_no_line_is_flat() -> None:
    logits = np.array([[2.0], [1.0], [-1.0], [-2.0]])
    lines = fit_lines(logits, np.array([[0.0], [0.0], [1.0], [1.0]]))
    assert (lines[:, 0] > 0).all()


def test_a_broader_tag_scores_no_less_than_what_it_includes() -> None:
    below = broader_pairs([(1, 2), (2,), ()])
    assert below.tolist() == [[0, 1], [0, 2], [1, 2]]
    lines = np.tile([1.0, 0.0], (3, 1))
    scores = probabilities(np.array([[3.0, -3.0, 0.0]]), lines, below)
    assert scores[0] == pytest.approx([0.9526, 0.9526, 0.9526], abs=1e-4)


def test_two_photos_are_enough_to_be_fitted() -> None:
    for goal in (Goal(), Goal(0.8)):
        lines, thresholds = fit_tags(np.array([[1.0], [-1.0]]), np.array([[1.0], [0.0]]), goal)
        assert np.isfinite(lines).all() and 0 < thresholds[0] < 1


def test_groups_of_tags_have_slopes_of_their_own() -> None:
    random = np.random.default_rng(0)
    odds = random.normal(-1, 2, (4000, 4))
    truth = (random.random(odds.shape) < sigmoid(odds)).astype(float)
    groups = np.array([True, False, True, False])
    lines = fit_lines(np.where(groups, odds, 5 * odds), truth, groups)
    assert lines[:, 0] == pytest.approx([1, 0.2, 1, 0.2], rel=0.1)
