"""`anytag.torch.training.calibration`: Platt scaling and thresholds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anytag.torch.training.calibration import GRID, Calibration, fit_calibration, fit_offsets, fit_thresholds

Floats = npt.NDArray[np.float64]


@settings(max_examples=30, deadline=None)
@given(scale=st.floats(0.2, 4), bias=st.floats(-3, 3), seed=st.integers(0, 99))
def test_recovers_scale_and_bias_from_beliefs(scale: float, bias: float, seed: int) -> None:
    logits = np.random.default_rng(seed).normal(0, 2, (40, 5))
    fitted = fit_calibration(logits, Calibration(scale, bias)(logits))
    assert (fitted.scale, fitted.bias) == pytest.approx((scale, bias), abs=1e-4)


def test_recovers_scale_and_bias_from_yes_and_no() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(-2, 2, 20_000)
    truth = (random.random(20_000) < Calibration(0.7, -0.5)(logits)).astype(float)
    fitted = fit_calibration(logits, truth)
    assert (fitted.scale, fitted.bias) == pytest.approx((0.7, -0.5), abs=0.06)


def test_offsets_are_recovered_where_photos_are_many_and_small_where_they_are_few() -> None:
    random, offsets = np.random.default_rng(0), np.array([-1.0, 0.0, 1.5])
    log_odds = random.normal(-1, 1.5, (20_000, 3))
    truth = (random.random(log_odds.shape) < Calibration(1, 0)(log_odds + offsets)).astype(float)
    assert fit_offsets(log_odds, truth) == pytest.approx(offsets, abs=0.1)
    few = fit_offsets(log_odds[:3], np.ones((3, 3)))
    assert (few > 0).all() and (few < 2).all()
    assert np.abs(fit_offsets(log_odds[:3], np.ones((3, 3)), spread=0.01)).max() < 0.01
    assert fit_offsets(log_odds[:0], truth[:0]) == pytest.approx(0)


def test_separable_photos_do_not_overflow() -> None:
    fitted = fit_calibration(np.array([-3.0, -2.0, 2.0, 3.0]), np.array([0.0, 0.0, 1.0, 1.0]))
    assert fitted.scale > 1
    assert fitted(np.array([-1e6, 1e6])) == pytest.approx([0, 1])


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
    assert fit_thresholds(np.full((50, 1), 1.0), np.zeros((50, 1))).tolist() == [0.95]
