"""The caption head: tags and photo -> a sentence (Tag2Text, section 3.2), cached token by token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anytag.torch.nn.bert_layers import EPSILON, HIDDEN, CrossLayer, Embeddings, TextLayer, init_bert
from anytag.torch.nn.configs import CaptionConfig


class CaptionDecoder(nn.Module):
    """A text decoder that looks at a memory, and keeps what it has read.

    One caption, step by step::

        memory_kv = head.project_kv(memory)  # N×S×H
        logits, past = head.decode(prompt_ids, memory_kv)  # logits[:, -1] -> the next wordpiece
        logits, past = head.decode(next_ids, memory_kv, past)  # next_ids N×1

    `memory_kv` and `past` are single tensors whose axis 2 counts the texts: `past[:, :, order]` follows a
    beam search, `memory_kv.repeat_interleave(beams, 2)` starts one.

    Args:
        config: its numbers.
    """

    def __init__(self, config: CaptionConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.decoder = TextStack(config, [CrossLayer(width, width, config.mlp) for _ in range(config.layers)])
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.bias = nn.Parameter(torch.zeros(config.words))  # the output weights are the decoder's words
        init_bert(self.dense)

    def project_kv(self, memory: Tensor) -> Tensor:
        """Keys and values that every step of the decoder uses: N×S×H -> layers×2×N×heads×S×d."""
        return self.decoder.project_kv(memory)

    def decode(
        self, ids: Tensor, memory_kv: Tensor, past: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Scores of the wordpiece after each of `ids`.

        Args:
            ids: int64 N×L; those after `past`, which are not given again.
            memory_kv: from `project_kv`.
            past: from the call before, layers×2×N×heads×P×d; P of 0 or None at the start.
            mask: N×(P+L), 0 at padding; none when not given.

        Returns:
            logits N×L×words, and `past` with L more.
        """
        past = self.nothing(ids) if past is None else past
        x, past = self.decoder(ids, memory_kv, past, self._unseen(ids, past.shape[4], mask))
        return self._scores(x), past

    def go_on(self, ids: Tensor, memory_kv: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """As `decode`, but scores only what comes after the last of `ids`: N×words."""
        x, past = self.decoder(ids, memory_kv, past, self._unseen(ids, past.shape[4], None))
        return self._scores(x[:, -1]), past

    def nothing(self, ids: Tensor) -> Tensor:
        """The `past` of texts that have none yet, for ids N×L: layers×2×N×heads×0×d."""
        c = self.config
        shape = (c.layers, 2, ids.shape[0], c.heads, 0, c.width // c.heads)
        return self.bias.new_zeros(shape)

    def _scores(self, x: Tensor) -> Tensor:
        """... × H -> ... × words."""
        x = self.norm(F.gelu(self.dense(x)))
        return F.linear(x, self.decoder.embeddings.words.weight, self.bias)

    def _unseen(self, ids: Tensor, before: int, mask: Tensor | None) -> Tensor:
        """What each position must not see, as a bias: later ones and padding. (N or 1)×1×L×(P+L)."""
        place = torch.arange(before + ids.shape[1], device=ids.device)
        visible = (place <= place[before:, None])[None, None]
        if mask is not None:
            visible = visible & (mask != 0)[:, None, None]
        return (~visible).to(self.bias.dtype) * HIDDEN


class CaptionHead(CaptionDecoder):
    """A tag encoder that looks at the photo, and a text decoder that looks at the encoded tags.

    ::

        memory_kv = head.project_kv(head.encode_tags(tag_ids, tag_mask, image_tokens))

    Args:
        config: its numbers.
        token_width: D, of the image tokens.
        shared: the first layers of the tag decoder; they are used here too, trained by both.
    """

    def __init__(self, config: CaptionConfig, token_width: int, *, shared: Sequence[CrossLayer] = ()) -> None:
        super().__init__(config)
        first = list(shared[: config.shared])
        rest = range(config.layers - len(first))
        own = [CrossLayer(config.width, token_width, config.mlp) for _ in rest]
        self.encoder = TextStack(config, [*first, *own])

    def encode_tags(self, tag_ids: Tensor, tag_mask: Tensor, image_tokens: Tensor) -> Tensor:
        """The tags' text, told by the photo.

        Args:
            tag_ids: int64 N×S wordpieces of the tags' text, starting with [ENC].
            tag_mask: N×S, 1 where there is text, 0 at padding.
            image_tokens: N×T×D.

        Returns:
            N×S×H; positions of padding hold numbers too, and the decoder looks at them, as published.
        """
        hidden = (1.0 - tag_mask[:, None, None].to(image_tokens.dtype)) * HIDDEN  # N×1×1×S
        memory = self.encoder.project_kv(image_tokens)
        encoded: Tensor = self.encoder(tag_ids, memory, self.nothing(tag_ids), hidden)[0]
        return encoded


class TextStack(nn.Module):
    """Embeddings and layers, of the tag encoder or of the text decoder.

    Args:
        cross: the part of each layer that looks at something else.
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
        """ids N×L -> N×L×H and the new past; `memory` and `past` as `CaptionHead.decode` has them."""
        x = self.embeddings(ids, past.shape[4])
        pasts = []
        for number, layer in enumerate(self._layers()):
            layer_kv, before = (memory[number, 0], memory[number, 1]), (past[number, 0], past[number, 1])
            x, kv = layer(x, layer_kv, before, bias)
            pasts.append(torch.stack(kv))
        return x, torch.stack(pasts)

    def _layers(self) -> list[TextLayer]:
        return cast("list[TextLayer]", list(self.layers))
