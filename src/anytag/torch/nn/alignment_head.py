"""Tag-guided image-text alignment: a contrastive and a matching head (Tag2Text, section 3.2).

The contrastive head embeds photos and texts separately, so that many can be compared; in the matching head
the text attends to the photo's tokens and its encoded tags, to re-rank the best of them. No published
checkpoint has these heads: they are trained here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anytag.torch.nn.bert_layers import MASK_BIAS, CrossLayer, Embeddings, Memory, TextLayer, init_bert
from anytag.torch.nn.configs import AlignmentConfig

_MIN_SCALE, _MAX_SCALE = 2.0, 1000.0  # inverses of ALBEF's temperature range, 0.001 to 0.5


class AlignmentHead(nn.Module):
    """A text encoder: unimodal for the contrastive head, with cross-attention to the photo for matching.

    Texts are wordpieces from `WordPieces.caption_text`: int64, 0 is padding.

    Args:
        config: its dimensions.
        token_width: D, the width of the image tokens.
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

    @property
    def scale(self) -> Tensor:
        """Inverse temperature of the contrastive logits, a scalar."""
        return self.sharpness.exp().clamp(_MIN_SCALE, _MAX_SCALE)

    def embed_photos(self, pooled: Tensor, tags: Tensor | None = None) -> Tensor:
        """Unit vectors N×E of photos.

        Args:
            pooled: N×D.
            tags: N×S×H from `CaptionHead.encode_tags`, to guide them.
        """
        vector = self.of_photo(pooled)
        if tags is not None:
            vector = vector + self.of_tags(tags[:, 0])  # the position of [ENC]
        return F.normalize(vector.float(), dim=-1)

    def embed_texts(self, ids: Tensor) -> Tensor:
        """Unit vectors N×E of texts N×L, encoded without a photo."""
        x, bias = self.embeddings(ids), _padding(ids)
        for layer in self._layers():
            x = layer.forward_unimodal(x, bias, heads=self.config.heads)
        return F.normalize(self.of_text(x[:, 0]).float(), dim=-1)

    def cross_memory(self, tokens: Tensor, tags: Tensor | None = None) -> Tensor:
        """The memory of the cross-attention: image tokens N×T×D, then encoded tags N×S×H -> N×(T+S)×D."""
        return tokens if tags is None else torch.cat([tokens, self.guide(tags)], 1)

    def project_kv(self, memory: Tensor) -> list[Memory]:
        """Keys and values of every layer for `cross_memory`'s N×M×D, computed once for all texts."""
        return [layer.cross.cross.project_kv(memory, heads=self.config.heads) for layer in self._layers()]

    def match(self, ids: Tensor, memories: Sequence[Memory], photo: Tensor | None = None) -> Tensor:
        """Matching logits P of the texts P×L, each with its photo.

        Args:
            memories: from `project_kv`, of N photos.
            photo: int64 P, the index of each text's photo; by default text n belongs to photo n.
        """
        x, bias = self.embeddings(ids), _padding(ids)
        for layer, (keys, values) in zip(self._layers(), memories, strict=True):
            if photo is not None:
                keys, values = keys[photo], values[photo]
            x, _ = layer(x, (keys, values), (keys[:, :, :0], values[:, :, :0]), bias)
        logits: Tensor = self.fits(x[:, 0]).squeeze(-1)
        return logits

    def _layers(self) -> list[TextLayer]:
        return cast("list[TextLayer]", list(self.layers))


def _padding(ids: Tensor) -> Tensor:
    """The attention bias that masks padding: N×L -> N×1×1×L."""
    return (ids == 0)[:, None, None] * MASK_BIAS
