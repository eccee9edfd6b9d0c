"""Post-norm BERT layers (Devlin et al. 2019), for tag decoder, caption head and alignment heads.

LayerNorm's epsilon is 1e-12 and GELU is exact; weights are initialised from N(0, 0.02²), biases with 0.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-12
DROPOUT = 0.1
# Added to masked attention scores: finite, as in the published code.
MASK_BIAS = -10000.0
Memory = tuple[Tensor, Tensor]  # keys and values, N×heads×T×d


class Attention(nn.Module):
    """Multi-head attention with output projection, residual and norm.

    The caller chooses the number of heads: Tag2Text and RAM run the same weights with 4 heads in the tag
    decoder and with 12 in the tag encoder.

    Args:
        width: H, the width of the queries.
        memory_width: width of the input of keys and values; `width` by default.
    """

    def __init__(self, width: int, memory_width: int | None = None) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(memory_width or width, width)
        self.value = nn.Linear(memory_width or width, width)
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.apply(init_bert)

    def project_kv(self, memory: Tensor, *, heads: int) -> Memory:
        """Keys and values of N×T×memory_width."""
        return split_heads(self.key(memory), heads), split_heads(self.value(memory), heads)

    def forward(self, x: Tensor, memory: Memory, bias: Tensor | None = None) -> Tensor:
        """x M×L×H (M is 1 or N) attends to keys and values of N photos or texts -> N×L×H.

        Args:
            bias: added to the scores, broadcast to N×heads×L×T.
        """
        keys, values = memory
        queries = split_heads(self.query(x), keys.shape[1]).expand(len(keys), -1, -1, -1)
        drop = DROPOUT if self.training else 0.0
        attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias, dropout_p=drop)
        output = self.dense(attended.transpose(1, 2).flatten(2))
        y: Tensor = self.norm(x + F.dropout(output, DROPOUT, self.training))
        return y

    def attention_weights(self, x: Tensor, memory: Memory) -> Tensor:
        """Attention weights over the tokens, averaged over heads: N×L×T."""
        queries, keys = split_heads(self.query(x), memory[0].shape[1]), memory[0]
        return (queries @ keys.transpose(-1, -2) / math.sqrt(keys.shape[-1])).softmax(-1).mean(1)


class MLP(nn.Module):
    """Two linear layers with a GELU between them, residual and norm.

    Args:
        width: H.
        hidden: width of the hidden layer.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.apply(init_bert)

    def forward(self, x: Tensor) -> Tensor:
        """... × H -> ... × H."""
        output = self.down(F.gelu(self.up(x)))
        y: Tensor = self.norm(x + F.dropout(output, DROPOUT, self.training))
        return y


class CrossLayer(nn.Module):
    """Cross-attention and MLP: a layer of the tag decoder.

    Args:
        width: H.
        memory_width: width of the image tokens.
        mlp: hidden width of the MLP.
    """

    def __init__(self, width: int, memory_width: int, mlp: int) -> None:
        super().__init__()
        self.cross = Attention(width, memory_width)
        self.mlp = MLP(width, mlp)

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """x M×L×H (M is 1 or N) -> N×L×H."""
        y: Tensor = self.mlp(self.cross(x, memory))
        return y


class TextLayer(nn.Module):
    """Self-attention and a cross layer: a layer of the tag encoder and of the text decoder.

    Args:
        cross: the cross layer; it may be shared with the tag decoder.
    """

    def __init__(self, width: int, cross: CrossLayer) -> None:
        super().__init__()
        self.attend = Attention(width)
        self.cross = cross

    def forward(
        self, x: Tensor, memory: Memory, past: Memory, bias: Tensor | None = None
    ) -> tuple[Tensor, Memory]:
        """x N×L×H attends to itself and the past, then to `memory`.

        Args:
            past: KV cache of the previous positions, N×heads×P×d; P may be 0.
            bias: added to the scores of the self-attention, broadcast to N×heads×L×(P+L).

        Returns:
            N×L×H, and the cache extended by L positions.
        """
        keys, values = self.attend.project_kv(x, heads=memory[0].shape[1])
        cache = torch.cat([past[0], keys], 2), torch.cat([past[1], values], 2)
        return self.cross(self.attend(x, cache, bias), memory), cache

    def forward_unimodal(self, x: Tensor, bias: Tensor, *, heads: int) -> Tensor:
        """The layer without its cross-attention: self-attention and MLP, N×L×H -> N×L×H."""
        y: Tensor = self.cross.mlp(self.attend(x, self.attend.project_kv(x, heads=heads), bias))
        return y


class Embeddings(nn.Module):
    """Embeddings of wordpieces and positions, without token types.

    Args:
        words: number of wordpieces; id 0 is padding.
        width: H.
        positions: maximum length of a text.
    """

    def __init__(self, words: int, width: int, positions: int) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width, padding_idx=0)
        self.positions = nn.Embedding(positions, width)
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.apply(init_bert)

    def forward(self, ids: Tensor, first: int = 0) -> Tensor:
        """ids N×L, which start at position `first` -> N×L×H."""
        positions = self.positions.weight[first : first + ids.shape[1]]
        return F.dropout(self.norm(self.words(ids) + positions), DROPOUT, self.training)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """N×L×H -> N×heads×L×d."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def init_bert(module: nn.Module) -> None:
    """Initialise weights as BERT does; for `Module.apply`."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
