"""Quantised products with large matrices, for activations that share most of their value.

All tags of a photo attend to the same tokens, so their activations in a decoder differ little: by 0.4 % of
their energy in a network with random weights. Direct rounding would lose that difference. Therefore the mean
over tags is multiplied in float32, as one row, and only the difference from it is rounded.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anytag.torch.nn.bert_layers import MLP

Rounding = Literal["bfloat16", "int8"]
_TINY = 1e-12


class RoundedLinear(nn.Module):
    """A linear layer that rounds only the rows' differences from their mean.

    Args:
        linear: the exact layer, which is applied to the mean.
        kind: "bfloat16", or "int8" with one scale per output channel and per row of the input.
    """

    def __init__(self, linear: nn.Linear, kind: Rounding) -> None:
        super().__init__()
        self.linear, self.kind = linear, kind
        weight = linear.weight.detach()
        if kind == "int8":
            rounded, self.scale = quantized(weight)
            self.weight = rounded.T  # in×out, as `torch._int_mm` expects
        else:
            self.weight = weight.to(torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        """float32 N×K×in -> float32 N×K×out."""
        shared = x.mean(-2, keepdim=True)
        rest = x - shared
        if self.kind == "bfloat16":
            y: Tensor = self.linear(shared) + F.linear(rest.to(torch.bfloat16), self.weight)
            return y
        rounded, scale = quantized(rest.flatten(0, 1))
        product = torch._int_mm(rounded, self.weight) * scale
        return torch.addcmul(self.linear(shared), product.reshape(*x.shape[:2], -1), self.scale.T)


class QuantizedMLP(nn.Module):
    """An MLP with quantised products."""

    def __init__(self, exact: MLP, kind: Rounding) -> None:
        super().__init__()
        self.up, self.down = RoundedLinear(exact.up, kind), RoundedLinear(exact.down, kind)
        self.norm = exact.norm

    def forward(self, x: Tensor) -> Tensor:
        """float32 N×K×H -> float32 N×K×H."""
        y: Tensor = self.norm(x + self.down(F.gelu(self.up(x))))
        return y


def quantized(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric int8 quantisation by row: float32 M×H -> int8 M×H, scales M×1."""
    scale = rows.abs().amax(-1, keepdim=True).clamp_min(_TINY) / 127
    return (rows / scale).round_().to(torch.int8), scale
