"""Static quantisation: image.onnx in float32 -> image.onnx in int8, for any CPU.

- Activations are uint8. ReLU6 costs nothing: it is the saturation of a tensor whose range starts at zero. The
  pixels themselves are the first quantised tensor.
- Weights are int8 with one scale per output channel. CPUs without dot-product instructions (AVX2) sum two
  neighbouring products in 16 bits and saturate silently, so weights are rounded such that no sum can.
- Layer by layer, on calibration photos and *after* quantisation of the previous layers, pointwise weights are
  fitted to their actual inputs, and biases are corrected so that every channel keeps its mean.
- The last layer, which projects the features to tokens, returns float32: tokens are not quantised.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor

from anytag._typing import Bytes, Floats
from anytag.errors import ModelError
from anytag.runtime.onnx import open_session, session_options
from anytag.torch.export.static_int8.graph import QuantizedAdd, QuantizedConv, integer_graph
from anytag.torch.export.static_int8.rounding import (
    QuantParams,
    choose_quant_params,
    gptq_round,
    refit,
    round_weight,
    weight_scales,
)

PIXELS = QuantParams(1 / 128, 127)  # the network's normalisation: (pixel - 127) / 128
MIN_PHOTOS = 8
_RIDGE = 1.0  # 0.03, 0.1, 0.3 and 10 were worse, no fitting much worse
_LARGEST_BIAS = 1 << 24  # in units of the 32-bit sum
_COLUMNS = 1 << 17  # columns of a layer's input from which its moments are computed


@dataclass(frozen=True)
class QuantizationReport:
    """Similarity of the int8 graph to the float32 one, on photos that were not used for calibration.

    Attributes:
        cosine_tokens: mean cosine of a token with its float32 version.
        cosine_pooled: mean cosine of a pooled vector with its float32 version.
        bytes: size of the file.
    """

    cosine_tokens: float
    cosine_pooled: float
    bytes: int


@dataclass(frozen=True)
class _Conv:
    source: str
    target: str
    weight: Tensor
    bias: Tensor
    pads: tuple[int, int, int, int]  # left, right, top, bottom
    strides: tuple[int, int]
    groups: int
    ceiling: float | None  # upper bound of the ReLU after it
    last: bool  # whether its output stays float32

    @property
    def sources(self) -> tuple[str]:
        return (self.source,)

    def __call__(self, x: Tensor, weight: Tensor) -> Tensor:
        """N×C×H×W -> N×O×h×w without the ReLU."""
        return F.conv2d(F.pad(x, self.pads), weight, self.bias, self.strides, groups=self.groups)


@dataclass(frozen=True)
class _Add:
    sources: tuple[str, str]
    target: str


_Layer = _Conv | _Add
_Quantized = QuantizedConv | QuantizedAdd


def quantize_image_graph(source: Path, target: Path, photos: Bytes) -> QuantizationReport:
    """Write the int8 version of a float32 image graph.

    Args:
        source: image.onnx as `export_image_graph` writes it.
        target: the file to write; may be `source`.
        photos: uint8 N×3×S×S, at least 8, better 100: three quarters are for calibration, the rest for the
            report.

    Raises:
        ModelError: there are too few photos, or the graph is not an export of a network of convolutions,
            ReLU6 and additions.
    """
    if photos.dtype != np.uint8 or photos.ndim != 4 or len(photos) < MIN_PHOTOS:
        raise ModelError(
            f"photos: expected uint8 N×3×S×S with N of at least {MIN_PHOTOS}, "
            f"got {photos.dtype} {photos.shape}"
        )
    last = len(photos) * 3 // 4
    model = onnx.load(source)
    layers = _read_layers(model, source)
    with torch.inference_mode():
        quantized = _quantize_layers(layers, torch.from_numpy(photos[:last]))
    expected = _run(source, photos[last:])
    _write_optimized(integer_graph(quantized, like=model), target)
    tokens, pooled = map(_mean_cosine, _run(target, photos[last:]), expected)
    return QuantizationReport(cosine_tokens=tokens, cosine_pooled=pooled, bytes=target.stat().st_size)


# --- reading


def _read_layers(model: onnx.ModelProto, file: Path) -> list[_Layer]:
    """The layers in order; the last one gives the tokens."""
    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    clips = {node.input[0]: node for node in graph.node if node.op_type == "Clip"}
    _check_nodes(graph, constants, file)
    (grid,) = (node.input[0] for node in graph.node if node.op_type == "Reshape")
    layers: list[_Layer] = []
    for node in graph.node:
        if node.op_type == "Conv":
            last = node.output[0] == grid
            layers.append(_read_conv(node, clips.get(node.output[0]), constants, last=last))
        elif node.op_type == "Add":
            layers.append(_Add((node.input[0], node.input[1]), node.output[0]))
    return layers


def _check_nodes(graph: onnx.GraphProto, constants: Mapping[str, npt.NDArray[Any]], file: Path) -> None:
    kinds = Counter(node.op_type for node in graph.node)
    head = [kind for kind in ("Cast", "Sub", "Div", "Reshape", "Transpose") if kinds.pop(kind, 0) != 1]
    other = set(kinds) - {"Conv", "Clip", "Add", "ReduceMean"}
    if head or other:
        raise ModelError(
            f"{file} is not a float32 image graph of convolutions, ReLU6 and additions "
            f"(unexpected or missing: {', '.join([*sorted(other), *head])}); "
            "expected one from anytag.torch.export.onnx_graphs.export_image_graph"
        )
    for node in graph.node:
        expected = {"Sub": PIXELS.zero, "Div": 1 / PIXELS.scale}.get(node.op_type)
        if expected is not None and float(constants[node.input[1]]) != expected:
            raise ModelError(f"{file}: expected pixels to be normalised with {node.op_type} by {expected:g}")


def _read_conv(
    node: onnx.NodeProto,
    clip: onnx.NodeProto | None,
    constants: Mapping[str, npt.NDArray[Any]],
    *,
    last: bool,
) -> _Conv:
    facts = {fact.name: onnx.helper.get_attribute_value(fact) for fact in node.attribute}
    weight = constants[node.input[1]]
    top, left, bottom, right = facts.get("pads", (0, 0, 0, 0))
    return _Conv(
        source=node.input[0],
        target=clip.output[0] if clip else node.output[0],
        weight=torch.tensor(weight),
        bias=torch.tensor(constants[node.input[2]]) if len(node.input) > 2 else torch.zeros(len(weight)),
        pads=(left, right, top, bottom),
        strides=tuple(facts.get("strides", (1, 1))),
        groups=facts.get("group", 1),
        ceiling=float(constants[clip.input[2]]) if clip else None,
        last=last,
    )


# --- quantising


class _Tensors:
    """Activations of the float network and of the quantised one, kept as long as they are needed."""

    def __init__(self, layers: Sequence[_Layer]) -> None:
        self.exact: dict[str, Tensor] = {}
        self.codes: dict[str, Tensor] = {}
        self.params: dict[str, QuantParams] = {}
        self._uses = Counter(name for layer in layers for name in layer.sources)

    def put(self, name: str, exact: Tensor, quantized: Tensor, params: QuantParams) -> None:
        self.exact[name], self.codes[name], self.params[name] = exact, params.round(quantized), params

    def get(self, name: str) -> tuple[Tensor, Tensor]:
        """The exact tensor, and the dequantised one."""
        return self.exact[name], self.params[name].value(self.codes[name])

    def done(self, layer: _Layer) -> None:
        for name in layer.sources:
            self._uses[name] -= 1
            if not self._uses[name]:
                del self.exact[name], self.codes[name]


def _quantize_layers(layers: Sequence[_Layer], photos: Tensor) -> list[_Quantized]:
    tensors = _Tensors(layers)
    pixels = PIXELS.value(photos)
    tensors.put(layers[0].sources[0], pixels, pixels, PIXELS)
    quantized_layers: list[_Quantized] = []
    for layer in layers:
        if isinstance(layer, _Add):
            quantized_layers.append(_quantize_add(layer, tensors))
        else:
            quantized_layers.append(_quantize_conv(layer, tensors))
        tensors.done(layer)
    return quantized_layers


def _quantize_add(layer: _Add, tensors: _Tensors) -> QuantizedAdd:
    (a, given_a), (b, given_b) = (tensors.get(name) for name in layer.sources)
    params = choose_quant_params(a + b, starts_at_zero=False)
    tensors.put(layer.target, a + b, given_a + given_b, params)
    one, other = (tensors.params[name] for name in layer.sources)
    return QuantizedAdd(layer.sources, (one, other), layer.target, params)


def _quantize_conv(layer: _Conv, tensors: _Tensors) -> QuantizedConv:
    exact_input, given_input = tensors.get(layer.source)
    exact = layer(exact_input, layer.weight)
    # The bias must fit into 32 bits, also in a channel with nearly zero weights.
    finest = (layer.bias.abs() + 1e-3) / (_LARGEST_BIAS * tensors.params[layer.source].scale)
    whole, scales = _quantize_weight(layer, given_input, exact, finest=finest)
    quantized = layer(given_input, whole * scales[:, None, None, None])
    shift = (exact - quantized).mean((0, 2, 3))
    quantized += shift[:, None, None]
    params = None
    if not layer.last:
        exact = exact if layer.ceiling is None else exact.clamp(0, layer.ceiling)
        params = choose_quant_params(exact, starts_at_zero=layer.ceiling is not None)
        tensors.put(layer.target, exact, quantized, params)
    return QuantizedConv(
        source=layer.source,
        source_params=tensors.params[layer.source],
        target=layer.target,
        target_params=params,
        weight=whole.to(torch.int8).numpy(),
        scales=scales.numpy(),
        bias=(layer.bias + shift).numpy(),
        pads=layer.pads,
        strides=layer.strides,
        groups=layer.groups,
    )


def _quantize_weight(layer: _Conv, x: Tensor, y: Tensor, *, finest: Tensor) -> tuple[Tensor, Tensor]:
    """Quantised weights O×I×h×w (integers as float32) and one scale per output channel.

    Args:
        x: N×C×H×W, the dequantised input.
        y: N×O×H×W, the exact output.
        finest: O, the smallest allowed scales.
    """
    count, inputs, high, wide = layer.weight.shape
    rows = layer.weight.permute(0, 2, 3, 1).flatten(1)  # O×K, in the order of summation: channels last
    paired = layer.groups == 1  # depthwise products are always summed in 32 bits
    if (high, wide) == (1, 1) and paired:
        moments, products = _moments(x, y)
        rows = refit(rows, moments, products, ridge=_RIDGE)
        scales = weight_scales(rows, moments.diagonal(), paired=True).maximum(finest)
        whole = gptq_round(rows / scales[:, None], moments)
    else:
        scales = weight_scales(rows, torch.ones(rows.shape[1]), paired=paired).maximum(finest)
        whole = round_weight(rows / scales[:, None], paired=paired)
    return whole.reshape(count, high, wide, inputs).permute(0, 3, 1, 2).contiguous(), scales


def _moments(inputs: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Covariance of a pointwise layer's inputs C×C, and of its outputs with its inputs O×C."""
    x, y = (side.transpose(0, 1).flatten(1) for side in (inputs, outputs))
    every = max(1, x.shape[1] // _COLUMNS)
    x, y = x[:, ::every], y[:, ::every]
    x = x - x.mean(1, keepdim=True)
    y = y - y.mean(1, keepdim=True)
    return x @ x.T / x.shape[1], y @ x.T / x.shape[1]


# --- writing and comparing


def _write_optimized(model: onnx.ModelProto, target: Path) -> None:
    """Write the graph with the fusions that are valid on every CPU (level EXTENDED), to speed up loading."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "image.onnx"
        options = session_options(1)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(file)
        open_session(model.SerializeToString(), options)
        target.write_bytes(file.read_bytes())


def _run(file: Path, photos: Bytes) -> list[Floats]:
    session = open_session(file)
    parts = [
        session.run(["tokens", "pooled"], {"pixels": photos[i : i + 8]}) for i in range(0, len(photos), 8)
    ]
    return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]


def _mean_cosine(a: Floats, b: Floats) -> float:
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return float(((a * b).sum(-1) / np.maximum(norms, 1e-12)).mean())
