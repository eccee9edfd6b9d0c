"""Any of timm's image networks as a backbone, for small models."""

from __future__ import annotations

from typing import Any

import timm
from torch import Tensor, nn

from anytag.errors import ModelError

from .backbones import Stages


class TimmBackbone(Stages):
    """The features of a timm network in front of its pooling; every place of the map is a token.

    Args:
        name: timm's name, such as resnet18.
        size: side of the square input; networks with positions are made for it.

    Raises:
        ModelError: timm knows no such network.
    """

    summary = False

    def __init__(self, name: str, *, size: int) -> None:
        super().__init__()
        if not timm.is_model(name):
            close = ", ".join(timm.list_models(f"*{name[:6]}*")[:5]) or "see timm.list_models()"
            raise ModelError(f"timm knows no network {name!r}; there are {close}")
        try:
            net: Any = timm.create_model(name, num_classes=0, img_size=size)
        except TypeError:  # convolutions take any size
            net = timm.create_model(name, num_classes=0)
        self.stages = nn.ModuleList([_Features(net)])
        self.width = int(net.num_features)

    def tokens(self, features: Tensor) -> Tensor:
        """N×C×h×w, N×h×w×C or N×T×C -> N×T×C."""
        if features.dim() == 3:
            return features
        last = features if features.shape[-1] == self.width else features.permute(0, 2, 3, 1)
        return last.flatten(1, 2)


class _Features(nn.Module):
    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.net.forward_features(x)
        return features
