"""Transformer backbones from timm's layers, with a global token as token 0, as published."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from anytag.errors import ModelError
from anytag.torch.nn.backbones import Stages
from anytag.torch.nn.configs import SwinConfig, VitConfig


class SwinBackbone(Stages):
    """Swin: patches, stages of windowed attention, norm. Token 0 is the mean of the other tokens.

    Args:
        config: its dimensions.
        size: side of the square input in pixels; a multiple of the last stage's patch size.

    Raises:
        ModelError: the size is not such a multiple.
    """

    has_global_token = True

    def __init__(self, config: SwinConfig, *, size: int) -> None:
        super().__init__()
        coarsest = 4 * 2 ** (len(config.depths) - 1)
        if size <= 0 or size % coarsest:
            raise ModelError(
                f"image size {size}: expected a multiple of {coarsest} for this Swin transformer"
            )
        net: Any = SwinTransformer(
            img_size=size,
            embed_dim=config.width,
            depths=config.depths,
            num_heads=config.heads,
            window_size=config.window,
            num_classes=0,
        )
        self.stages, self.norm = nn.ModuleList([net.patch_embed, *net.layers]), net.norm
        self.width = net.num_features

    def tokens(self, features: Tensor) -> Tensor:
        """N×h×w×C -> N×(1+hw)×C."""
        tokens = self.norm(features).flatten(1, 2)
        return torch.cat([tokens.mean(1, keepdim=True), tokens], 1)


class VitBackbone(Stages):
    """ViT: patches with class token and learned positions, blocks, norm. Token 0 is the class token.

    Args:
        config: its dimensions.
        size: side of the square input in pixels; a multiple of the patch size.

    Raises:
        ModelError: the size is not such a multiple.
    """

    has_global_token = True

    def __init__(self, config: VitConfig, *, size: int) -> None:
        super().__init__()
        if size <= 0 or size % config.patch:
            raise ModelError(f"image size {size}: expected a multiple of {config.patch} for this ViT")
        net: Any = VisionTransformer(
            img_size=size,
            patch_size=config.patch,
            embed_dim=config.width,
            depth=config.depth,
            num_heads=config.heads,
            drop_path_rate=config.drop_path,
            num_classes=0,
            global_pool="",
        )
        self.stages, self.norm = nn.ModuleList([_Stem(net), *net.blocks]), net.norm
        self.width = config.width

    def tokens(self, features: Tensor) -> Tensor:
        """N×T×C, normalised."""
        tokens: Tensor = self.norm(features)
        return tokens


class _Stem(nn.Module):
    """Patch embedding with class token and learned positions."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.patch_embed, self.cls_token, self.pos_embed = net.patch_embed, net.cls_token, net.pos_embed

    def forward(self, x: Tensor) -> Tensor:
        patches: Tensor = self.patch_embed(x)
        first = self.cls_token.expand(len(patches), -1, -1)
        embedded: Tensor = torch.cat([first, patches], 1) + self.pos_embed
        return embedded
