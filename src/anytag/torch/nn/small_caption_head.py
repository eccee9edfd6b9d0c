"""The embedded model's caption head: a decoder that looks at the photo and at the tags' words at once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from anytag.torch.nn.bert_layers import EPSILON, init_bert
from anytag.torch.nn.caption_head import CaptionDecoder
from anytag.torch.nn.configs import CaptionConfig


class GuidedHead(CaptionDecoder):
    """As `CaptionHead`, asked the same way, but small: tags are not encoded, only looked up.

    The decoder's memory is the tags' wordpieces (embedded as it embeds its own, so that it can copy them) and
    the image tokens. A photo costs a linear layer, keys and values; all else is paid per wordpiece written.

    Args:
        config: its numbers; `shared` is not used.
        token_width: D, of the image tokens.
        tokens: T, how many a photo has.
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
        """What the decoder looks at: tags, then photo.

        Args:
            tag_ids: int64 N×S wordpieces of the tags' text.
            tag_mask: N×S, 0 at padding, which is a word of its own here, and learned to say nothing.
            image_tokens: N×T×D.

        Returns:
            N×(S+T)×H.
        """
        return torch.cat([self.tags(tag_ids * (tag_mask != 0)), self.image(image_tokens)], 1)

    def tags(self, tag_ids: Tensor) -> Tensor:
        """N×S -> N×S×H."""
        embedded: Tensor = self.tag_norm(self.decoder.embeddings.words(tag_ids) + self.tag_kind)
        return embedded

    def image(self, image_tokens: Tensor) -> Tensor:
        """N×T×D -> N×T×H."""
        looked: Tensor = self.image_norm(self.proj(image_tokens) + self.places)
        return looked
