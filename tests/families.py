"""The published families, small: a few thousand random weights each."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from anytag.torch.nn.configs import (
    FAMILIES,
    AlignmentConfig,
    CaptionConfig,
    CrossConfig,
    NetworkConfig,
    SwinConfig,
    VitConfig,
)
from anytag.torch.nn.network import TagNetwork

SWIN = SwinConfig(width=4, depths=(2, 2), heads=(1, 2), window=2)
VIT = VitConfig(width=8, depth=2, heads=2, patch=8)
CAPTIONS = CaptionConfig(words=30, layers=2, heads=4, width=16, mlp=24, positions=48)
CROSS = CrossConfig(hidden=16, layers=2, mlp=24)
ALIGNMENT = AlignmentConfig(words=30, layers=2, heads=2, width=16, mlp=24, space=6, positions=48)


def tiny_config(family: str, *, vit: bool = False) -> NetworkConfig:
    """A family's row with small numbers: 32 pixels, tokens of 8, H of 16."""
    row = FAMILIES[family]
    captions = CAPTIONS if row.captions else None
    backbone = VIT if vit else SWIN
    return replace(row, backbone=backbone, size=32, width=8, heads=2, cross=CROSS, captions=captions)


TINY_FAMILIES = {
    "tag2text": tiny_config("tag2text"),
    "ram": tiny_config("ram"),
    "ram-plus": tiny_config("ram-plus"),
    "ram-plus with a ViT": tiny_config("ram-plus", vit=True),
    "tag2text with alignment": replace(tiny_config("tag2text"), alignment=ALIGNMENT),
}


def family_network(name: str, *, seed: int = 0) -> TagNetwork:
    """For evaluation."""
    torch.manual_seed(seed)
    network = TagNetwork(TINY_FAMILIES[name]).eval().requires_grad_(False)
    enliven(network)
    return network


def enliven(module: nn.Module) -> None:
    """Random weights so large that everything matters: fresh ones are nearly constant functions."""
    for name, parameter in module.named_parameters():
        if parameter.ndim < 2:
            nn.init.normal_(parameter, mean=float("norm" in name and name.endswith("weight")), std=0.3)
        else:
            nn.init.normal_(parameter, std=1.5 / parameter[0].numel() ** 0.5)


def family_rows(network: TagNetwork, shape: tuple[int, int, int], *, seed: int = 0) -> Tensor:
    """Random queries Q×K×P×R for a shape of (Q, K, P); learned rows have a P of 1."""
    sets, tags, descriptions = shape
    descriptions = 1 if network.config.queries == "learned" else descriptions
    random = torch.Generator().manual_seed(seed)
    return torch.randn(sets, tags, descriptions, network.decoder.row_width, generator=random)
