"""How well a text fits a photo, told by tags: a contrastive and a matching head (Tag2Text, section 3.2).

The contrastive head embeds photos and texts apart, so that many can be compared; the matching head lets the
text look at the photo's tokens and at its encoded tags, for the best of them. No published weights have these
heads: they are trained here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anytag.torch.nn.bert_layers import HIDDEN, CrossLayer, Embeddings, Memory, TextLayer, init_bert
from anytag.torch.nn.configs import AlignmentConfig

_LEAST, _MOST = 2.0, 1000.0  # sharpness of the contrast: 1 over ALBEF's temperature of 0.5 to 0.001


class AlignmentHead(nn.Module):
    """A text encoder: unimodal for the contrastive head, with cross-attention to the photo for matching.

    Texts are wordpieces as `WordPieces.caption_text` gives them: int64, 0 is padding.

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

    @property
    def scale(self) -> Tensor:
        """Inverse temperature of the cosines: a scalar."""
        return self.sharpness.exp().clamp(_LEAST, _MOST)

    def embed_photos(self, pooled: Tensor, tags: Tensor | None = None) -> Tensor:
        """Unit vectors N×E of photos: pooled N×D, and N×S×H from `CaptionHead.encode_tags` to guide them."""
        vector = self.of_photo(pooled)
        if tags is not None:
            vector = vector + self.of_tags(tags[:, 0])  # where [ENC] stands
        return F.normalize(vector.float(), dim=-1)

    def embed_texts(self, ids: Tensor) -> Tensor:
        """Unit vectors N×E of texts N×L, read without any photo."""
        x, bias = self.embeddings(ids), _padding(ids)
        for layer in self._layers():
            x = layer.alone(x, bias, heads=self.config.heads)
        return F.normalize(self.of_text(x[:, 0]).float(), dim=-1)

    def cross_memory(self, tokens: Tensor, tags: Tensor | None = None) -> Tensor:
        """What texts look at: image tokens N×T×D, and after them the encoded tags N×S×H -> N×(T+S)×D."""
        return tokens if tags is None else torch.cat([tokens, self.guide(tags)], 1)

    def project_kv(self, seen: Tensor) -> list[Memory]:
        """Keys and values of every layer for `cross_memory`'s N×M×D, once for all texts."""
        return [layer.cross.cross.project_kv(seen, heads=self.config.heads) for layer in self._layers()]

    def match(self, ids: Tensor, memories: Sequence[Memory], which: Tensor | None = None) -> Tensor:
        """Logits P that each of the texts P×L fits its photo.

        Args:
            memories: from `project_kv`, of N photos.
            which: int64 P, the photo of each text; without it text n looks at photo n.
        """
        x, bias = self.embeddings(ids), _padding(ids)
        for layer, (keys, values) in zip(self._layers(), memories, strict=True):
            if which is not None:
                keys, values = keys[which], values[which]
            x, _ = layer(x, (keys, values), (keys[:, :, :0], values[:, :, :0]), bias)
        logits: Tensor = self.fits(x[:, 0]).squeeze(-1)
        return logits

    def _layers(self) -> list[TextLayer]:
        return cast("list[TextLayer]", list(self.layers))


def _padding(ids: Tensor) -> Tensor:
    """The bias that hides padding: N×L -> N×1×1×L."""
    return (ids == 0)[:, None, None] * HIDDEN
