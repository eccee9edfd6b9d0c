"""Quantised products with large matrices, for activations that share most of their value.

All tags of a photo look at the same tokens, so that inside of a decoder they differ little: by 0.4 % of the
power, in a network of random weights. Rounded as they are, that difference drowns. So what all share is
multiplied in float32, as one row, and only each tag's rest is rounded.
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
    """A linear layer of which only what the rows do not share is rounded.

    Args:
        linear: the exact layer, which stays in use for what is shared.
        kind: "bfloat16", or "int8": a scale for each column of the weights and for each row of the input.
    """

    def __init__(self, linear: nn.Linear, kind: Rounding) -> None:
        super().__init__()
        self.linear, self.kind = linear, kind
        weight = linear.weight.detach()
        if kind == "int8":
            rounded, self.scale = quantized(weight)
            self.weight = rounded.T  # in×out, as `torch._int_mm` takes it
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
    """A MLP with rounded products."""

    def __init__(self, exact: MLP, kind: Rounding) -> None:
        super().__init__()
        self.up, self.down = RoundedLinear(exact.up, kind), RoundedLinear(exact.down, kind)
        self.norm = exact.norm

    def forward(self, x: Tensor) -> Tensor:
        """float32 N×K×H -> float32 N×K×H."""
        y: Tensor = self.norm(x + self.down(F.gelu(self.up(x))))
        return y


def quantized(rows: Tensor) -> tuple[Tensor, Tensor]:
    """float32 M×H -> int8 M×H, and the rows' scales M×1."""
    scale = rows.abs().amax(-1, keepdim=True).clamp_min(_TINY) / 127
    return (rows / scale).round_().to(torch.int8), scale
