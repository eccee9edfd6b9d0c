from __future__ import annotations

import copy
import importlib.util
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from anytag._typing import Floats, Rows
from anytag.errors import DeviceError, ModelError
from anytag.models.folder import ModelFolder
from anytag.runtime.base import Precision
from anytag.torch.nn.backbones import (
    PRETRAINED_PACKAGES,
    Backbone,
    FixedPadConv2d,
    fold_norms,
    imagenet_backbone,
)
from anytag.torch.nn.configs import NetworkConfig
from anytag.torch.nn.folded_decoder import FoldedDecoder, reweight_descriptions
from anytag.torch.nn.network import ImageEncoder, TagNetwork
from anytag.torch.runtime import TorchRuntime
from tests.families import enliven, tiny_config
from tests.networks import tiny_network
from tests.runtime_contract import CHECKS
from tests.tiny import make_tiny_model

WIDTH = 8
Shape = tuple[int, int, int, int, bool]  # N, T, K, P, own queries for each photo
shapes = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.integers(1, 4), st.booleans())


@pytest.fixture(scope="module")
def decoder() -> FoldedDecoder:
    torch.manual_seed(0)
    made = FoldedDecoder(WIDTH, heads=2)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    return made.requires_grad_(False)


def arguments(shape: Shape, *, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, pooled, rows; a third of the rows are padding, never all of a tag's."""
    count, length, tags, descriptions, own = shape
    random = torch.Generator().manual_seed(seed)
    tokens = torch.randn(count, length, WIDTH, generator=random)
    rows = torch.randn(count if own else 1, tags, descriptions, WIDTH, generator=random)
    padding = torch.rand(rows.shape[:3], generator=random) < 1 / 3
    padding[..., 0] &= ~padding.all(-1)
    rows[padding] = 0
    return tokens, tokens.mean(1), rows


def close(given: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(given, expected, rtol=1e-5, atol=1e-5)


def softmax(scores: list[float]) -> list[float]:
    powers = [math.exp(score - max(scores)) for score in scores]
    return [power / sum(powers) for power in powers]


def slow_query(pooled: list[float], rows: list[list[float]], temperature: float) -> list[float]:
    """One tag's descriptions, weighted by one photo."""
    length = math.sqrt(sum(x * x for x in pooled))
    real = [row for row in rows if any(row)]
    alike = [sum(x / length * y for x, y in zip(pooled, row, strict=True)) for row in real]
    shares = softmax([math.exp(temperature) * cosine for cosine in alike])
    return [sum(share * row[i] for share, row in zip(shares, real, strict=True)) for i in range(len(pooled))]


def slow_logit(decoder: FoldedDecoder, tokens: list[list[float]], query: list[float]) -> float:
    """One photo, one query: the docstring's formula, in loops over heads and tokens."""
    key, offset = decoder.key.weight.tolist(), decoder.key.bias.tolist()
    size = decoder.width // decoder.heads
    logit: float = decoder.bias.bias.item()
    logit += sum(w * x for w, x in zip(decoder.bias.weight[0].tolist(), query, strict=True))
    for head in range(decoder.heads):
        mine = range(head * size, (head + 1) * size)
        matches, answers = [], []
        for token in tokens:
            keys = {i: sum(w * x for w, x in zip(key[i], token, strict=True)) + offset[i] for i in mine}
            matches.append(sum(query[i] * keys[i] for i in mine) / math.sqrt(size))
            answers.append(sum(query[i] * token[i] for i in mine))
        logit += sum(share * answer for share, answer in zip(softmax(matches), answers, strict=True))
    return logit


@settings(max_examples=30, deadline=None)
@given(shape=shapes, seed=st.integers(0, 99))
def test_decoder_is_its_formula(decoder: FoldedDecoder, shape: Shape, seed: int) -> None:
    tokens, pooled, rows = arguments(shape, seed=seed)
    temperature = float(decoder.reweight_scale)
    expected = torch.zeros(len(tokens), rows.shape[1])
    for n in range(len(tokens)):
        for k, tag in enumerate(rows[n if shape[4] else 0].tolist()):
            query = slow_query(pooled[n].tolist(), tag, temperature)
            expected[n, k] = slow_logit(decoder, tokens[n].tolist(), query)
    close(decoder(tokens, pooled, rows), expected)


@settings(max_examples=30, deadline=None)
@given(shape=shapes, seed=st.integers(0, 99))
def test_queries_for_all_are_the_same_for_each(shape: Shape, seed: int) -> None:
    _, pooled, rows = arguments((*shape[:4], False), seed=seed)
    scale = torch.tensor(0.7)
    weighed = reweight_descriptions(pooled, rows, scale)
    assert weighed.shape == (len(pooled), rows.shape[1], WIDTH)
    close(reweight_descriptions(pooled, rows.expand(len(pooled), -1, -1, -1), scale), weighed)


@settings(max_examples=20, deadline=None)
@given(shape=shapes, padding=st.integers(1, 3), front=st.booleans())
def test_padding_has_no_weight(shape: Shape, padding: int, front: bool) -> None:
    _, pooled, rows = arguments(shape)
    scale = torch.tensor(-3.0)  # nearly uniform weights, so that padding with a weight would be noticed
    zeros = torch.zeros(*rows.shape[:2], padding, WIDTH)
    padded = torch.cat([zeros, rows] if front else [rows, zeros], dim=2)
    close(reweight_descriptions(pooled, padded, scale), reweight_descriptions(pooled, rows, scale))


def test_padding_gets_no_gradient_and_spoils_none() -> None:
    _, pooled, rows = arguments((2, 3, 4, 3, False))
    rows[:, 1] = 0  # a tag with padding only
    rows.requires_grad_()
    (slope,) = torch.autograd.grad(
        reweight_descriptions(pooled, rows, torch.tensor(1.0)).square().sum(), rows
    )
    assert torch.isfinite(slope).all()
    assert not slope[:, 1].any()


@settings(max_examples=20, deadline=None)
@given(shape=shapes, seed=st.integers(0, 99))
def test_first_pass_is_the_decoder_that_looks_evenly(decoder: FoldedDecoder, shape: Shape, seed: int) -> None:
    tokens, pooled, rows = arguments((*shape[:4], False), seed=seed)
    even = copy.deepcopy(decoder)
    nn.init.zeros_(even.key.weight)
    nn.init.zeros_(even.key.bias)
    nn.init.constant_(even.reweight_scale, -100.0)
    close(even.coarse(pooled, rows[0]), even(tokens, pooled, rows))


@settings(max_examples=20, deadline=None)
@given(shape=shapes, seed=st.integers(0, 99))
def test_tags_photos_tokens_and_descriptions_do_not_touch_each_other(
    decoder: FoldedDecoder, shape: Shape, seed: int
) -> None:
    tokens, pooled, rows = arguments(shape, seed=seed)
    whole = decoder(tokens, pooled, rows)
    random = torch.Generator().manual_seed(seed)

    def order(count: int) -> Tensor:
        return torch.randperm(count, generator=random)

    tags = order(rows.shape[1])[: 1 + seed % rows.shape[1]]
    close(decoder(tokens, pooled, rows[:, tags]), whole[:, tags])
    close(decoder(tokens[:, order(tokens.shape[1])], pooled, rows), whole)
    close(decoder(tokens, pooled, rows[:, :, order(rows.shape[2])]), whole)
    photos = order(len(tokens))[: 1 + seed % len(tokens)]
    close(decoder(tokens[photos], pooled[photos], rows[photos] if shape[4] else rows), whole[photos])


# --- backbones


def unsettle(module: nn.Module) -> None:
    """Random statistics in every batch norm: new ones are the identity."""
    torch.manual_seed(1)
    for norm in module.modules():
        if (
            isinstance(norm, nn.BatchNorm2d)
            and norm.running_mean is not None
            and norm.running_var is not None
        ):
            norm.running_mean.normal_(0, 0.3)
            norm.running_var.uniform_(0.5, 2)
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, 0, 0.3)


@pytest.fixture(scope="module")
def timms() -> nn.Module:
    torch.manual_seed(0)
    net: nn.Module = timm.create_model("tf_efficientnet_lite0").eval()
    unsettle(net)
    return net


@pytest.mark.parametrize("size", [64, 75])
@torch.inference_mode()
def test_fixed_padding_is_timms(timms: nn.Module, size: int) -> None:
    pixels = torch.randn(2, 3, size, size)
    expected = timms.forward_features(pixels)  # type: ignore[operator]
    backbone = Backbone("tf_efficientnet_lite0", size=size, net=copy.deepcopy(timms)).eval()
    assert sum(isinstance(module, FixedPadConv2d) for module in backbone.modules()) == 5
    torch.testing.assert_close(backbone(pixels), expected, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_stages_run_apart_as_together(timms: nn.Module) -> None:
    backbone = Backbone("tf_efficientnet_lite0", size=64, net=copy.deepcopy(timms)).eval()
    pixels = torch.randn(1, 3, 64, 64)
    whole = backbone(pixels)
    assert whole.shape == (1, backbone.width, 2, 2)
    for cut in (1, 4, len(backbone.stages) - 1):
        torch.testing.assert_close(backbone(backbone(pixels, 0, cut), cut), whole)


@torch.inference_mode()
def test_folded_norms_change_nothing(timms: nn.Module) -> None:
    backbone = Backbone("tf_efficientnet_lite0", size=64, net=copy.deepcopy(timms)).eval()
    pixels = torch.randn(2, 3, 64, 64)
    expected = backbone(pixels)
    fold_norms(backbone)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())
    torch.testing.assert_close(backbone(pixels), expected, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_encoder_normalises_and_averages(timms: nn.Module) -> None:
    config = NetworkConfig("tf_efficientnet_lite0", size=64, width=WIDTH, heads=2, text_hidden=4)
    backbone = Backbone("tf_efficientnet_lite0", size=64, net=copy.deepcopy(timms))
    encoder = ImageEncoder(config, backbone).eval()
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    tokens, pooled = encoder(pixels)
    features = backbone(pixels.float() / 128 - 127 / 128)  # N×C×2×2
    for n, y, x in ((0, 0, 0), (1, 1, 0)):
        close(tokens[n, 2 * y + x], encoder.proj(features[n, :, y, x]))
    close(pooled, sum(tokens[:, t] for t in range(4)) / 4)


INSTALLED = [name for name, package in PRETRAINED_PACKAGES.items() if importlib.util.find_spec(package)]


@pytest.mark.parametrize("name", INSTALLED[:1])
def test_pretrained_tensors_land_where_they_belong(name: str) -> None:
    """Weights are matched by order; this checks kinds and contents, such as that running means are means."""
    backbone, classifier = imagenet_backbone(name, size=64)
    package = importlib.util.find_spec(PRETRAINED_PACKAGES[name])
    assert package is not None and package.origin is not None
    (file,) = (Path(package.origin).parent / "models").glob("*.pth")
    stored = torch.load(file, weights_only=True, map_location="cpu")
    (rows,) = (v for k, v in stored.items() if v.shape == (1000, backbone.width))
    assert torch.equal(classifier.weight, rows)
    convolutions = {k: v for k, v in stored.items() if v.ndim == 4}
    ours = [module.weight for module in backbone.modules() if isinstance(module, nn.Conv2d)]
    assert sorted(map(checksum, ours)) == sorted(map(checksum, convolutions.values()))
    means = sorted(checksum(v) for k, v in stored.items() if k.endswith("running_mean"))
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    assert sorted(checksum(norm.running_mean) for norm in norms if norm.running_mean is not None) == means
    assert all(norm.running_var is not None and norm.running_var.min() >= 0 for norm in norms)


def checksum(tensor: Tensor) -> tuple[int, float]:
    return tensor.numel(), float(tensor.detach().double().sum())


def test_unknown_weights_are_named() -> None:
    with pytest.raises(ModelError, match=r"'resnet9000'; known: tf_efficientnet_lite0"):
        imagenet_backbone("resnet9000", size=64)


# --- the torch runtime


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """A folder of which only the sizes and the queries are used."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    return ModelFolder.open(make_tiny_model(path, width=16, size=64))


def wide_network(family: str) -> TagNetwork:
    """Random inputs of the folder's sizes."""
    torch.manual_seed(0)
    config = tiny_config(family)
    network = TagNetwork(replace(config, width=16 if config.projected else config.width, size=64))
    enliven(network)
    return network.requires_grad_(False)


class Exactly(TorchRuntime):
    """`exact` ignores the precision: with quantised activations, tags in a batch would affect each other."""

    def score(self, tokens: Floats, pooled: Floats, queries: Rows, *, exact: bool = True) -> Floats:
        return super().score(tokens, pooled, queries, exact=exact)


@pytest.fixture(scope="module", params=["mini", "ram", "ram-plus", "ram-plus in int8"])
def runtime(request: pytest.FixtureRequest) -> TorchRuntime:
    family, _, rounded = request.param.partition(" in ")
    network = tiny_network() if family == "mini" else wide_network(family)
    return Exactly(network, precision=rounded) if rounded else TorchRuntime(network)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(
    check: Callable[[TorchRuntime, ModelFolder], None], runtime: TorchRuntime, folder: ModelFolder
) -> None:
    check(runtime, folder)


def test_runtime_keeps_no_gradients(runtime: TorchRuntime) -> None:
    assert runtime.device == "cpu"
    assert not runtime.network.training
    tokens, _ = runtime.encode(np.zeros((1, 3, 64, 64), np.uint8))
    assert isinstance(tokens, np.ndarray)


def test_learned_rows_have_a_width_of_their_own() -> None:
    runtime = TorchRuntime(wide_network("tag2text"))
    tokens, pooled = runtime.encode(np.zeros((2, 3, 64, 64), np.uint8))
    rows = np.ones((1, 3, 1, 33), np.float32)
    assert runtime.score(tokens, pooled, rows).shape == (2, 3)
    assert runtime.locate(tokens, pooled, rows).shape == (2, 3, tokens.shape[1])
    with pytest.raises(ModelError, match="queries: expected float32 Q×K×P×33"):
        runtime.score(tokens, pooled, rows[..., :16])


def test_a_read_only_table_is_kept_and_a_changing_one_is_not() -> None:
    runtime = TorchRuntime(wide_network("ram-plus"))
    encoded = runtime.encode(np.full((1, 3, 64, 64), 99, np.uint8))
    rows = np.random.default_rng(0).normal(size=(1, 3, 2, 16)).astype(np.float32)
    first = runtime.score(*encoded, rows)
    rows *= -1
    assert np.abs(runtime.score(*encoded, rows) - first).max() > 1e-3
    rows.setflags(write=False)
    once = runtime.score(*encoded, rows)
    np.testing.assert_array_equal(runtime.score(*encoded, rows), once)
    np.testing.assert_array_equal(runtime.score(*encoded, rows.copy()), once)


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_fewer_bits_stay_near(precision: Precision) -> None:
    network = wide_network("ram-plus")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64), dtype=np.uint8)
    rows = np.random.default_rng(1).normal(size=(1, 5, 2, 16)).astype(np.float32)
    exact, near = (
        runtime.score(*runtime.encode(pixels), rows)
        for runtime in (TorchRuntime(network), TorchRuntime(network, precision=precision))
    )
    assert near.dtype == np.float32
    assert 0 < np.abs(near - exact).max() < 0.2


def test_a_device_that_is_not_there_is_an_error() -> None:
    with pytest.raises(DeviceError, match="'cuda:99' was requested and is not available"):
        TorchRuntime(wide_network("ram"), device="cuda:99")


def test_unprojected_tokens_are_as_wide_as_the_backbones() -> None:
    with pytest.raises(ModelError, match="tokens are 8 wide and not projected, but the width is 16"):
        TagNetwork(replace(tiny_config("tag2text"), width=16))
