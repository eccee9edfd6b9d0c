"""The network of all families: image encoder, queries, tag decoder."""

from __future__ import annotations

from torch import Tensor, nn

from .backbones import Backbone
from .decoder import FoldedDecoder
from .families import NetworkConfig


class ImageEncoder(nn.Module):
    """Pixels -> image tokens and their mean.

    Args:
        config: names backbone, size and width.
        backbone: with its weights; a random one when not given.
    """

    def __init__(self, config: NetworkConfig, backbone: Backbone | None = None) -> None:
        super().__init__()
        self.backbone = Backbone(config.backbone, size=config.size) if backbone is None else backbone
        self.proj = nn.Linear(self.backbone.width, config.width)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 N×3×S×S -> tokens N×T×D, pooled N×D."""
        return self.from_stage((pixels.float() - 127) / 128, 0)

    def from_stage(self, features: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """The same from the feature map that stage `first` expects."""
        tokens = self.proj(self.backbone(features, first).flatten(2).transpose(1, 2))
        return tokens, tokens.mean(1)


class TagNetwork(nn.Module):
    """Image encoder and tag decoder; the queries are asked from outside, as data."""

    def __init__(self, config: NetworkConfig, backbone: Backbone | None = None) -> None:
        super().__init__()
        self.config = config
        self.encoder = ImageEncoder(config, backbone)
        self.decoder = FoldedDecoder(config.width, heads=config.heads)

    def forward(self, pixels: Tensor, rows: Tensor) -> Tensor:
        """uint8 N×3×S×S and rows Q×K×P×D -> logits N×K."""
        tokens, pooled = self.encoder(pixels)
        logits: Tensor = self.decoder(tokens, pooled, rows)
        return logits
