"""8-bit quantisation: ranges of activations, scales and rounding of weights."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_PAIR_LIMIT = 128  # largest sum of two neighbouring weights of the same sign: 255 · 128 < 2^15
_LARGEST = 127
_SAMPLES = 1 << 14
_BLOCK = 64  # number of columns, even
_DAMPING = 0.01  # times the mean diagonal: keeps second moments of few photos invertible


class QuantParams(NamedTuple):
    """Scale and zero point of a uint8 tensor: value = (code - zero) · scale."""

    scale: float
    zero: int

    def round(self, values: Tensor) -> Tensor:
        """Float values of any shape -> uint8 codes, saturating."""
        return ((values / self.scale).round() + self.zero).clamp(0, 255).to(torch.uint8)

    def value(self, codes: Tensor) -> Tensor:
        """uint8 codes of any shape -> float32."""
        return (codes.float() - self.zero) * self.scale


def choose_quant_params(values: Tensor, *, starts_at_zero: bool) -> QuantParams:
    """Choose the range with the smallest squared error, among shrunk versions of the full range.

    Args:
        values: of any shape; a sample of them is used.
        starts_at_zero: the range starts at zero, whose code is 0, so that saturation acts as a ReLU.
    """
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    sample = values.flatten()[:: max(1, values.numel() // _SAMPLES)]
    shares = [1 - 0.03 * i for i in range(24)]
    lows = [0.0] if starts_at_zero else [low * share for share in shares[::3]]
    best, least = QuantParams(max(high, 1e-6) / 255, 0), torch.inf
    for bottom in lows:
        for share in shares:
            scale = max(high * share - bottom, 1e-6) / 255
            params = QuantParams(scale, round(-bottom / scale))
            error = float((params.value(params.round(sample)) - sample).square().mean())
            if error < least:
                best, least = params, error
    return best


def weight_scales(weight: Tensor, importance: Tensor, *, paired: bool) -> Tensor:
    """Choose one scale per row with the smallest squared error after rounding.

    Args:
        weight: O×K, K in the order of summation.
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
    """Round weights in units of their scale to integers in [-127, 127], as float32 O×K.

    Args:
        units: O×K.
        paired: limit the sum of neighbours 0 and 1, 2 and 3, ... of the same sign to 128. AVX2 multiplies
            uint8 by int8 and sums two products in 16 bits, which saturates above that.
    """
    whole = units.clamp(-_LARGEST, _LARGEST)
    if not paired:
        return whole.round()
    width = units.shape[1]
    first, second = F.pad(whole, (0, width % 2)).reshape(len(units), -1, 2).unbind(2)
    excess = (first.abs() + second.abs() - _PAIR_LIMIT).clamp_min(0) * (first * second > 0)
    reduction = torch.minimum(excess / 2, torch.minimum(first.abs(), second.abs()))
    first = (first - reduction * first.sign()).round()
    second = _limit_pair(first, second.round())
    return torch.stack([first, second], 2).flatten(1)[:, :width]


def gptq_round(units: Tensor, moments: Tensor) -> Tensor:
    """Like `round_weight` with `paired`, but later columns compensate earlier errors (GPTQ, section 3).

    Args:
        units: O×K.
        moments: K×K, second moments of the inputs.
    """
    width = units.shape[1]
    damped = moments.double() + _DAMPING * moments.diagonal().mean() * torch.eye(width, dtype=torch.float64)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    upper = torch.linalg.cholesky(inverse, upper=True).float()
    rest, whole = units.clone(), torch.zeros_like(units)
    for start in range(0, width, _BLOCK):  # columns after a block are updated once per block
        end = min(start + _BLOCK, width)
        errors = torch.zeros(len(units), end - start)
        for k in range(start, end):
            column = rest[:, k].clamp(-_LARGEST, _LARGEST).round()
            if k % 2:
                column = _limit_pair(whole[:, k - 1], column)
            whole[:, k] = column
            error = (rest[:, k] - column) / upper[k, k]
            rest[:, k + 1 : end] -= error[:, None] * upper[k, k + 1 : end]
            errors[:, k - start] = error
        rest[:, end:] -= errors @ upper[start:end, end:]
    return whole


def _limit_pair(first: Tensor, second: Tensor) -> Tensor:
    """`second`, reduced so that the pair stays within the limit."""
    room = torch.where(first * second > 0, _PAIR_LIMIT - first.abs(), torch.full_like(first, _LARGEST))
    return torch.minimum(second.abs(), room) * second.sign()


def refit(weight: Tensor, moments: Tensor, products: Tensor, *, ridge: float) -> Tensor:
    """Fit weights to the actual inputs by ridge regression towards `weight`.

    Args:
        weight: O×K.
        moments: K×K, second moments of the layer's actual inputs.
        products: O×K, mean of desired output times input.
        ridge: regularisation, in units of the mean diagonal of `moments`.
    """
    damped = moments + ridge * moments.diagonal().mean() * torch.eye(len(moments))
    step: Tensor = torch.linalg.solve(damped, (products - weight @ moments).T)
    return weight + step.T
