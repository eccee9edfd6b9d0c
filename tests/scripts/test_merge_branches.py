"""`scripts.merge_branches`: two branches of the embedded model become one."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from anytag.torch.nn.backbones import Backbone, fold_norms, imagenet_backbone
from anytag.torch.nn.configs import FAMILIES, EvidenceConfig
from anytag.torch.nn.evidence import Evidence
from scripts.merge_branches import STAGE, estimate, merged_encoder, pool

WIDTH, FEATURES = 512, 1280


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    made, _ = imagenet_backbone("tf_efficientnet_lite0", size=FAMILIES["mini"].size)
    assert isinstance(made, Backbone)
    fold_norms(made)
    return made


@pytest.fixture(scope="module")
def features() -> Tensor:
    """Inputs of the late stages."""
    return torch.randn(96, 80, 14, 14, generator=torch.Generator().manual_seed(0))


def two_branches(backbone: Backbone) -> dict[str, Tensor]:
    """Random projections of the features of two branches."""
    torch.manual_seed(1)
    evidence = Evidence(EvidenceConfig(), 2 * FEATURES, WIDTH)
    nn.init.normal_(evidence.seen.weight, std=0.1)
    parts = {f"evidence.{n}": w for n, w in evidence.named_parameters() if not n.startswith("classifier")}
    parts |= {f"backbone.{n}": w for n, w in backbone.named_parameters()}
    projections = {
        "proj.weight": (WIDTH, FEATURES),
        "proj.bias": (WIDTH,),
        "recall.weight": (WIDTH, FEATURES),
    }
    return parts | {name: torch.randn(shape) for name, shape in projections.items()}


@torch.no_grad()
def test_equal_branches_are_merged_exactly(backbone: Backbone, features: Tensor) -> None:
    before = two_branches(backbone)
    after = merged_encoder(before, features)
    x = pool(backbone.stages[STAGE:], features)
    both = torch.cat([x, x], 1)
    for name in ("seen", "seen_hidden"):
        bias = before.get(f"evidence.{name}.bias", torch.zeros(1))
        expected = both @ before[f"evidence.{name}.weight"].T + bias
        found = x @ after[f"evidence.{name}.weight"].T + after.get(f"evidence.{name}.bias", torch.zeros(1))
        if name == "seen":  # its constant is in the bias of the output
            found = found + after["evidence.out.bias"] - before["evidence.out.bias"]
        assert (found - expected).abs().max() < 0.02 * expected.std()
    expected = x @ (before["proj.weight"] + before["recall.weight"]).T + before["proj.bias"]
    found = x @ after["proj.weight"].T + after["proj.bias"]
    assert (found - expected).abs().max() < 0.02 * expected.std()
    assert not any(name.startswith("recall") for name in after)


@torch.no_grad()
def test_merged_weights_are_the_mean(backbone: Backbone, features: Tensor) -> None:
    trained = deepcopy(backbone)
    for weight in trained.stages.parameters():
        weight.mul_(1.01)
    after = merged_encoder(two_branches(trained), features[:8])
    for name, weight in backbone.named_parameters():
        assert torch.allclose(after[f"backbone.{name}"], 1.005 * weight, atol=1e-5)


def test_the_estimate_is_least_squares() -> None:
    x = torch.randn(400, 6, generator=torch.Generator().manual_seed(0))
    weight, bias = torch.randn(4, 6), torch.randn(4)
    found, found_bias = estimate(x, x @ weight.T + bias)
    assert torch.allclose(found, weight, atol=0.01) and torch.allclose(found_bias, bias, atol=0.01)
