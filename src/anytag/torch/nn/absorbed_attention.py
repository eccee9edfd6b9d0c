"""The cross decoder rearranged for inference on a CPU: the same logits with fewer multiplications.

The query and output projections of an attention are H×H products for every tag. Absorbed into the keys and
values of a photo, which are few, the same products cost heads·T·H instead of H² + T·H per tag, a gain where
heads·T is less than H + T: with 4 heads, H = 768 and 50 tokens it saves a sixth of the whole decoder.
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
    """Keys and values of one layer that have absorbed its query and output projections.

    Attributes:
        keys: N×H×(heads·T); the product of a query with them, plus `bias`, is its attention scores.
        bias: N×1×(heads·T).
        values: N×(heads·T)×H.
    """

    keys: Tensor
    bias: Tensor
    values: Tensor


class FoldedCross(TagDecoder):
    """A `CrossDecoder` rearranged for evaluation; it shares the weights.

    Args:
        decoder: the decoder to rearrange.
        rounding: precision of the MLPs' products, four fifths of the work; all else stays in float32.
    """

    def __init__(self, decoder: CrossDecoder, *, rounding: Rounding | None = None) -> None:
        super().__init__()
        self.decoder = decoder
        self.mlps = [
            layer.mlp if rounding is None else QuantizedMLP(layer.mlp, rounding) for layer in self._layers()
        ]
        self.width, self.row_width = decoder.width, decoder.row_width
        self.embed, self.to_logits = decoder.embed, decoder.to_logits

    def forward(self, tokens: Tensor, pooled: Tensor, rows: Tensor) -> Tensor:
        """tokens N×T×D, pooled N×D, rows Q×K×P×R (Q is 1 or N) -> logits N×K."""
        return self.to_logits(self.decode(self.embed(pooled, rows), self.project_kv(tokens)), rows)

    def localize(self, tokens: Tensor, pooled: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Like `CrossDecoder.localize`: logits N×K, attention weights N×K×T."""
        x, weights = _for_each(tokens, self.embed(pooled, rows)), []
        for number, folded in enumerate(self.project_kv(tokens)):
            weights.append(self._attention_weights(x, folded))
            x = self._layer(number, x, folded)
        logits = self.to_logits(x, rows if self.decoder.head is not None else _for_each(tokens, rows))
        return logits, torch.stack([weight.mean(-2) for weight in weights]).mean(0)

    def project_kv(self, tokens: Tensor) -> list[Folded]:
        """Keys and values of every layer for tokens N×T×D, once for all tags."""
        return [fold(layer.cross, tokens, heads=self.decoder.heads) for layer in self._layers()]

    def decode(self, queries: Tensor, memories: Sequence[Folded]) -> Tensor:
        """Run all layers: queries M×K×H (M is 1 or N) -> N×K×H."""
        for number, folded in enumerate(memories):
            queries = self._layer(number, queries, folded)
        return queries

    def _layer(self, number: int, x: Tensor, folded: Folded) -> Tensor:
        cross = self._layers()[number].cross
        attended = self._attention_weights(x, folded).flatten(-2) @ folded.values + cross.dense.bias
        y: Tensor = self.mlps[number](cross.norm(x + attended))
        return y

    def _attention_weights(self, x: Tensor, folded: Folded) -> Tensor:
        """Attention weights of queries x M×K×H over the tokens, for each head: N×K×heads×T."""
        scores = x @ folded.keys + folded.bias
        return scores.reshape(*scores.shape[:2], self.decoder.heads, -1).softmax(-1)

    def _layers(self) -> list[CrossLayer]:
        return [layer for layer in self.decoder.layers if isinstance(layer, CrossLayer)]


def _for_each(tokens: Tensor, x: Tensor) -> Tensor:
    """Repeat Q×... to N×...: N/Q consecutive photos share each of the Q. No branch on Q = 1, for export."""
    return x.unsqueeze(1).expand(-1, len(tokens) // len(x), *x.shape[1:]).flatten(0, 1)


def fold(attention: Attention, tokens: Tensor, *, heads: int) -> Folded:
    """Keys and values of tokens N×T×D with the query and output projections absorbed."""
    scale = math.sqrt(attention.query.out_features / heads)
    keys = split_heads(attention.key(tokens), heads).transpose(2, 3)  # N×heads×d×T
    values = split_heads(attention.value(tokens), heads)  # N×heads×T×d
    width = attention.query.in_features
    query = attention.query.weight.reshape(heads, -1, width).transpose(1, 2) / scale  # heads×H×d
    bias = attention.query.bias.reshape(heads, 1, -1) / scale  # heads×1×d
    output = attention.dense.weight.T.reshape(heads, -1, width)  # heads×d×H
    return Folded(
        keys=(query @ keys).permute(0, 2, 1, 3).flatten(2),  # N×heads×H×T -> N×H×(heads·T)
        bias=(bias @ keys).permute(0, 2, 1, 3).flatten(2),
        values=(values @ output).flatten(1, 2),
    )
