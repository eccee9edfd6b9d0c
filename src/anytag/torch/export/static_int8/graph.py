"""Quantised layers -> the ONNX graph that runs them in integers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from anytag._typing import Floats
from anytag.torch.export.static_int8.rounding import Steps

_MICROSOFT = "com.microsoft"  # onnxruntime's own operators: ONNX has no addition of integers with scales


@dataclass(frozen=True)
class QuantizedConv:
    """A convolution in integers.

    Attributes:
        target_steps: none for a last layer, whose output is float32.
        weight: int8 O×I×h×w.
        scales: float32 O, of the weights.
        bias: float32 O.
        pads: left, right, top, bottom.
    """

    source: str
    source_steps: Steps
    target: str
    target_steps: Steps | None
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
        """float32 O: what 1 in the 32-bit sum stands for."""
        return (self.scales * np.float32(self.source_steps.scale)).astype(np.float32)


@dataclass(frozen=True)
class QuantizedAdd:
    """The sum of two quantised tensors."""

    sources: tuple[str, str]
    source_steps: tuple[Steps, Steps]
    target: str
    target_steps: Steps


@dataclass(frozen=True)
class QuantizedMean:
    """The mean of a quantised tensor over all places, N×C×h×w -> N×C×1×1."""

    source: str
    source_steps: Steps
    target: str
    target_steps: Steps


def integer_graph(
    layers: Sequence[QuantizedConv | QuantizedAdd | QuantizedMean], *, like: onnx.ModelProto
) -> onnx.ModelProto:
    """The graph of `layers`: the first takes the pixels, the last ones are added up to the tokens.

    Args:
        like: the float32 graph, whose inputs, outputs and versions are taken.
    """
    (first, *_) = layers
    assert isinstance(first, QuantizedConv)  # a network begins with a convolution of pixels
    writer, parts = _Writer(pixels=first.source), []
    for layer in layers:
        if isinstance(layer, QuantizedAdd):
            writer.add(layer)
        elif isinstance(layer, QuantizedMean):
            writer.mean(layer)
        elif layer.target_steps is None:
            parts.append(writer.project(layer))
        else:
            writer.convolve(layer, layer.target_steps)
    writer.finish(parts)
    graph = helper.make_graph(
        writer.nodes, "image", list(like.graph.input), list(like.graph.output), writer.constants
    )
    opsets = [*like.opset_import, helper.make_opsetid(_MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=like.ir_version)


class _Writer:
    def __init__(self, *, pixels: str) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._pixels = pixels  # what the layers call the input
        self._known: dict[tuple[str, bytes], str] = {}

    def constant(self, value: npt.NDArray[Any]) -> str:
        """The name of an initializer; equal ones are stored once."""
        key = (f"{value.dtype}{value.shape}", value.tobytes())
        if key not in self._known:
            self._known[key] = f"c{len(self._known)}"
            self.constants.append(numpy_helper.from_array(value, self._known[key]))
        return self._known[key]

    def steps(self, steps: Steps) -> list[str]:
        return [
            self.constant(np.array(steps.scale, np.float32)),
            self.constant(np.array(steps.zero, np.uint8)),
        ]

    def node(self, kind: str, inputs: list[str], output: str, **facts: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **facts))
        return output

    def convolve(self, layer: QuantizedConv, target_steps: Steps) -> None:
        left, right, top, bottom = layer.pads
        inputs = ["pixels" if layer.source == self._pixels else layer.source, *self.steps(layer.source_steps)]
        inputs += [self.constant(layer.weight), self.constant(layer.scales)]
        inputs += [self.constant(np.zeros(len(layer.scales), np.int8)), *self.steps(target_steps)]
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
        for name, steps in zip(layer.sources, layer.source_steps, strict=True):
            inputs += [name, *self.steps(steps)]
        inputs += self.steps(layer.target_steps)
        self.node("QLinearAdd", inputs, layer.target, domain=_MICROSOFT)

    def mean(self, layer: QuantizedMean) -> None:
        inputs = [layer.source, *self.steps(layer.source_steps), *self.steps(layer.target_steps)]
        self.node("QLinearGlobalAveragePool", inputs, layer.target, domain=_MICROSOFT, channels_last=0)

    def project(self, layer: QuantizedConv) -> str:
        """A pointwise last layer as a matrix product: N×C×h×w -> float32 N×hw×D."""
        width, channels = layer.weight.shape[:2]
        shape, name = self.constant(np.array([0, channels, -1], np.int64)), layer.target
        flat = self.node("Reshape", [layer.source, shape], f"{name}_columns")
        rows = self.node("Transpose", [flat], f"{name}_rows", perm=[0, 2, 1])
        scale, zero = self.steps(layer.source_steps)
        weight = self.constant(np.ascontiguousarray(layer.weight.reshape(width, channels).T))
        inputs = [rows, weight, scale, self.constant(layer.scales), zero, "", self.constant(layer.bias)]
        return self.node("MatMulIntegerToFloat", inputs, f"{name}_tokens", domain=_MICROSOFT)

    def finish(self, parts: Sequence[str]) -> None:
        """The sum of the last layers, N×T×D or N×1×D each, is `tokens`; their mean `pooled` N×D.

        onnxruntime adds the tokens of one photo in another order than those of several: the first photo
        stands twice, so that the last digits are the same alone and in any batch.
        """
        self.node("Sum", list(parts), "tokens")
        zero, one, last = (self.constant(np.array([end], np.int64)) for end in (0, 1, -1))
        first = self.node("Slice", ["tokens", zero, one, zero], "tokens_first")
        padded = self.node("Concat", ["tokens", first], "tokens_padded", axis=0)
        means = self.node("ReduceMean", [padded, one], "tokens_padded_mean", keepdims=0)
        self.node("Slice", [means, zero, last, zero], "pooled")
