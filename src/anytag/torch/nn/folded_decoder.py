"""Queries look at image tokens: description weighting (RAM++, section 3.3) and the folded tag decoder."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def weigh_descriptions(pooled: Tensor, rows: Tensor, scale: Tensor) -> Tensor:
    """One query per tag: its descriptions, soft-weighted by the image (RAM++, section 3.3).

    Args:
        pooled: N×D, the mean image token.
        rows: Q×K×P×D, Q is 1 or N; a row of zeros is padding and gets no weight.
        scale: logarithm of the softmax's temperature factor, a scalar.

    Returns:
        N×K×D.
    """
    q, k, p, d = rows.shape
    image = pooled / pooled.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    # G photos share each of the Q sets of rows: no branch for Q of 1 and nothing of size N×K×P×D.
    similarity = rows.flatten(1, 2) @ image.reshape(q, -1, d).transpose(1, 2)  # Q×KP×G
    # Without another pass over all rows: only a row of zeros begins with 0 and has a product of 0.
    padding = (similarity == 0) & (rows.flatten(1, 2)[..., :1] == 0)
    sharp = (scale.exp() * similarity).masked_fill(padding, -1e4).reshape(q, k, p, -1)
    queries: Tensor = sharp.softmax(2).transpose(2, 3) @ rows  # Q×K×G×D
    return queries.transpose(1, 2).flatten(0, 1)


class TagDecoder(nn.Module):
    """Queries look at image tokens and answer with a logit each.

    Attributes:
        width: D, of the image tokens.
        row_width: R, of a row of the queries.
    """

    width: int
    row_width: int

    def forward(self, tokens: Tensor, pooled: Tensor, rows: Tensor) -> Tensor:
        """tokens N×T×D, pooled N×D, rows Q×K×P×R (Q is 1 or N) -> logits N×K."""
        raise NotImplementedError

    def located(self, tokens: Tensor, pooled: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """As `forward`, and how much each token counts for each logit: logits N×K, where N×K×T."""
        raise NotImplementedError


class FoldedDecoder(TagDecoder):
    """Cross-attention whose values answer the query directly, without output projection and MLP.

    For tag k and head h the token weights are softmax_t(q_kh · (W x_t)_h / sqrt(D/H)), and the logit is
    sum_h sum_t weight · (q_kh · x_th) + w · q_k + b, plus q_k times what the pooled vector holds beyond the
    mean token. With W = 0 it is a linear classifier on the pooled vector: the first pass (`coarse`) computes
    just that, from the same queries.

    Args:
        width: D, of tokens and queries.
        heads: H.
    """

    def __init__(self, width: int, *, heads: int) -> None:
        super().__init__()
        self.width, self.heads, self.row_width = width, heads, width
        self.key = nn.Linear(width, width)
        self.bias = nn.Linear(width, 1)
        self.reweight_scale = nn.Parameter(torch.tensor(0.0))
        nn.init.normal_(self.key.weight, std=1e-3)
        nn.init.zeros_(self.key.bias)
        nn.init.normal_(self.bias.weight, std=1e-3)
        nn.init.constant_(self.bias.bias, -4.0)  # most tags are absent

    def forward(self, tokens: Tensor, pooled: Tensor, rows: Tensor) -> Tensor:
        """tokens N×T×D, pooled N×D, rows Q×K×P×D (Q is 1 or N) -> logits N×K."""
        return self.located(tokens, pooled, rows)[0]

    def located(self, tokens: Tensor, pooled: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """As `forward`, and what each token adds to each logit: logits N×K, where N×K×T."""
        queries = weigh_descriptions(pooled, rows, self.reweight_scale)  # N×K×D
        where = self.evidence(tokens, queries)
        beyond = pooled - tokens.mean(1)  # what the whole photo says and no token does
        offset: Tensor = self.bias(queries).squeeze(-1) + (queries @ beyond[:, :, None]).squeeze(-1)
        return where.sum(-1) + offset, where

    def attend(self, tokens: Tensor, queries: Tensor) -> Tensor:
        """tokens N×T×D, queries N×K×D -> N×K."""
        return self.evidence(tokens, queries).sum(-1)

    def evidence(self, tokens: Tensor, queries: Tensor) -> Tensor:
        """What each token adds to each logit: attention times answer. tokens N×T×D, queries N×K×D -> N×K×T.

        The attention alone says little of where a tag is: at most tokens it is nearly even.
        """
        values = self._split(tokens)  # N×H×T×d
        keys = self._split(self.key(tokens))
        heads_of_queries = self._split(queries)  # N×H×K×d
        weights = (heads_of_queries @ keys.transpose(-1, -2) / math.sqrt(self.width / self.heads)).softmax(
            -1
        )  # N×H×K×T
        answers = heads_of_queries @ values.transpose(-1, -2)
        return (weights * answers).sum(1)

    def coarse(self, pooled: Tensor, rows: Tensor) -> Tensor:
        """The first pass: even weights over descriptions and tokens. pooled N×D, rows K×P×D -> N×K."""
        present = (rows != 0).any(-1, keepdim=True)
        mean = rows.sum(1) / present.sum(1).clamp_min(1)  # K×D
        offset: Tensor = self.bias(mean).squeeze(-1)
        return pooled @ mean.T + offset

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)
