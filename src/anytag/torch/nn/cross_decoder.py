"""The tag decoder of Tag2Text, RAM and RAM++: each query attends to the image tokens independently."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anytag.torch.nn.bert_layers import CrossLayer, Memory
from anytag.torch.nn.configs import CrossConfig, Queries
from anytag.torch.nn.folded_decoder import TagDecoder, reweight_descriptions


class CrossDecoder(TagDecoder):
    """Tag queries -> layers of cross-attention -> one logit per tag (Tag2Text, section 3.2; RAM++, 3.2).

    There is no self-attention, so tags are independent: a subset, in any order, has the same logits.

    Args:
        config: its dimensions.
        width: D, the width of the image tokens.
        heads: number of heads of the cross-attention.
        queries: content of a row, see `NetworkConfig.queries`.

    Attributes:
        row_width: R, the width of a query row: D for text vectors; 2H + 1 for learned queries (P is 1), which
            hold query, weights and bias.
    """

    def __init__(self, config: CrossConfig, *, width: int, heads: int, queries: Queries) -> None:
        super().__init__()
        self.config, self.width, self.heads, self.queries = config, width, heads, queries
        hidden, learned = config.hidden, queries == "learned"
        self.row_width = 2 * hidden + 1 if learned else width
        self.project = nn.Identity() if learned or width == hidden else nn.Linear(width, hidden)
        self.layers = nn.ModuleList([CrossLayer(hidden, width, config.mlp) for _ in range(config.layers)])
        self.head = None if learned else nn.Linear(hidden, 1)
        if queries == "descriptions":
            self.reweight_scale = nn.Parameter(torch.tensor(1 / 0.07).log())

    def forward(self, tokens: Tensor, pooled: Tensor, rows: Tensor, chunk: int | None = None) -> Tensor:
        """tokens N×T×D, pooled N×D, rows Q×K×P×R (Q is 1 or N) -> logits N×K.

        Args:
            chunk: number of tags decoded at once; None: all. It affects memory, not the result.
        """
        memories = self.project_kv(tokens)
        if chunk is None:
            return self._score(memories, pooled, rows)
        parts = [self._score(memories, pooled, part) for part in torch.split(rows, chunk, dim=1)]
        return torch.cat(parts, 1)

    def localize(self, tokens: Tensor, pooled: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Like `forward`, and the attention weights, averaged over layers and heads: N×K, N×K×T."""
        x, weights = self.embed(pooled, rows), []
        for layer, memory in zip(self._layers(), self.project_kv(tokens), strict=True):
            weights.append(layer.cross.attention_weights(x, memory))
            x = layer(x, memory)
        return self.to_logits(x, rows), torch.stack(weights).mean(0)

    def project_kv(self, tokens: Tensor) -> list[Memory]:
        """Keys and values of every layer, computed once for all tags."""
        return [layer.cross.project_kv(tokens, heads=self.heads) for layer in self._layers()]

    def embed(self, pooled: Tensor, rows: Tensor) -> Tensor:
        """Input of the first layer: rows Q×K×P×R -> M×K×H; M is N if photos reweight descriptions, else Q."""
        if self.queries == "learned":
            return rows[:, :, 0, : self.config.hidden]
        if self.queries == "descriptions":
            texts = reweight_descriptions(pooled, rows, self.reweight_scale)
        else:
            texts = rows.sum(2) / (rows != 0).any(-1).sum(2, keepdim=True).clamp_min(1)
        return F.relu(self.project(texts))

    def decode(self, queries: Tensor, memories: Sequence[Memory]) -> Tensor:
        """Run all layers: queries M×K×H (M is 1 or N) -> N×K×H."""
        for layer, memory in zip(self._layers(), memories, strict=True):
            queries = layer(queries, memory)
        return queries

    def to_logits(self, decoded: Tensor, rows: Tensor) -> Tensor:
        """Decoded queries N×K×H and their rows -> logits N×K."""
        if self.head is not None:
            logits: Tensor = self.head(decoded).squeeze(-1)
            return logits
        weights, bias = rows[:, :, 0, self.config.hidden : -1], rows[:, :, 0, -1]
        return (decoded * weights).sum(-1) + bias

    def _score(self, memories: Sequence[Memory], pooled: Tensor, rows: Tensor) -> Tensor:
        return self.to_logits(self.decode(self.embed(pooled, rows), memories), rows)

    def _layers(self) -> list[CrossLayer]:
        return cast("list[CrossLayer]", list(self.layers))
