"""Any timm image network as a backbone, for small models."""

from __future__ import annotations

import difflib
from typing import Any

import timm
import torch
from torch import Tensor, nn

from anytag.errors import ModelError
from anytag.torch.nn.backbones import Stages


class TimmBackbone(Stages):
    """The unpooled features of a timm network; every position of the feature map is a token.

    Parameters that do not influence the features, such as those of timm's head, are not trained.

    Args:
        name: timm's name, such as resnet18.
        size: side of the square input in pixels; networks with position embeddings are created for it.

    Raises:
        ModelError: timm has no such network, it does not support this size, or it has no feature map.
    """

    has_global_token = False

    def __init__(self, name: str, *, size: int) -> None:
        super().__init__()
        if not timm.is_model(name):
            raise ModelError(
                f"timm knows no network {name!r}: give one such as {', '.join(_similar_names(name))}"
            )
        net: Any = _create(name, size)
        self.stages = nn.ModuleList([_Features(net)])
        self.width = int(net.num_features)
        self.channels_last = False
        self._probe(name, size)

    def tokens(self, features: Tensor) -> Tensor:
        """N×C×h×w, N×h×w×C or N×T×C -> N×T×C."""
        if features.dim() == 3:
            return features
        last = features if self.channels_last else features.permute(0, 2, 3, 1)
        return last.flatten(1, 2)

    def _probe(self, name: str, size: int) -> None:
        """Run a blank photo to find the layout of the features, and the parameters that influence them."""
        training = self.training
        self.eval()  # batch norms accept one photo, and there is no dropout
        try:
            with torch.enable_grad(), torch.autocast("cpu", enabled=False):
                features: Any = self.stages[0](torch.zeros(1, 3, size, size))
                form = _channels_last(features, self.width)
                if form is None:
                    raise ModelError(
                        f"{name} has no feature map that can be used for tagging: choose another backbone"
                    )
                self.channels_last = form
                trained = [p for p in self.parameters() if p.requires_grad]
                gradients = torch.autograd.grad(features.float().sum(), trained, allow_unused=True)
        except (RuntimeError, ValueError, AssertionError, IndexError, TypeError) as error:
            raise _wrong_size(name, size, error, net=self.stages[0].net) from error
        for parameter, gradient in zip(trained, gradients, strict=True):
            parameter.requires_grad_(gradient is not None)
        self.train(training)


class _Features(nn.Module):
    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.net.forward_features(x)
        return features


def _create(name: str, size: int) -> Any:
    tries: tuple[dict[str, Any], ...] = ({"img_size": size}, {})
    for numbers in tries:  # convolutional networks take any size and have no such argument
        try:
            return timm.create_model(name, num_classes=0, **numbers)
        except TypeError as error:
            failed: Exception = error
        except (RuntimeError, ValueError, AssertionError) as error:
            failed = error
            break
    raise _wrong_size(name, size, failed)


def _wrong_size(name: str, size: int, error: Exception, *, net: Any = None) -> ModelError:
    """An error with timm's reason and the size for which the network is published."""
    why = str(error).partition("\n")[0] or type(error).__name__
    usual = getattr(net, "default_cfg", {}).get("input_size", (0,))[-1]
    give = f"give network.size={usual}" if usual and usual != size else "give another network.size"
    return ModelError(f"{name} does not accept photos of size {size} ({why}): {give}")


def _channels_last(features: Any, width: int) -> bool | None:
    """Whether channels are the last axis; None unless the features are N×C×h×w, N×h×w×C or N×T×C."""
    if not isinstance(features, Tensor) or features.dim() not in (3, 4) or width not in features.shape[1:]:
        return None
    if features.dim() == 3:
        return True if features.shape[-1] == width else None
    return features.shape[1] != width  # if both axes have this length: timm's usual layout, channels first


def _similar_names(name: str) -> list[str]:
    known: list[str] = timm.list_models()
    begin = [one for one in known if name and one.startswith(name[:6])]
    return difflib.get_close_matches(name, known, n=4) or begin[:4] or ["resnet18", "convnext_tiny"]
