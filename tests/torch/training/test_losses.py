"""`anytag.torch.training.losses`: compared with slow loops and the published loss."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from anytag.torch.training.losses import (
    alignment_loss,
    asymmetric_loss,
    caption_labels,
    caption_loss,
    contrast_loss,
    distillation_loss,
    same_texts,
    subject_loss,
)
from tests.golden_cases import Case, cases

ENTRY = st.tuples(st.floats(-12, 12), st.floats(0, 1))


def slow_entry(x: float, y: float, *, gamma_neg: float, gamma_pos: float, clip: float) -> float:
    """The loss of one element, as in the paper."""
    p = 1 / (1 + math.exp(-x))
    m = min(1 - p + clip, 1)
    there = y * math.log(p) * math.pow(1 - p, gamma_pos)
    absent = (1 - y) * math.log(m) * math.pow(1 - m, gamma_neg)
    return -(there + absent)


@settings(max_examples=50, deadline=None)
@given(
    entries=st.lists(ENTRY, min_size=1, max_size=6),
    gamma_neg=st.sampled_from([0.0, 3.0, 7.0]),
    gamma_pos=st.sampled_from([0.0, 1.0]),
    clip=st.sampled_from([0.0, 0.05, 0.2]),
)
def test_asymmetric_loss_is_the_formula_entry_by_entry(
    entries: list[tuple[float, float]], gamma_neg: float, gamma_pos: float, clip: float
) -> None:
    logits, targets = torch.tensor(entries, dtype=torch.float64).unbind(1)
    found = asymmetric_loss(logits, targets, gamma_neg=gamma_neg, gamma_pos=gamma_pos, clip=clip)
    expected = [slow_entry(x, y, gamma_neg=gamma_neg, gamma_pos=gamma_pos, clip=clip) for x, y in entries]
    assert found.tolist() == pytest.approx(expected, rel=1e-6, abs=1e-9)


def published(variant: dict[str, Any], logits: Tensor, targets: Tensor) -> Tensor:
    return asymmetric_loss(
        logits,
        targets,
        gamma_neg=variant["gamma_neg"],
        gamma_pos=variant["gamma_pos"],
        clip=variant["clip"] or 0.0,
        floor=variant["eps"],
        focus_has_gradient=not variant["detach_weight"],
    ).sum()


@pytest.mark.parametrize("case", cases("loss/asymmetric"), ids=str)
def test_golden_loss_and_gradient(case: Case) -> None:
    targets = torch.from_numpy(case.inputs["targets"])
    for number, variant in enumerate(case.config["variants"]):
        logits = torch.from_numpy(case.inputs["logits"]).requires_grad_()
        loss = published(variant, logits, targets)
        case.check(f"loss.{number}", loss.detach())
        case.check(f"grad.{number}", torch.autograd.grad(loss, logits)[0])


def test_focusing_factors_carry_no_gradient() -> None:
    """d/dx of -(1-y) log(m) w is w · p(1-p)/m when the factor w is a constant."""
    logits = torch.tensor([-1.0, 0.3, 2.0], dtype=torch.float64, requires_grad=True)
    loss = asymmetric_loss(logits, torch.zeros(3, dtype=torch.float64), gamma_neg=4.0, clip=0.05).sum()
    (gradient,) = torch.autograd.grad(loss, logits)
    p = logits.detach().sigmoid()
    m = 1 - p + 0.05
    assert torch.allclose(gradient, (1 - m) ** 4 * p * (1 - p) / m)


@pytest.mark.parametrize("target", [0.0, 1.0])
def test_extreme_logits_stay_finite(target: float) -> None:
    logits = torch.tensor([-1000.0, 1000.0], requires_grad=True)
    loss = asymmetric_loss(logits, torch.full((2,), target), gamma_neg=4.0, gamma_pos=1.0).sum()
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.isfinite() and gradient.isfinite().all()


def test_equal_captions_are_not_negatives() -> None:
    """Two photos with the same caption are positives of both its columns, the third is a negative."""
    logits = torch.zeros(3, 3, requires_grad=True)
    same = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    (gradient,) = torch.autograd.grad(alignment_loss(logits, same), logits)
    assert ((gradient < 0) == same).all()


def test_alignment_is_a_mean_over_photos() -> None:
    logits, same = torch.randn(4, 4, generator=torch.Generator().manual_seed(0)), torch.eye(4).bool()
    twice = alignment_loss(logits.repeat(2, 1), same.repeat(2, 1))
    assert torch.allclose(alignment_loss(logits, same), twice)


def test_distillation_of_equal_logits_is_zero() -> None:
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    assert distillation_loss(logits + 3, logits).item() == pytest.approx(0, abs=1e-6)


def test_distillation_is_the_divergence() -> None:
    logits, teacher = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)).double()
    p, q = teacher.softmax(1).tolist(), logits.softmax(1).tolist()
    slow = sum(a * math.log(a / b) for ps, qs in zip(p, q, strict=True) for a, b in zip(ps, qs, strict=True))
    assert distillation_loss(logits, teacher).item() == pytest.approx(slow / 3)


def test_caption_labels_leave_out_padding_and_the_first() -> None:
    ids = torch.tensor([[9, 4, 5, 6, 3, 0], [9, 7, 3, 0, 0, 0]])
    assert caption_labels(ids, skip=2).tolist() == [
        [-100, -100, 5, 6, 3, -100],
        [-100, -100, 3, -100, -100, -100],
    ]


def test_caption_loss_is_the_smoothed_mean_of_what_is_labelled() -> None:
    logits = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0)).double()
    labels = torch.tensor([[-100, 3, 1, -100], [-100, -100, 2, 4]])
    logs = logits.log_softmax(-1).tolist()
    costs = [
        -0.9 * logs[n][place][word] - 0.1 * sum(logs[n][place]) / 5
        for n, place, word in ((0, 0, 3), (0, 1, 1), (1, 1, 2), (1, 2, 4))
    ]
    assert caption_loss(logits, labels).item() == pytest.approx(sum(costs) / 4)


def test_caption_loss_of_nothing_labelled_is_zero() -> None:
    logits = torch.randn(1, 3, 5, requires_grad=True)
    loss = caption_loss(logits, torch.full((1, 3), -100))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss == 0 and not gradient.any()


def test_equal_texts_are_known_in_bfloat16() -> None:
    torch.manual_seed(0)
    texts = F.normalize(torch.randn(40, 512), dim=-1)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(same_texts(texts[:20], texts), torch.eye(40).bool()[:20])
        assert not (texts @ texts.T > 0.999).diagonal().all()  # the result of a plain product


def test_tags_that_are_said_do_not_compete_with_each_other() -> None:
    """A main subject competes with exclusive tags only, not with broader or other labelled tags."""
    logits = torch.tensor([[2.0, 5.0, 1.0, -1.0]])
    present, main = torch.tensor([[True, True, False, False]]), torch.tensor([[True, False, False, False]])
    rivals = torch.tensor([[False, False, True, True]])
    most = math.log(math.exp(1) + math.exp(-1))
    each = [math.log1p(math.exp(most - z)) for z in (2.0, 5.0)]
    expected = (each[0] + 0.3 * each[1]) / 1.3
    assert subject_loss(logits, present, main, rivals).item() == pytest.approx(expected, rel=1e-5)


def test_equal_captions_are_no_contrast() -> None:
    logits = torch.tensor([[3.0, 9.0], [9.0, 3.0]])
    same, alike = torch.eye(2, dtype=torch.bool), torch.ones(2, 2, dtype=torch.bool)
    assert contrast_loss(logits, same).item() == pytest.approx(math.log1p(math.exp(6)), rel=1e-4)
    assert contrast_loss(logits, alike).item() == pytest.approx(0, abs=1e-6)
