"""The caption head: tags and photo -> a sentence (Tag2Text, section 3.2), with a KV cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anytag.torch.nn.bert_layers import EPSILON, MASK_BIAS, CrossLayer, Embeddings, TextLayer, init_bert
from anytag.torch.nn.configs import CaptionConfig


class CaptionDecoder(nn.Module):
    """A text decoder with cross-attention to a memory, and a KV cache.

    One caption, step by step::

        memory_kv = head.project_kv(memory)  # N×S×H
        logits, past = head.decode(prompt_ids, memory_kv)  # logits[:, -1] -> the next wordpiece
        logits, past = head.decode(next_ids, memory_kv, past)  # next_ids N×1

    `memory_kv` and `past` are single tensors with the batch on axis 2: `past[:, :, order]` reorders beams,
    `memory_kv.repeat_interleave(beams, 2)` starts a beam search.

    Args:
        config: its dimensions.
    """

    def __init__(self, config: CaptionConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.decoder = TextStack(config, [CrossLayer(width, width, config.mlp) for _ in range(config.layers)])
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.bias = nn.Parameter(torch.zeros(config.words))  # output weights are tied to the embeddings
        init_bert(self.dense)

    def project_kv(self, memory: Tensor) -> Tensor:
        """Keys and values of the cross-attention for all steps: N×S×H -> layers×2×N×heads×S×d."""
        return self.decoder.project_kv(memory)

    def decode(
        self, ids: Tensor, memory_kv: Tensor, past: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits of the wordpiece after each of `ids`.

        Args:
            ids: int64 N×L; only those that are not in `past`.
            memory_kv: from `project_kv`.
            past: KV cache from the previous call, layers×2×N×heads×P×d; at the start None, or P = 0.
            mask: N×(P+L), 0 at padding; no padding by default.

        Returns:
            logits N×L×words, and the cache extended by L positions.
        """
        past = self.empty_past(ids) if past is None else past
        x, past = self.decoder(ids, memory_kv, past, self._attention_bias(ids, past.shape[4], mask))
        return self._logits(x), past

    def next_logits(self, ids: Tensor, memory_kv: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """Like `decode`, but only the logits after the last of `ids`: N×words."""
        x, past = self.decoder(ids, memory_kv, past, self._attention_bias(ids, past.shape[4], None))
        return self._logits(x[:, -1]), past

    def empty_past(self, ids: Tensor) -> Tensor:
        """An empty KV cache for ids N×L: layers×2×N×heads×0×d."""
        c = self.config
        shape = (c.layers, 2, ids.shape[0], c.heads, 0, c.width // c.heads)
        return self.bias.new_zeros(shape)

    def _logits(self, x: Tensor) -> Tensor:
        """... × H -> ... × words."""
        x = self.norm(F.gelu(self.dense(x)))
        return F.linear(x, self.decoder.embeddings.words.weight, self.bias)

    def _attention_bias(self, ids: Tensor, past_length: int, mask: Tensor | None) -> Tensor:
        """The bias that masks later positions and padding: (N or 1)×1×L×(P+L)."""
        position = torch.arange(past_length + ids.shape[1], device=ids.device)
        visible = (position <= position[past_length:, None])[None, None]
        if mask is not None:
            visible = visible & (mask != 0)[:, None, None]
        return (~visible).to(self.bias.dtype) * MASK_BIAS


class CaptionHead(CaptionDecoder):
    """A tag encoder with cross-attention to the photo, and a text decoder that attends to the encoded tags.

    ::

        memory_kv = head.project_kv(head.encode_tags(tag_ids, tag_mask, image_tokens))

    Args:
        config: its dimensions.
        token_width: D, the width of the image tokens.
        shared: layers of the tag decoder, whose first `config.shared` are shared with the tag encoder.
    """

    def __init__(self, config: CaptionConfig, token_width: int, *, shared: Sequence[CrossLayer] = ()) -> None:
        super().__init__(config)
        first = list(shared[: config.shared])
        rest = range(config.layers - len(first))
        own = [CrossLayer(config.width, token_width, config.mlp) for _ in rest]
        self.encoder = TextStack(config, [*first, *own])

    def encode_tags(self, tag_ids: Tensor, tag_mask: Tensor, image_tokens: Tensor) -> Tensor:
        """Encode the tags' text with cross-attention to the photo.

        Args:
            tag_ids: int64 N×S wordpieces of the tags' text, starting with [ENC].
            tag_mask: N×S, 1 for text, 0 for padding.
            image_tokens: N×T×D.

        Returns:
            N×S×H; the decoder attends to positions of padding too, as in the published code.
        """
        hidden = (1.0 - tag_mask[:, None, None].to(image_tokens.dtype)) * MASK_BIAS  # N×1×1×S
        memory = self.encoder.project_kv(image_tokens)
        encoded: Tensor = self.encoder(tag_ids, memory, self.empty_past(tag_ids), hidden)[0]
        return encoded


class TextStack(nn.Module):
    """Embeddings and layers of the tag encoder or of the text decoder.

    Args:
        cross: the cross-attention and MLP of each layer.
    """

    def __init__(self, config: CaptionConfig, cross: Sequence[CrossLayer]) -> None:
        super().__init__()
        self.heads = config.heads
        self.embeddings = Embeddings(config.words, config.width, config.positions)
        self.layers = nn.ModuleList([TextLayer(config.width, layer) for layer in cross])

    def project_kv(self, memory: Tensor) -> Tensor:
        """Keys and values of N×S×width for all layers: layers×2×N×heads×S×d."""
        pairs = [layer.cross.cross.project_kv(memory, heads=self.heads) for layer in self._layers()]
        return torch.stack([torch.stack(pair) for pair in pairs])

    def forward(self, ids: Tensor, memory: Tensor, past: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """ids N×L -> N×L×H and the extended KV cache; `memory` and `past` as in `CaptionDecoder.decode`."""
        x = self.embeddings(ids, past.shape[4])
        pasts = []
        for number, layer in enumerate(self._layers()):
            layer_kv, before = (memory[number, 0], memory[number, 1]), (past[number, 0], past[number, 1])
            x, kv = layer(x, layer_kv, before, bias)
            pasts.append(torch.stack(kv))
        return x, torch.stack(pasts)

    def _layers(self) -> list[TextLayer]:
        return cast("list[TextLayer]", list(self.layers))
