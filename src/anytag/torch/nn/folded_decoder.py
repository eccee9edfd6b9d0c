"""Description reweighting (RAM++, section 3.3), the interface of tag decoders, and the folded one."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def reweight_descriptions(pooled: Tensor, rows: Tensor, scale: Tensor) -> Tensor:
    """One query per tag: its descriptions, reweighted by the image (RAM++, section 3.3).

    Args:
        pooled: N×D, the pooled image vector.
        rows: Q×K×P×D, Q is 1 or N; a row of zeros is padding and gets no weight.
        scale: logarithm of the softmax's inverse temperature, a scalar.

    Returns:
        N×K×D.
    """
    q, k, p, d = rows.shape
    image = pooled / pooled.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    # G photos share each of the Q sets of rows: no branch on Q = 1, and no tensor of size N×K×P×D.
    similarity = rows.flatten(1, 2) @ image.reshape(q, -1, d).transpose(1, 2)  # Q×KP×G
    # Avoids another pass over all rows: only a row of zeros starts with 0 and has a product of 0.
    padding = (similarity == 0) & (rows.flatten(1, 2)[..., :1] == 0)
    sharp = (scale.exp() * similarity).masked_fill(padding, -1e4).reshape(q, k, p, -1)
    queries: Tensor = sharp.softmax(2).transpose(2, 3) @ rows  # Q×K×G×D
    return queries.transpose(1, 2).flatten(0, 1)


class TagDecoder(nn.Module):
    """Queries attend to image tokens; each yields one logit.

    Attributes:
        width: D, the width of the image tokens.
        row_width: R, the width of a query row.
    """

    width: int
    row_width: int

    def forward(self, tokens: Tensor, pooled: Tensor, rows: Tensor) -> Tensor:
        """tokens N×T×D, pooled N×D, rows Q×K×P×R (Q is 1 or N) -> logits N×K."""
        raise NotImplementedError

    def localize(self, tokens: Tensor, pooled: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Like `forward`, and the importance of each token for each logit: N×K, N×K×T."""
        raise NotImplementedError


class FoldedDecoder(TagDecoder):
    """Cross-attention whose values are multiplied with the query, without output projection and MLP.

    For tag k and head h the token weights are softmax_t(q_kh · (W x_t)_h / sqrt(D/H)), and the logit is
    sum_h sum_t weight · (q_kh · x_th) + w · q_k + b, plus q_k times the difference of the pooled vector and
    the mean token. With W = 0 it is a linear classifier on the pooled vector, which the first pass (`coarse`)
    computes from the same queries.

    Args:
        width: D, the width of tokens and queries.
        heads: H, the number of heads.
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
        return self.localize(tokens, pooled, rows)[0]

    def localize(self, tokens: Tensor, pooled: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Like `forward`, and the contribution of each token to each logit: N×K, N×K×T."""
        queries = reweight_descriptions(pooled, rows, self.reweight_scale)  # N×K×D
        where = self.contributions(tokens, queries)
        global_part = pooled - tokens.mean(1)  # the part of the pooled vector that no token has
        offset: Tensor = self.bias(queries).squeeze(-1) + (queries @ global_part[:, :, None]).squeeze(-1)
        return where.sum(-1) + offset, where

    def contributions(self, tokens: Tensor, queries: Tensor) -> Tensor:
        """Contribution of each token to each logit: tokens N×T×D, queries N×K×D -> N×K×T.

        It is attention weight times product of query and value. The attention weights alone localise a tag
        badly, since they are nearly uniform.
        """
        values = self._split_heads(tokens)  # N×H×T×d
        keys = self._split_heads(self.key(tokens))
        head_queries = self._split_heads(queries)  # N×H×K×d
        scores = head_queries @ keys.transpose(-1, -2) / math.sqrt(self.width / self.heads)
        products = head_queries @ values.transpose(-1, -2)  # N×H×K×T
        return (scores.softmax(-1) * products).sum(1)

    def coarse(self, pooled: Tensor, rows: Tensor) -> Tensor:
        """The first pass: uniform weights over descriptions and tokens. pooled N×D, rows K×P×D -> N×K."""
        present = (rows != 0).any(-1, keepdim=True)
        mean = rows.sum(1) / present.sum(1).clamp_min(1)  # K×D
        offset: Tensor = self.bias(mean).squeeze(-1)
        return pooled @ mean.T + offset

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)
