"""How well a text fits a photo, told by tags: a contrastive and a matching head (Tag2Text, section 3.2).

The contrastive head embeds photos and texts apart, so that many can be compared; the matching head lets the
text look at the photo's tokens and at its encoded tags, for the best of them. No published weights have these
heads: they are for training.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .bert import HIDDEN, CrossLayer, Embeddings, TextLayer, init_bert
from .families import AlignmentConfig


class AlignmentHead(nn.Module):
    """A text encoder that reads alone for the contrast, and looks at the photo for the match.

    Args:
        config: its numbers.
        token_width: D, of the image tokens.
    """

    def __init__(self, config: AlignmentConfig, token_width: int) -> None:
        super().__init__()
        self.config = config
        width, space = config.width, config.space
        self.embeddings = Embeddings(config.words, width, config.positions)
        self.layers = nn.ModuleList(
            [TextLayer(width, CrossLayer(width, token_width, config.mlp)) for _ in range(config.layers)]
        )
        self.of_photo = nn.Linear(token_width, space)
        self.of_tags = nn.Linear(width, space, bias=False)
        self.of_text = nn.Linear(width, space)
        self.guide = nn.Linear(width, token_width)
        self.fits = nn.Linear(width, 1)
        self.sharpness = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        for module in (self.of_photo, self.of_tags, self.of_text, self.guide, self.fits):
            init_bert(module)

    def embed_photos(self, pooled: Tensor, tags: Tensor | None = None) -> Tensor:
        """Unit vectors N×E of photos: pooled N×D, and N×S×H from `CaptionHead.encode_tags` to guide them."""
        vector = self.of_photo(pooled)
        if tags is not None:
            vector = vector + self.of_tags(tags[:, 0])  # where [ENC] stands
        return F.normalize(vector, dim=-1)

    def embed_texts(self, ids: Tensor) -> Tensor:
        """Unit vectors N×E of texts, read without any photo: int64 N×L, 0 is padding."""
        x, bias = self.embeddings(ids), _padding(ids)
        for layer in self._layers():
            x = layer.alone(x, bias, heads=self.config.heads)
        return F.normalize(self.of_text(x[:, 0]), dim=-1)

    def looked_at(self, tokens: Tensor, tags: Tensor | None = None) -> Tensor:
        """What texts look at: image tokens N×T×D, and after them the encoded tags N×S×H -> N×(T+S)×D."""
        return tokens if tags is None else torch.cat([tokens, self.guide(tags)], 1)

    def match(self, ids: Tensor, seen: Tensor) -> Tensor:
        """Logits N that each of the texts N×L fits its photo, of which `looked_at` gave N×M×D."""
        x, bias = self.embeddings(ids), _padding(ids)
        for layer in self._layers():
            memory = layer.cross.cross.remember(seen, heads=self.config.heads)
            nothing = (memory[0][:, :, :0], memory[1][:, :, :0])
            x, _ = layer(x, memory, nothing, bias)
        logits: Tensor = self.fits(x[:, 0]).squeeze(-1)
        return logits

    def _layers(self) -> list[TextLayer]:
        return cast("list[TextLayer]", list(self.layers))


def _padding(ids: Tensor) -> Tensor:
    """The bias that hides padding: N×L -> N×1×1×L."""
    return (ids == 0)[:, None, None] * HIDDEN
