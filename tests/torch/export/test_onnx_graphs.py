from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anytag.errors import ModelError
from anytag.models.card import Card
from anytag.models.folder import ModelFolder, write_card
from anytag.runtime.onnx import OnnxRuntime
from anytag.torch.export.onnx_graphs import LocalizingDecoder, export_folder_graphs, export_tags_graph
from anytag.torch.export.parity import check_parity
from anytag.torch.export.static_int8.graph import QuantizedAdd, QuantizedConv, integer_graph
from anytag.torch.export.static_int8.quantize import PIXELS, QuantizationReport, quantize_image_graph
from anytag.torch.export.static_int8.rounding import (
    QuantParams,
    choose_quant_params,
    gptq_round,
    refit,
    round_weight,
    weight_scales,
)
from anytag.torch.nn.network import TagNetwork
from anytag.torch.runtime import TorchRuntime
from tests.networks import TINY, tiny_network
from tests.runtime_contract import CHECKS, folder_queries, random_queries, some_pixels
from tests.tiny import make_tiny_model

Pixels = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def network() -> TagNetwork:
    return tiny_network()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, network: TagNetwork) -> ModelFolder:
    """A complete model folder with graphs exported from `network`."""
    path = make_tiny_model(tmp_path_factory.mktemp("models") / "tiny", width=TINY.width, size=TINY.size)
    export_folder_graphs(network, path)
    write_card(path, Card.read(path))
    return ModelFolder.open(path)


@pytest.fixture(scope="module")
def runtime(folder: ModelFolder) -> OnnxRuntime:
    return OnnxRuntime(folder, device="cpu")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(
    check: Callable[[OnnxRuntime, ModelFolder], None], runtime: OnnxRuntime, folder: ModelFolder
) -> None:
    check(runtime, folder)


@pytest.mark.parametrize("own", [False, True], ids=["Q=1", "Q=N"])
@pytest.mark.parametrize("photos", [1, 3])
def test_graphs_say_what_the_network_says(
    runtime: OnnxRuntime, network: TagNetwork, folder: ModelFolder, photos: int, own: bool
) -> None:
    torch_runtime, pixels = TorchRuntime(network), some_pixels(folder, photos)
    tokens, pooled = runtime.encode(pixels)
    for ours, theirs in zip((tokens, pooled), torch_runtime.encode(pixels), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    queries = random_queries(folder, (photos if own else 1, 11, 4))
    queries[:, 3, 1:] = 0
    expected = torch_runtime.score(tokens, pooled, queries)
    np.testing.assert_allclose(runtime.score(tokens, pooled, queries), expected, rtol=1e-4, atol=1e-4)
    where = torch_runtime.locate(tokens, pooled, queries)
    assert where.shape == (photos, 11, tokens.shape[1])
    np.testing.assert_allclose(runtime.locate(tokens, pooled, queries), where, rtol=1e-4, atol=1e-4)


def test_export_leaves_the_network_as_it_was(network: TagNetwork, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    export_tags_graph(network.folded, tmp_path / "tags.onnx")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_axes_have_names_and_graphs_no_paths(folder: ModelFolder) -> None:
    for name, axes in (("image.onnx", "N"), ("tags.onnx", "NTQKP")):
        model = onnx.load(folder.file(name))
        values = [*model.graph.input, *model.graph.output]
        names = {size.dim_param for value in values for size in value.type.tensor_type.shape.dim}
        assert names - {""} == set(axes)
        assert str(Path(__file__).parents[3]) not in str(model)


def test_image_graph_is_nothing_but_convolutions(folder: ModelFolder) -> None:
    kinds = Counter(node.op_type for node in onnx.load(folder.file("image.onnx")).graph.node)
    assert kinds.pop("Conv") == 17  # 16 of the backbone and the projection
    assert set(kinds) == {"Cast", "Sub", "Div", "Clip", "Add", "Reshape", "Transpose", "ReduceMean"}


def test_a_graph_of_another_network_is_found_out(folder: ModelFolder, network: TagNetwork) -> None:
    other = tiny_network(seed=1).folded
    batch = tuple(torch.randn(*shape) for shape in ((2, 3, 16), (2, 16), (1, 4, 2, 16)))
    file = folder.file("tags.onnx")
    assert check_parity(LocalizingDecoder(network.folded), file, [batch]) < 1e-5
    with pytest.raises(ModelError, match=r"tags\.onnx: logits for inputs 2×3×16, .* differ by"):
        check_parity(LocalizingDecoder(other), file, [batch])


# --- rounding


def pair_sums(whole: npt.NDArray[np.float32]) -> float:
    """The largest sum of two neighbours of one sign."""
    padded = np.pad(whole, ((0, 0), (0, whole.shape[1] % 2))).reshape(len(whole), -1, 2)
    return float(max(padded.clip(min=0).sum(2).max(), (-padded).clip(min=0).sum(2).max()))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 999),
    rows=st.integers(1, 4),
    width=st.integers(1, 70),
    spread=st.sampled_from([1.0, 60.0, 127.0, 300.0]),
)
def test_no_pair_of_weights_saturates(seed: int, rows: int, width: int, spread: float) -> None:
    random = torch.Generator().manual_seed(seed)
    units = (torch.rand(rows, width, generator=random) * 2 - 1) * spread
    inputs = torch.randn(200, width, generator=random)
    for whole in (round_weight(units, paired=True), gptq_round(units, inputs.T @ inputs / 200)):
        assert torch.equal(whole, whole.round())
        assert whole.abs().max() <= 127
        assert pair_sums(whole.numpy()) * 255 <= 32767
    assert torch.equal(round_weight(units, paired=False), units.clamp(-127, 127).round())


def test_small_weights_are_rounded_to_the_nearest() -> None:
    units = (torch.rand(5, 33) * 2 - 1) * 60
    assert torch.equal(round_weight(units, paired=True), units.round())


def test_rounding_in_turn_makes_up_for_errors() -> None:
    random = torch.Generator().manual_seed(0)
    inputs = torch.randn(500, 96, generator=random) @ torch.randn(96, 96, generator=random)
    units = torch.randn(20, 96, generator=random) * 5
    moments = inputs.T @ inputs / 500

    def error(whole: torch.Tensor) -> float:
        return float((inputs @ (whole - units).T).square().mean())

    assert error(gptq_round(units, moments)) < 0.5 * error(round_weight(units, paired=True))


def test_refit_finds_the_weights_for_other_inputs() -> None:
    random = torch.Generator().manual_seed(0)
    weight, inputs = torch.randn(3, 8, generator=random), torch.randn(400, 8, generator=random)
    changed = inputs * torch.linspace(0.5, 2, 8)
    moments, products = changed.T @ changed / 400, (inputs @ weight.T).T @ changed / 400
    torch.testing.assert_close(
        refit(weight, moments, products, ridge=1e-6) * torch.linspace(0.5, 2, 8), weight, rtol=0, atol=1e-3
    )
    torch.testing.assert_close(refit(weight, moments, products, ridge=1e6), weight, rtol=0, atol=1e-3)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), offset=st.floats(-3, 3), relu=st.booleans())
def test_tensor_steps_cover_what_is_there(seed: int, offset: float, relu: bool) -> None:
    values = torch.randn(4000, generator=torch.Generator().manual_seed(seed)) + offset
    values = values.relu() if relu else values
    steps = choose_quant_params(values, starts_at_zero=relu)
    assert 0 <= steps.zero <= 255
    assert not (relu and steps.zero)
    assert float(steps.value(torch.tensor(steps.zero))) == 0, "padding is exact"
    widest = float(values.max().clamp_min(0) - values.min().clamp_max(0))
    assert float((steps.value(steps.round(values)) - values).square().mean()) < (widest / 255) ** 2 / 8


def test_weight_scales_follow_the_row() -> None:
    rows = torch.randn(4, 30) * torch.tensor([[1e-3], [1.0], [50.0], [0.0]])
    scales = weight_scales(rows, torch.ones(30), paired=True)
    assert torch.isfinite(scales).all()
    back = round_weight(rows / scales[:, None], paired=True) * scales[:, None]
    assert ((back - rows).abs().amax(1) <= 0.03 * rows.abs().amax(1)).all()


# --- integer arithmetic of this machine, against numpy's

KINDS = {"pointwise": (1, 1, 1), "stem": (3, 2, 1), "depthwise": (3, 1, 32), "depthwise 5": (5, 2, 32)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [32, 33])
def test_integer_convolutions_are_exact(kind: str, channels: int) -> None:
    """With the largest weights that rounding lets pass, and inputs of 0 and 255, no CPU may saturate."""
    side, stride, groups = KINDS[kind]
    random = np.random.default_rng(0)
    depthwise = groups > 1
    groups = channels if depthwise else 1
    inputs = 1 if depthwise else 3 if kind == "stem" else channels
    units = torch.tensor(random.choice([-200.0, 200.0, 64, 3], (channels, side * side * inputs)))
    whole = round_weight(units, paired=not depthwise).reshape(channels, side, side, inputs)
    pixels = random.choice(np.array([0, 255], np.uint8), (2, inputs * groups, 9, 9))
    layer = QuantizedConv(
        source="x",
        source_params=QuantParams(1.0, 0),
        target="y",
        target_params=QuantParams(float(side * side * inputs * 100), 128),
        weight=whole.permute(0, 3, 1, 2).to(torch.int8).numpy().copy(),
        scales=np.ones(channels, np.float32),
        bias=random.integers(-5000, 5000, channels).astype(np.float32),
        pads=(side // 2,) * 4,
        strides=(stride, stride),
        groups=groups,
    )
    float_weight = torch.from_numpy(layer.weight).double()
    sums = torch.nn.functional.conv2d(
        torch.from_numpy(pixels).double(),
        float_weight,
        torch.from_numpy(layer.bias).double(),
        stride,
        side // 2,
        groups=groups,
    )
    assert layer.target_params is not None
    expected = (sums.float() / layer.target_params.scale).round().clamp(-128, 127)  # with the ties of float32
    tokens = _run([layer, _identity(channels)], pixels, channels)
    difference = np.abs(tokens - expected.flatten(2).transpose(1, 2).numpy())
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3, "only ties may be decided in another way"


@pytest.mark.parametrize("channels", [32, 33])
def test_integer_projection_is_exact(channels: int) -> None:
    random = np.random.default_rng(0)
    whole = round_weight(torch.tensor(random.choice([-200.0, 200.0, 64, 3], (24, channels))), paired=True)
    pixels = random.choice(np.array([0, 255], np.uint8), (2, channels, 3, 3))
    same = replace(_identity(channels), source="x", source_params=QuantParams(1.0, 0), target="y")
    weight = whole[:, :, None, None].to(torch.int8).numpy()
    scales, bias = random.uniform(0.5, 2, 24).astype(np.float32), random.normal(size=24).astype(np.float32)
    last = replace(
        _identity(channels), source_params=QuantParams(0.5, 0), weight=weight, scales=scales, bias=bias
    )
    tokens = _run([replace(same, target_params=QuantParams(1.0, 0)), last], pixels, 24)
    columns = pixels.reshape(2, channels, 9).transpose(0, 2, 1).astype(np.int64)
    expected = (columns @ whole.numpy().T.astype(np.int64)) * (scales * 0.5) + bias
    np.testing.assert_allclose(tokens, expected, rtol=1e-6, atol=1e-3)


def _identity(channels: int) -> QuantizedConv:
    return QuantizedConv(
        source="y",
        source_params=QuantParams(1.0, 128),
        target="tokens",
        target_params=None,
        weight=np.eye(channels, dtype=np.int8)[:, :, None, None],
        scales=np.ones(channels, np.float32),
        bias=np.zeros(channels, np.float32),
        pads=(0, 0, 0, 0),
        strides=(1, 1),
        groups=1,
    )


def _run(layers: list[QuantizedConv | QuantizedAdd], pixels: Pixels, width: int) -> npt.NDArray[np.float32]:
    make = onnx.helper.make_tensor_value_info
    inputs = [make("pixels", onnx.TensorProto.UINT8, ["N", *pixels.shape[1:]])]
    outputs = [make("tokens", onnx.TensorProto.FLOAT, ["N", "T", width])]
    outputs.append(make("pooled", onnx.TensorProto.FLOAT, ["N", width]))
    like = onnx.helper.make_model(
        onnx.helper.make_graph([], "like", inputs, outputs),
        opset_imports=[onnx.helper.make_opsetid("", 20)],
        ir_version=10,
    )
    graph = integer_graph(layers, like=like).SerializeToString()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    tokens: npt.NDArray[np.float32] = session.run(["tokens"], {"pixels": pixels})[0]
    return tokens


# --- the whole graph


@pytest.fixture(scope="module")
def photos(folder: ModelFolder) -> Pixels:
    return some_pixels(folder, 48, seed=5)


@pytest.fixture(scope="module")
def integer(
    tmp_path_factory: pytest.TempPathFactory, folder: ModelFolder, photos: Pixels
) -> tuple[ModelFolder, QuantizationReport]:
    path = tmp_path_factory.mktemp("models") / "integer"
    shutil.copytree(folder.path, path)
    report = quantize_image_graph(path / "image.onnx", path / "image.onnx", photos)
    write_card(path, Card.read(path))
    return ModelFolder.open(path), report


def test_integer_graph_is_close_and_small(
    integer: tuple[ModelFolder, QuantizationReport], folder: ModelFolder, runtime: OnnxRuntime
) -> None:
    made, report = integer
    assert report.bytes == made.file("image.onnx").stat().st_size
    assert report.bytes < 0.4 * folder.file("image.onnx").stat().st_size
    assert 0.97 < report.cosine_tokens <= 1
    assert 0.98 < report.cosine_pooled <= 1
    kinds = Counter(node.op_type for node in onnx.load(made.file("image.onnx")).graph.node)
    assert kinds == {
        "QLinearConv": 16,
        "QLinearAdd": 2,
        "MatMulIntegerToFloat": 1,
        "Reshape": 1,
        "Transpose": 1,
        "ReduceMean": 1,
        "Slice": 2,
        "Concat": 1,
    }


def test_integer_weights_leave_room(integer: tuple[ModelFolder, QuantizationReport]) -> None:
    graph = onnx.load(integer[0].file("image.onnx")).graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    seen = 0
    for node in graph.node:
        if node.op_type == "QLinearConv":
            weight = constants[node.input[3]].transpose(0, 2, 3, 1)
            if weight.shape[3] > 1:
                assert pair_sums(weight.reshape(len(weight), -1).astype(np.float32)) <= 128
                seen += 1
        if node.op_type == "MatMulIntegerToFloat":
            assert pair_sums(constants[node.input[1]].T.astype(np.float32)) <= 128
            seen += 1
    assert seen == 12


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_integer_contract(
    check: Callable[[OnnxRuntime, ModelFolder], None], integer: tuple[ModelFolder, QuantizationReport]
) -> None:
    check(OnnxRuntime(integer[0], device="cpu"), integer[0])


def test_integer_logits_keep_the_order(
    integer: tuple[ModelFolder, QuantizationReport], runtime: OnnxRuntime, folder: ModelFolder
) -> None:
    pixels, queries = some_pixels(folder, 12, seed=9), folder_queries(folder)
    ours = OnnxRuntime(integer[0], device="cpu")
    given = ours.score(*ours.encode(pixels), queries)
    expected = runtime.score(*runtime.encode(pixels), queries)
    assert np.corrcoef(given.ravel(), expected.ravel())[0, 1] > 0.98


def test_what_cannot_be_quantised_is_named(tmp_path: Path, folder: ModelFolder, photos: Pixels) -> None:
    with pytest.raises(ModelError, match="at least 8, got uint8"):
        quantize_image_graph(folder.file("image.onnx"), tmp_path / "image.onnx", photos[:7])
    with pytest.raises(ModelError, match=r"tags\.onnx is not a float32 image graph"):
        quantize_image_graph(folder.file("tags.onnx"), tmp_path / "image.onnx", photos)
    assert not list(tmp_path.iterdir())
    assert PIXELS.value(torch.tensor([127], dtype=torch.uint8)).item() == 0
