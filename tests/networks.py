"""A small network with random weights that answers differently to different pictures."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import nn

from anytag.torch.nn.backbones import Backbone
from anytag.torch.nn.configs import NetworkConfig
from anytag.torch.nn.network import TagNetwork

_NAME = "tf_efficientnet_lite0"
TINY = NetworkConfig(_NAME, size=64, width=16, heads=2, text_hidden=8)
_STAGES, _CHANNELS, _FEATURES = 3, 40, 64


def tiny_network(*, seed: int = 0) -> TagNetwork:
    """The first stages of an EfficientNet-Lite0 for 64 pixels (8×8 tokens), and rows of 16."""
    torch.manual_seed(seed)
    net: Any = timm.create_model(_NAME)
    net.blocks = net.blocks[:_STAGES]
    net.conv_head = nn.Conv2d(_CHANNELS, _FEATURES, 1, bias=False)
    net.bn2 = type(net.bn2)(_FEATURES, act_layer=nn.ReLU6)
    net.num_features = _FEATURES
    network = TagNetwork(TINY, Backbone(_NAME, size=TINY.size, net=net))
    _calibrate_norms(network)
    network.requires_grad_(False)
    nn.init.normal_(network.folded.key.weight, std=0.3)
    nn.init.normal_(network.folded.bias.weight, std=0.3)
    return network.eval()


def _calibrate_norms(network: TagNetwork) -> None:
    """Batch norms learn what they see, as after training: fresh ones let the signal fade or burst."""
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = None  # the plain average
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.3)
    with torch.no_grad():
        coarse = torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8)
        network.train()
        network.encoder(coarse.repeat_interleave(8, 2).repeat_interleave(8, 3))
