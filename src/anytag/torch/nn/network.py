"""The network of every family: image encoder, tag decoder, caption head, alignment heads."""

from __future__ import annotations

from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from anytag.errors import ModelError
from anytag.torch.nn.alignment_head import AlignmentHead
from anytag.torch.nn.backbones import Backbone, Stages
from anytag.torch.nn.bert_layers import CrossLayer
from anytag.torch.nn.caption_head import CaptionHead
from anytag.torch.nn.configs import NetworkConfig, SwinConfig, VitConfig
from anytag.torch.nn.cross_decoder import CrossDecoder
from anytag.torch.nn.evidence import Evidence
from anytag.torch.nn.folded_decoder import FoldedDecoder, TagDecoder
from anytag.torch.nn.transformer_backbones import SwinBackbone, VitBackbone

M = TypeVar("M", bound=nn.Module)


class ImageEncoder(nn.Module):
    """Pixels -> image tokens and one pooled vector for the whole photo.

    Args:
        config: configuration of backbone, size, width and normalisation.
        backbone: the backbone; a random one by default.

    Raises:
        ModelError: the backbone's tokens are not projected and have another width than the configuration.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: NetworkConfig, backbone: Stages | None = None) -> None:
        super().__init__()
        self.backbone = make_backbone(config) if backbone is None else backbone
        width = self.backbone.width
        if not config.projected and width != config.width:
            raise ModelError(f"tokens are {width} wide and not projected, but the width is {config.width}")
        self.proj = nn.Linear(width, config.width) if config.projected else nn.Identity()
        self.evidence = Evidence(config.evidence, width, config.width) if config.evidence else None
        for name, values in (("mean", config.mean), ("std", config.std)):
            scaled = torch.tensor([255 * value for value in values]).reshape(3, 1, 1)
            self.register_buffer(name, scaled, persistent=False)

    @property
    def projection(self) -> nn.Linear:
        """The projection of features to tokens.

        Raises:
            ModelError: the backbone's tokens are not projected.
        """
        return _require_type(self.proj, nn.Linear, "the image encoder's projection")

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 N×3×S×S -> tokens N×T×D, pooled N×D."""
        return self.from_stage((pixels.float() - self.mean) / self.std, 0)

    def from_stage(self, features: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """Like `forward`, from the input of stage `first`; that of stage 0 is normalised pixels."""
        return self.project(self.late(features, first))

    def late(self, features: Tensor, first: int) -> Tensor:
        """The input of stage `first` -> the backbone's features N×T×C."""
        return self.backbone.tokens(self.backbone(features, first))

    def project(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The backbone's features N×T×C -> tokens N×T×D, pooled N×D."""
        tokens = self.proj(features)
        pooled = tokens[:, 0] if self.backbone.has_global_token else tokens.mean(1)
        if self.evidence is not None:
            pooled = pooled + self.evidence(features.mean(1))
        return tokens, pooled

    def pool(self, features: Tensor) -> Tensor:
        """Pooled features N×C -> the pooled vector N×D; they suffice because the projection is linear."""
        pooled: Tensor = self.proj(features)
        return pooled if self.evidence is None else pooled + self.evidence(features)


class TagNetwork(nn.Module):
    """Image encoder and tag decoder with optional heads; the queries are an input.

    Args:
        config: its configuration.
        backbone: the backbone; a random one by default.

    Attributes:
        captions: the caption head, None if the configuration has none.
        alignment: the alignment heads, None if the configuration has none.

    Raises:
        ModelError: parts do not fit together.
    """

    def __init__(self, config: NetworkConfig, backbone: Stages | None = None) -> None:
        super().__init__()
        self.config = config
        self.encoder = ImageEncoder(config, backbone)
        self.decoder = make_decoder(config)
        self.captions = _make_captions(config, self.decoder)
        self.alignment = _make_alignment(config)

    @property
    def folded(self) -> FoldedDecoder:
        """The folded decoder of small models, the only one with a first pass of its own.

        Raises:
            ModelError: the decoder is another one.
        """
        return _require_type(self.decoder, FoldedDecoder, "the decoder")

    def forward(self, pixels: Tensor, rows: Tensor) -> Tensor:
        """uint8 N×3×S×S and rows Q×K×P×R -> logits N×K."""
        tokens, pooled = self.encoder(pixels)
        logits: Tensor = self.decoder(tokens, pooled, rows)
        return logits


def _require_type(module: nn.Module, kind: type[M], name: str) -> M:
    if not isinstance(module, kind):
        raise ModelError(f"{name} is a {type(module).__name__}, not a {kind.__name__}")
    return module


def make_backbone(config: NetworkConfig) -> Stages:
    """A backbone with random weights."""
    if isinstance(config.backbone, SwinConfig):
        return SwinBackbone(config.backbone, size=config.size)
    if isinstance(config.backbone, VitConfig):
        return VitBackbone(config.backbone, size=config.size)
    return Backbone(config.backbone, size=config.size)


def make_decoder(config: NetworkConfig) -> TagDecoder:
    """A tag decoder with random weights."""
    if config.cross is None:
        return FoldedDecoder(config.width, heads=config.heads)
    return CrossDecoder(config.cross, width=config.width, heads=config.heads, queries=config.queries)


def _make_captions(config: NetworkConfig, decoder: TagDecoder) -> CaptionHead | None:
    if config.captions is None:
        return None
    layers = decoder.layers if isinstance(decoder, CrossDecoder) else ()
    return CaptionHead(config.captions, config.width, shared=cast("list[CrossLayer]", list(layers)))


def _make_alignment(config: NetworkConfig) -> AlignmentHead | None:
    heads, captions = config.alignment, config.captions
    if heads is None:
        return None
    if captions is None or (captions.width, captions.words) != (heads.width, heads.words):
        raise ModelError(
            "alignment heads need a caption head with the same width and words, "
            f"{heads.width} and {heads.words}, which encodes the tags that guide them"
        )
    return AlignmentHead(heads, config.width)
