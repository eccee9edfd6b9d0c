"""Where the steps of 8 bits are put: ranges of tensors, scales and rounding of weights."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_PAIR = 128  # 255 · 128 < 2^15: what two neighbouring weights of one sign may add up to
_LARGEST = 127
_SAMPLES = 1 << 14
_BLOCK = 64  # columns, an even number
_DAMPING = 0.01  # of the mean diagonal: keeps second moments of few photos invertible


class Steps(NamedTuple):
    """A uint8 tensor stands for (code - zero) · scale."""

    scale: float
    zero: int

    def round(self, values: Tensor) -> Tensor:
        """Float values of any shape -> uint8 codes, saturating."""
        return ((values / self.scale).round() + self.zero).clamp(0, 255).to(torch.uint8)

    def value(self, codes: Tensor) -> Tensor:
        """uint8 codes of any shape -> float32."""
        return (codes.float() - self.zero) * self.scale


def tensor_steps(values: Tensor, *, starts_at_zero: bool) -> Steps:
    """The range with the smallest squared error, among shrunk versions of smallest to largest value.

    Args:
        values: of any shape; a sample is looked at.
        starts_at_zero: no value is negative and zero keeps the code 0, so that saturation is a ReLU.
    """
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    sample = values.flatten()[:: max(1, values.numel() // _SAMPLES)]
    shares = [1 - 0.03 * i for i in range(24)]
    lows = [0.0] if starts_at_zero else [low * share for share in shares[::3]]
    best, least = Steps(max(high, 1e-6) / 255, 0), torch.inf
    for bottom in lows:
        for share in shares:
            scale = max(high * share - bottom, 1e-6) / 255
            steps = Steps(scale, round(-bottom / scale))
            error = float((steps.value(steps.round(sample)) - sample).square().mean())
            if error < least:
                best, least = steps, error
    return best


def weight_scales(weight: Tensor, importance: Tensor, *, paired: bool) -> Tensor:
    """One scale per row with the smallest squared error after rounding.

    Args:
        weight: O×K, K in the order in which products are summed.
        importance: K, mean squared inputs.
        paired: see `round_weight`.

    Returns:
        O.
    """
    largest = weight.abs().amax(1).clamp_min(1e-8) / _LARGEST
    least, best = torch.full_like(largest, torch.inf), largest
    for share in torch.linspace(0.7, 1.5, 21).tolist():
        scale = largest * share
        rounded = round_weight(weight / scale[:, None], paired=paired) * scale[:, None]
        error = ((rounded - weight).square() * importance).sum(1)
        best = torch.where(error < least, scale, best)
        least = torch.minimum(error, least)
    return best


def round_weight(units: Tensor, *, paired: bool) -> Tensor:
    """Weights in units of their scale -> whole numbers in [-127, 127], as float32 O×K.

    Args:
        units: O×K.
        paired: neighbours 0 and 1, 2 and 3, ... of one sign add up to at most 128. AVX2 multiplies uint8 by
            int8 and sums two products in 16 bits, which saturates beyond.
    """
    whole = units.clamp(-_LARGEST, _LARGEST)
    if not paired:
        return whole.round()
    width = units.shape[1]
    first, second = F.pad(whole, (0, width % 2)).reshape(len(units), -1, 2).unbind(2)
    over = (first.abs() + second.abs() - _PAIR).clamp_min(0) * (first * second > 0)
    off = torch.minimum(over / 2, torch.minimum(first.abs(), second.abs()))
    first = (first - off * first.sign()).round()
    second = _beside(first, second.round())
    return torch.stack([first, second], 2).flatten(1)[:, :width]


def round_in_turn(units: Tensor, moments: Tensor) -> Tensor:
    """As `round_weight` with pairs, but later columns make up for errors of earlier ones (GPTQ, section 3).

    Args:
        units: O×K.
        moments: K×K, second moments of the inputs.
    """
    width = units.shape[1]
    damped = moments.double() + _DAMPING * moments.diagonal().mean() * torch.eye(width, dtype=torch.float64)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    upper = torch.linalg.cholesky(inverse, upper=True).float()
    rest, whole = units.clone(), torch.zeros_like(units)
    for start in range(0, width, _BLOCK):  # columns after the block wait, to be updated all at once
        end = min(start + _BLOCK, width)
        errors = torch.zeros(len(units), end - start)
        for k in range(start, end):
            column = rest[:, k].clamp(-_LARGEST, _LARGEST).round()
            if k % 2:
                column = _beside(whole[:, k - 1], column)
            whole[:, k] = column
            error = (rest[:, k] - column) / upper[k, k]
            rest[:, k + 1 : end] -= error[:, None] * upper[k, k + 1 : end]
            errors[:, k - start] = error
        rest[:, end:] -= errors @ upper[start:end, end:]
    return whole


def _beside(first: Tensor, second: Tensor) -> Tensor:
    """`second`, made so small that the pair is allowed."""
    room = torch.where(first * second > 0, _PAIR - first.abs(), torch.full_like(first, _LARGEST))
    return torch.minimum(second.abs(), room) * second.sign()


def refit(weight: Tensor, moments: Tensor, products: Tensor, *, ridge: float) -> Tensor:
    """The weights nearest to `weight` that give the wanted outputs for the inputs really there.

    Args:
        weight: O×K.
        moments: K×K, of the inputs that the layer gets now.
        products: O×K, mean of wanted output times input.
        ridge: how much it costs to move, in units of the mean diagonal of `moments`.
    """
    damped = moments + ridge * moments.diagonal().mean() * torch.eye(len(moments))
    step: Tensor = torch.linalg.solve(damped, (products - weight @ moments).T)
    return weight + step.T
