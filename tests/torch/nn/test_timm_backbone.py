"""`anytag.torch.nn.timm_backbone`: any timm network, all of whose trained parameters are used."""

from __future__ import annotations

import pytest
import torch

from anytag.errors import ModelError
from anytag.torch.nn.timm_backbone import TimmBackbone

NETWORKS = {
    "resnet10t": 0,
    "mobilenetv3_small_050": 2,  # conv_head
    "mobilenetv4_conv_small_050": 3,
    "convnext_atto": 2,  # head.norm
    "efficientvit_b0": 6,
    "tiny_vit_5m_224": 2,
    "vit_tiny_patch16_224": 0,
}


@pytest.mark.parametrize(("name", "frozen"), NETWORKS.items())
def test_all_that_is_trained_has_a_gradient(name: str, frozen: int) -> None:
    """DDP requires it; tested in training mode, with another batch size than the probe's."""
    backbone = TimmBackbone(name, size=64).train()
    tokens = backbone.tokens(backbone(torch.rand(2, 3, 64, 64)))
    assert tokens.shape[-1] == backbone.width
    tokens.sum().backward()  # type: ignore[no-untyped-call]
    left = [p for p in backbone.parameters() if not p.requires_grad]
    assert len(left) == frozen
    assert all(p.grad is not None for p in backbone.parameters() if p.requires_grad)


def test_making_one_draws_no_lots_of_its_own() -> None:
    torch.manual_seed(0)
    TimmBackbone("resnet10t", size=32)
    one = torch.rand(1)
    torch.manual_seed(0)
    import timm

    timm.create_model("resnet10t", num_classes=0)
    assert torch.equal(one, torch.rand(1))


def test_channels_may_be_the_last_axis() -> None:
    swin = TimmBackbone("swin_tiny_patch4_window7_224", size=224)
    assert swin.channels_last
    with torch.no_grad():
        assert swin.tokens(swin(torch.zeros(1, 3, 224, 224))).shape == (1, 49, 768)


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        ("resnet1x", 64, "timm knows no network 'resnet1x': give one such as resnet"),
        ("???", 64, "give one such as resnet18"),
        ("", 64, "timm knows no network ''"),
        ("coat_tiny", 64, "has no feature map"),
        ("vit_tiny_patch16_224", 8, "does not accept photos of size 8"),
        ("crossvit_tiny_240", 224, "give network.size=240"),
    ],
)
def test_what_cannot_be_a_backbone(name: str, size: int, said: str) -> None:
    with pytest.raises(ModelError) as caught:
        TimmBackbone(name, size=size)
    assert said in str(caught.value)
