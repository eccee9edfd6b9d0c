"""The embedded model's caption head: a decoder that attends to image tokens and tags together."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from anytag.torch.nn.bert_layers import EPSILON, init_bert
from anytag.torch.nn.caption_head import CaptionDecoder
from anytag.torch.nn.configs import CaptionConfig


class GuidedHead(CaptionDecoder):
    """A small head with the interface of `CaptionHead`; tags are embedded, not encoded.

    The decoder's memory holds the tags' wordpieces (with the decoder's own embeddings, so that it can copy
    them) and the image tokens. A photo costs one linear layer, keys and values; all other work is done per
    generated wordpiece.

    Args:
        config: its dimensions; `shared` is not used.
        token_width: D, the width of the image tokens.
        tokens: T, the number of image tokens per photo.
    """

    def __init__(self, config: CaptionConfig, token_width: int, *, tokens: int) -> None:
        super().__init__(config)
        width = config.width
        self.proj = nn.Linear(token_width, width)
        self.places = nn.Parameter(torch.zeros(tokens, width))
        self.image_norm = nn.LayerNorm(width, eps=EPSILON)
        self.tag_kind = nn.Parameter(torch.zeros(width))
        self.tag_norm = nn.LayerNorm(width, eps=EPSILON)
        init_bert(self.proj)

    def encode_tags(self, tag_ids: Tensor, tag_mask: Tensor, image_tokens: Tensor) -> Tensor:
        """The decoder's memory: tags, then image tokens.

        Args:
            tag_ids: int64 N×S wordpieces of the tags' text.
            tag_mask: N×S, 0 at padding, which is not masked here: the head learns to ignore it.
            image_tokens: N×T×D.

        Returns:
            N×(S+T)×H.
        """
        return torch.cat([self.embed_tags(tag_ids * (tag_mask != 0)), self.embed_image(image_tokens)], 1)

    def embed_tags(self, tag_ids: Tensor) -> Tensor:
        """N×S -> N×S×H."""
        embedded: Tensor = self.tag_norm(self.decoder.embeddings.words(tag_ids) + self.tag_kind)
        return embedded

    def embed_image(self, image_tokens: Tensor) -> Tensor:
        """N×T×D -> N×T×H."""
        embedded: Tensor = self.image_norm(self.proj(image_tokens) + self.places)
        return embedded
