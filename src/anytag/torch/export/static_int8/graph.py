"""Quantised layers -> the ONNX graph that computes them in integers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from anytag._typing import Floats
from anytag.torch.export.static_int8.rounding import QuantParams

_MICROSOFT = "com.microsoft"  # onnxruntime's operators: ONNX has no quantised addition


@dataclass(frozen=True)
class QuantizedConv:
    """A quantised convolution.

    Attributes:
        target_params: None for a last layer, whose output is float32.
        weight: int8 O×I×h×w.
        scales: float32 O, scales of the weights.
        bias: float32 O.
        pads: left, right, top, bottom.
    """

    source: str
    source_params: QuantParams
    target: str
    target_params: QuantParams | None
    weight: npt.NDArray[np.int8]
    scales: Floats
    bias: Floats
    pads: tuple[int, int, int, int]
    strides: tuple[int, int]
    groups: int

    @property
    def sources(self) -> tuple[str]:
        return (self.source,)

    @property
    def sums(self) -> Floats:
        """float32 O, scales of the 32-bit sums."""
        return (self.scales * np.float32(self.source_params.scale)).astype(np.float32)


@dataclass(frozen=True)
class QuantizedAdd:
    """The sum of two quantised tensors."""

    sources: tuple[str, str]
    source_params: tuple[QuantParams, QuantParams]
    target: str
    target_params: QuantParams


def integer_graph(
    layers: Sequence[QuantizedConv | QuantizedAdd], *, like: onnx.ModelProto
) -> onnx.ModelProto:
    """Build the graph of `layers`: the first takes the pixels, the last one gives the tokens.

    Args:
        like: the float32 graph, whose inputs, outputs and versions are reused.
    """
    (first, *_) = layers
    assert isinstance(first, QuantizedConv)  # the first layer convolves the pixels
    writer = _Writer(pixels=first.source)
    for layer in layers:
        if isinstance(layer, QuantizedAdd):
            writer.add(layer)
        elif layer.target_params is None:
            writer.project(layer)
        else:
            writer.convolve(layer, layer.target_params)
    writer.pool()
    graph = helper.make_graph(
        writer.nodes, "image", list(like.graph.input), list(like.graph.output), writer.constants
    )
    opsets = [*like.opset_import, helper.make_opsetid(_MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=like.ir_version)


class _Writer:
    def __init__(self, *, pixels: str) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._pixels = pixels  # the layers' name of the input
        self._known: dict[tuple[str, bytes], str] = {}

    def constant(self, value: npt.NDArray[Any]) -> str:
        """Add an initializer and return its name; equal ones are stored once."""
        key = (f"{value.dtype}{value.shape}", value.tobytes())
        if key not in self._known:
            self._known[key] = f"c{len(self._known)}"
            self.constants.append(numpy_helper.from_array(value, self._known[key]))
        return self._known[key]

    def params(self, params: QuantParams) -> list[str]:
        return [
            self.constant(np.array(params.scale, np.float32)),
            self.constant(np.array(params.zero, np.uint8)),
        ]

    def node(self, kind: str, inputs: list[str], output: str, **facts: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **facts))
        return output

    def convolve(self, layer: QuantizedConv, target_params: QuantParams) -> None:
        left, right, top, bottom = layer.pads
        inputs = [
            "pixels" if layer.source == self._pixels else layer.source,
            *self.params(layer.source_params),
        ]
        inputs += [self.constant(layer.weight), self.constant(layer.scales)]
        inputs += [self.constant(np.zeros(len(layer.scales), np.int8)), *self.params(target_params)]
        inputs += [self.constant(np.rint(layer.bias / layer.sums).astype(np.int32))]
        self.node(
            "QLinearConv",
            inputs,
            layer.target,
            kernel_shape=list(layer.weight.shape[2:]),
            pads=[top, left, bottom, right],
            strides=list(layer.strides),
            group=layer.groups,
        )

    def add(self, layer: QuantizedAdd) -> None:
        inputs: list[str] = []
        for name, params in zip(layer.sources, layer.source_params, strict=True):
            inputs += [name, *self.params(params)]
        inputs += self.params(layer.target_params)
        self.node("QLinearAdd", inputs, layer.target, domain=_MICROSOFT)

    def project(self, layer: QuantizedConv) -> None:
        """Add the pointwise last layer as a matrix product: N×C×h×w -> `tokens`, float32 N×hw×D."""
        width, channels = layer.weight.shape[:2]
        shape, name = self.constant(np.array([0, channels, -1], np.int64)), layer.target
        flat = self.node("Reshape", [layer.source, shape], f"{name}_columns")
        rows = self.node("Transpose", [flat], f"{name}_rows", perm=[0, 2, 1])
        scale, zero = self.params(layer.source_params)
        weight = self.constant(np.ascontiguousarray(layer.weight.reshape(width, channels).T))
        inputs = [rows, weight, scale, self.constant(layer.scales), zero, "", self.constant(layer.bias)]
        self.node("MatMulIntegerToFloat", inputs, "tokens", domain=_MICROSOFT)

    def pool(self) -> None:
        """Add `pooled`, the mean of `tokens`, N×D.

        onnxruntime sums the tokens of one photo in another order than those of several. The first photo is
        therefore appended to the batch, so that results do not depend on the batch size.
        """
        zero, one, last = (self.constant(np.array([end], np.int64)) for end in (0, 1, -1))
        first = self.node("Slice", ["tokens", zero, one, zero], "tokens_first")
        padded = self.node("Concat", ["tokens", first], "tokens_padded", axis=0)
        means = self.node("ReduceMean", [padded, one], "tokens_padded_mean", keepdims=0)
        self.node("Slice", [means, zero, last, zero], "pooled")
