"""Edit an int8 image graph: extract its frozen part, or add an evidence module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from anytag.errors import ModelError
from anytag.torch.export.static_int8.rounding import (
    QuantParams,
    choose_quant_params,
    round_weight,
    weight_scales,
)
from anytag.torch.nn.evidence import MIN_PROBABILITY, WORD_SCALE, Evidence

PREFIX = "evidence_"
"""Prefix of the names of nodes and constants of the evidence module."""


class QuantizedGraph:
    """An int8 image graph.

    Raises:
        ModelError: it was not written by `export.static_int8.quantize`.
    """

    def __init__(self, file: Path) -> None:
        self.file, self.model = file, onnx.load(file)
        self.graph = self.model.graph
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in self.graph.initializer}
        self.producers = {name: node for node in self.graph.node for name in node.output}
        if not self.products():
            raise ModelError(f"{file} is not an int8 image graph, from which a run could start")

    def products(self) -> list[onnx.NodeProto]:
        """The projections to tokens: of the features, then of the frozen branch's mean."""
        (tokens,) = (node for node in self.graph.node if "tokens" in node.output)
        nodes = (
            [self.producers[name] for name in tokens.input if name in self.producers]
            if tokens.op_type == "Sum"
            else [tokens]
        )
        nodes = [node for node in nodes if node.op_type == "MatMulIntegerToFloat"]
        pooled = "QLinearGlobalAveragePool"
        return sorted(nodes, key=lambda node: any(n.op_type == pooled for n in self.path_to(node)))

    def path_to(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        """A node and all nodes it depends on, each once."""
        visited, todo = set(), [node]
        while todo:
            node = todo.pop()
            if node.name not in visited:
                visited.add(node.name)
                todo += [self.producers[name] for name in node.input if name in self.producers]
                yield node

    def cut(self) -> onnx.ModelProto:
        """A graph `pixels` -> `features` N×C and `memory` N×C, pooled features of both branches.

        Raises:
            ModelError: the graph has no frozen branch.
        """
        products = self.products()
        if len(products) < 2:
            raise ModelError(
                f"{self.file} has no frozen branch; expected an image graph of version 3 or later"
            )
        cut = onnx.ModelProto()
        cut.CopyFrom(self.model)
        del cut.graph.output[:]
        for name, product in zip(("features", "memory"), products, strict=True):
            rows = f"{name}_rows"
            source = [product.input[0], product.input[2], product.input[4]]  # N×T×C
            cut.graph.node.append(helper.make_node("DequantizeLinear", source, [rows]))
            axis = numpy_helper.from_array(np.array([1], np.int64), f"{name}_axis")
            cut.graph.initializer.append(axis)
            cut.graph.node.append(helper.make_node("ReduceMean", [rows, axis.name], [name], keepdims=0))
            cut.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
        used = {name for node in self._needed(cut, ["features", "memory"]) for name in node.output}
        for node in [node for node in cut.graph.node if node.output[0] not in used]:
            cut.graph.node.remove(node)
        return cut

    @staticmethod
    def _needed(model: onnx.ModelProto, outputs: list[str]) -> Iterator[onnx.NodeProto]:
        producers = {name: node for node in model.graph.node for name in node.output}
        todo, visited = list(outputs), set[str]()
        while todo:
            node = producers.get(todo.pop())
            if node is not None and node.output[0] not in visited:
                visited.add(node.output[0])
                todo.extend(node.input)
                yield node

    def with_evidence(self, evidence: Evidence, late: Tensor) -> onnx.ModelProto:
        """The graph with an evidence module, quantised, in place of a previous one.

        Args:
            late: N×F, pooled features of the last stage for some photos, which determine the range.

        Raises:
            ModelError: the graph has no frozen branch.
        """
        if len(self.products()) < 2:
            raise ModelError(f"{self.file} has no frozen branch, which an evidence module needs")
        extended = self._without_evidence()
        (mean,) = (node for node in extended.graph.node if "pooled" in node.output)
        mean.name = mean.output[0] = "tokens_mean"
        writer = _EvidenceWriter(extended.graph)
        projected, frozen = self.products()
        rows = self.producers[projected.input[0]]
        source = self.producers[rows.input[0]].input[0]
        params = choose_quant_params(late, starts_at_zero=True)
        means = writer.mean(source, [projected.input[2], projected.input[4]], params)
        writer.add(evidence, means, params, frozen)
        return extended

    def _without_evidence(self) -> onnx.ModelProto:
        bare = onnx.ModelProto()
        bare.CopyFrom(self.model)
        if PREFIX + "added" in self.producers:
            for part in (bare.graph.node, bare.graph.initializer):
                for piece in [piece for piece in part if piece.name.startswith((PREFIX, "pooled"))]:
                    part.remove(piece)
            (mean,) = (node for node in bare.graph.node if "tokens_mean" in node.output)
            mean.name = mean.output[0] = "pooled"
        return bare


class _EvidenceWriter:
    """Appends the nodes of an `Evidence` module to an image graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        self.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), PREFIX + name))
        return PREFIX + name

    def halves(self, name: str, value: npt.NDArray[Any]) -> str:
        """A constant that is stored in float16 and used in float32."""
        constant = self.constant(f"{name}_halves", value.astype(np.float16))
        return self.node("Cast", [constant], name, to=TensorProto.FLOAT)

    def node(self, kind: str, inputs: list[str], *outputs: str, **facts: Any) -> str:
        names = [PREFIX + name if name != "pooled" else name for name in outputs]
        self.graph.node.append(helper.make_node(kind, inputs, names, name=names[0], **facts))
        return names[0]

    def mean(self, source: str, source_params: list[str], params: QuantParams) -> str:
        """Mean of a quantised tensor: N×C×h×w -> quantised N×1×C."""
        after = [
            self.constant("late_scale", np.array(params.scale, np.float32)),
            self.constant("late_zero", np.array(params.zero, np.uint8)),
        ]
        inputs = [source, *source_params, *after]
        self.node("QLinearGlobalAveragePool", inputs, "late", domain="com.microsoft", channels_last=0)
        shape = self.constant("rows", np.array([0, 1, -1], np.int64))
        return self.node("Reshape", ["evidence_late", shape], "late_rows")

    def product(self, name: str, rows: list[str], weight: Tensor, bias: Tensor) -> str:
        """Product of quantised rows (tensor, scale, zero) with quantised weights O×F, in float32."""
        scales = weight_scales(weight, torch.ones(weight.shape[1]), paired=True)
        whole = round_weight(weight / scales[:, None], paired=True).to(torch.int8).numpy()
        tensor, scale, zero = rows
        inputs = [tensor, self.constant(f"{name}_weight", whole.T), scale]
        inputs += [self.constant(f"{name}_scales", scales.numpy()), zero, ""]
        inputs += [self.constant(f"{name}_bias", bias.numpy())]
        return self.node("MatMulIntegerToFloat", inputs, name, domain="com.microsoft")

    def split(self, name: str, sizes: list[int]) -> list[str]:
        parts = [f"{name}_{number}" for number in range(len(sizes))]
        self.node(
            "Split",
            [f"evidence_{name}", self.constant(f"{name}_sizes", np.array(sizes, np.int64))],
            *parts,
            axis=-1,
        )
        return [f"evidence_{part}" for part in parts]

    @torch.no_grad()
    def add(self, evidence: Evidence, means: str, params: QuantParams, frozen: onnx.NodeProto) -> None:
        """Add `pooled` = `tokens_mean` + output of the evidence module."""
        features, width = evidence.classifier.in_features, evidence.out.out_features
        hidden, classes = evidence.out.in_features, evidence.classifier.out_features
        seen, inner = evidence.seen.weight, evidence.seen_hidden.weight
        late = torch.cat([seen[:, :features], inner[:, :features]])
        memory = torch.cat([seen[:, features:], inner[:, features:], evidence.classifier.weight])
        nothing = torch.zeros(width)
        rows = [means, "evidence_late_scale", "evidence_late_zero"]
        self.product("of_late", rows, late, torch.cat([nothing, evidence.seen_hidden.bias]))
        rows = [frozen.input[0], frozen.input[2], frozen.input[4]]
        bias = torch.cat([nothing, torch.zeros(hidden), evidence.classifier.bias])
        self.product("of_memory", rows, memory, bias)
        late_out, late_hidden = self.split("of_late", [width, hidden])
        memory_out, memory_hidden, logits = self.split("of_memory", [width, hidden, classes])
        self.words(evidence, logits)
        said_out, said_hidden = self.split("of_words", [width, hidden])
        self.node("Sum", [late_hidden, memory_hidden, said_hidden], "hidden_sum")
        self.node("Relu", ["evidence_hidden_sum"], "hidden")
        out = self.halves("out_weight", evidence.out.weight.T.numpy())
        self.node("MatMul", ["evidence_hidden", out], "of_hidden")
        bias_out = self.constant("out_bias", evidence.out.bias.numpy())
        self.node("Sum", [late_out, memory_out, said_out, "evidence_of_hidden", bias_out], "sum")
        self.node("Squeeze", ["evidence_sum", self.constant("axis", np.array([1], np.int64))], "added")
        self.node("Add", ["tokens_mean", "evidence_added"], "pooled")

    def words(self, evidence: Evidence, logits: str) -> None:
        """Class logits N×1×C -> their contribution, N×1×(D+H)."""
        names = self.halves("names", evidence.names.numpy())
        p = self.node("Softmax", [logits], "p", axis=-1)
        floored = self.node(
            "Max", [p, self.constant("floor", np.array(MIN_PROBABILITY, np.float32))], "p_floored"
        )
        root = self.node("Sqrt", [floored], "p_root")
        parts = [self.node("MatMul", [x, names], name) for x, name in ((p, "p_names"), (root, "root_names"))]
        both = self.node("Concat", [*parts, root], "words", axis=-1)
        weight = WORD_SCALE * torch.cat([evidence.said.weight, evidence.said_hidden.weight])
        self.node("MatMul", [both, self.halves("words_weight", weight.T.numpy())], "of_words")
