"""`torch.nn.transformer_backbones`: timm's transformers as stages, with a global token."""

from __future__ import annotations

import pytest
import torch
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from anytag.errors import ModelError
from anytag.torch.nn.backbones import Stages
from anytag.torch.nn.configs import FAMILIES, SwinConfig, VitConfig
from anytag.torch.nn.network import make_backbone
from anytag.torch.nn.transformer_backbones import SwinBackbone, VitBackbone
from tests.families import SWIN, TINY_FAMILIES, VIT


def tokens_of(backbone: Stages, x: Tensor) -> Tensor:
    return backbone.eval().tokens(backbone(x))


@pytest.mark.parametrize("size", [32, 48, 64])
@torch.inference_mode()
def test_swin_is_timms(size: int) -> None:
    backbone = SwinBackbone(SWIN, size=size)
    timms = SwinTransformer(
        img_size=size, embed_dim=4, depths=(2, 2), num_heads=(1, 2), window_size=2, num_classes=0
    )
    timms.load_state_dict(dict(zip(timms.state_dict(), backbone.state_dict().values(), strict=True)))
    x = torch.randn(2, 3, size, size)
    expected = timms.eval().forward_features(x).flatten(1, 2)
    found = tokens_of(backbone, x)
    torch.testing.assert_close(found[:, 1:], expected)
    torch.testing.assert_close(found[:, 0], expected.mean(1))
    assert found.shape == (2, 1 + (size // 8) ** 2, backbone.width)


@torch.inference_mode()
def test_vit_is_timms() -> None:
    backbone = VitBackbone(VIT, size=32)
    timms = VisionTransformer(img_size=32, patch_size=8, embed_dim=8, depth=2, num_heads=2, num_classes=0)
    ours = {name.removeprefix("stages."): tensor for name, tensor in backbone.state_dict().items()}
    for name in timms.state_dict():
        stage, _, rest = name.partition(".")
        moved = (
            f"{int(rest.split('.')[0]) + 1}.{rest.partition('.')[2]}" if stage == "blocks" else f"0.{name}"
        )
        timms.state_dict()[name].copy_(ours[name if stage == "norm" else moved])
    x = torch.randn(2, 3, 32, 32)
    found = tokens_of(backbone, x)
    torch.testing.assert_close(found, timms.eval().forward_features(x))
    assert found.shape == (2, 17, 8)


@pytest.mark.parametrize("name", ["ram", "ram-plus with a ViT"])
@torch.inference_mode()
def test_stages_run_apart_as_together(name: str) -> None:
    backbone = make_backbone(TINY_FAMILIES[name]).eval()
    x = torch.randn(1, 3, 32, 32)
    whole = backbone(x)
    for cut in range(1, len(backbone.stages)):
        torch.testing.assert_close(backbone(backbone(x, 0, cut), cut), whole)


@pytest.mark.parametrize("size", [0, -32, 30, 36])
def test_sizes_that_do_not_fit_are_errors(size: int) -> None:
    with pytest.raises(ModelError, match=rf"image size {size}: expected a multiple of 8"):
        SwinBackbone(SWIN, size=size)
    with pytest.raises(ModelError, match=rf"image size {size}: expected a multiple of 16"):
        VitBackbone(VitConfig(width=8, depth=1, heads=1, patch=16), size=size)


@pytest.mark.parametrize(
    ("family", "width", "parameters"), [("tag2text", 1024, 86878584), ("ram", 1536, 195198516)]
)
def test_released_backbones_have_the_published_size(family: str, width: int, parameters: int) -> None:
    """Parameter counts of tests/manifest, on the meta device."""
    with torch.device("meta"):
        backbone = make_backbone(FAMILIES[family])
    assert backbone.width == width
    assert sum(parameter.numel() for parameter in backbone.parameters()) == parameters


def test_deeper_blocks_are_dropped_more_often_in_training() -> None:
    config = SwinConfig(width=4, depths=(2, 3), heads=(1, 2), window=2)
    backbone = SwinBackbone(config, size=32)
    rates = [
        float(getattr(block.get_submodule("drop_path1"), "drop_prob", 0.0))
        for stage in (1, 2)
        for block in backbone.stages[stage].get_submodule("blocks").children()
    ]
    assert rates == pytest.approx([0, 0.025, 0.05, 0.075, 0.1])
