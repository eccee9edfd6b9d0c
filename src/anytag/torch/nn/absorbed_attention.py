"""The cross decoder rearranged for inference on a CPU: the same logits from fewer multiplications.

Queries and outputs of an attention are projected by H×H matrices for every tag. Folded into a photo's keys
and values, which are few, the same products cost heads·T·H instead of H² + T·H a tag, a gain wherever
heads·T is less than H + T: with 4 heads, H = 768 and 50 tokens a sixth of the whole decoder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from anytag.torch.nn.bert_layers import Attention, CrossLayer, split_heads
from anytag.torch.nn.cross_decoder import CrossDecoder
from anytag.torch.nn.folded_decoder import TagDecoder
from anytag.torch.nn.quantized_linear import QuantizedMLP, Rounding


class Folded(NamedTuple):
    """A photo's keys and values for one layer, with the projections of its queries and outputs inside.

    Attributes:
        keys: N×H×(heads·T); a query's product with them, plus `bias`, is its scores.
        bias: N×1×(heads·T).
        values: N×(heads·T)×H.
    """

    keys: Tensor
    bias: Tensor
    values: Tensor


class FoldedCross(TagDecoder):
    """A `CrossDecoder` for evaluation, rearranged; the weights stay its own.

    Args:
        decoder: what to rearrange.
        rounding: of the MLPs' products, four fifths of the work; all else stays in float32.
    """

    def __init__(self, decoder: CrossDecoder, *, rounding: Rounding | None = None) -> None:
        super().__init__()
        self.decoder = decoder
        self.mlps = [
            layer.mlp if rounding is None else QuantizedMLP(layer.mlp, rounding) for layer in self._layers()
        ]
        self.width, self.row_width = decoder.width, decoder.row_width
        self.embed, self.answer = decoder.embed, decoder.answer

    def forward(self, tokens: Tensor, pooled: Tensor, rows: Tensor) -> Tensor:
        """tokens N×T×D, pooled N×D, rows Q×K×P×R (Q is 1 or N) -> logits N×K."""
        return self.answer(self.decode(self.embed(pooled, rows), self.project_kv(tokens)), rows)

    def located(self, tokens: Tensor, pooled: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """As `CrossDecoder.located`: logits N×K, where N×K×T."""
        x, shares = _for_each(tokens, self.embed(pooled, rows)), []
        for number, folded in enumerate(self.project_kv(tokens)):
            shares.append(self._shares(x, folded))
            x = self._layer(number, x, folded)
        logits = self.answer(x, rows if self.decoder.head is not None else _for_each(tokens, rows))
        return logits, torch.stack([share.mean(-2) for share in shares]).mean(0)

    def project_kv(self, tokens: Tensor) -> list[Folded]:
        """Keys and values of every layer for tokens N×T×D, once for all tags."""
        return [fold(layer.cross, tokens, heads=self.decoder.heads) for layer in self._layers()]

    def decode(self, queries: Tensor, memories: Sequence[Folded]) -> Tensor:
        """Queries M×K×H (M is 1 or N) after all layers: N×K×H."""
        for number, folded in enumerate(memories):
            queries = self._layer(number, queries, folded)
        return queries

    def _layer(self, number: int, x: Tensor, folded: Folded) -> Tensor:
        cross = self._layers()[number].cross
        answer = self._shares(x, folded).flatten(-2) @ folded.values + cross.dense.bias
        y: Tensor = self.mlps[number](cross.norm(x + answer))
        return y

    def _shares(self, x: Tensor, folded: Folded) -> Tensor:
        """Attention weights of each x M×K×H over the tokens, by head: N×K×heads×T."""
        scores = x @ folded.keys + folded.bias
        return scores.reshape(*scores.shape[:2], self.decoder.heads, -1).softmax(-1)

    def _layers(self) -> list[CrossLayer]:
        return [layer for layer in self.decoder.layers if isinstance(layer, CrossLayer)]


def _for_each(tokens: Tensor, x: Tensor) -> Tensor:
    """Q×... -> N×...: N/Q photos in a row share each of the Q. Without a branch for Q of 1, for export."""
    return x.unsqueeze(1).expand(-1, len(tokens) // len(x), *x.shape[1:]).flatten(0, 1)


def fold(attention: Attention, tokens: Tensor, *, heads: int) -> Folded:
    """Keys and values of tokens N×T×D, the attention's other projections inside."""
    scale = math.sqrt(attention.query.out_features / heads)
    keys = split_heads(attention.key(tokens), heads).transpose(2, 3)  # N×heads×d×T
    values = split_heads(attention.value(tokens), heads)  # N×heads×T×d
    width = attention.query.in_features
    query = attention.query.weight.reshape(heads, -1, width).transpose(1, 2) / scale  # heads×H×d
    bias = attention.query.bias.reshape(heads, 1, -1) / scale  # heads×1×d
    output = attention.dense.weight.T.reshape(heads, -1, width)  # heads×d×H
    return Folded(
        keys=(query @ keys).permute(0, 2, 1, 3).flatten(2),  # N×heads×H×T, then heads and tokens in one
        bias=(bias @ keys).permute(0, 2, 1, 3).flatten(2),
        values=(values @ output).flatten(1, 2),
    )
