"""An int8 image graph: its frozen part as a graph of its own, and the whole with evidence added."""

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
from anytag.torch.export.static_int8.rounding import Steps, round_weight, tensor_steps, weight_scales
from anytag.torch.nn.evidence import FLOOR, LOUDER, Evidence

PREFIX = "evidence_"
"""Of the names of all that evidence adds to a graph."""


class QuantizedGraph:
    """An int8 image graph, to cut and to add to.

    Raises:
        ModelError: it is not one that `export.quantize` wrote.
    """

    def __init__(self, file: Path) -> None:
        self.file, self.model = file, onnx.load(file)
        self.graph = self.model.graph
        self.known = {tensor.name: numpy_helper.to_array(tensor) for tensor in self.graph.initializer}
        self.made = {name: node for node in self.graph.node for name in node.output}
        if not self.products():
            raise ModelError(f"{file} is not an image graph in int8, which a run could start from")

    def products(self) -> list[onnx.NodeProto]:
        """The projections to tokens: of the features, then of the memory's mean."""
        (tokens,) = (node for node in self.graph.node if "tokens" in node.output)
        nodes = (
            [self.made[name] for name in tokens.input if name in self.made]
            if tokens.op_type == "Sum"
            else [tokens]
        )
        nodes = [node for node in nodes if node.op_type == "MatMulIntegerToFloat"]
        pooled = "QLinearGlobalAveragePool"
        return sorted(nodes, key=lambda node: any(n.op_type == pooled for n in self.path_to(node)))

    def path_to(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        """All that a node needs, itself included, each once."""
        seen, todo = set(), [node]
        while todo:
            node = todo.pop()
            if node.name not in seen:
                seen.add(node.name)
                todo += [self.made[name] for name in node.input if name in self.made]
                yield node

    def cut(self) -> onnx.ModelProto:
        """`pixels` -> `features` N×C, the mean of the last features, and `memory` N×C, that of the memory's.

        Raises:
            ModelError: the graph has no memory.
        """
        products = self.products()
        if len(products) < 2:
            raise ModelError(f"{self.file} has no memory, so it is no image graph of version 3 or later")
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
        made = {name: node for node in model.graph.node for name in node.output}
        todo, seen = list(outputs), set[str]()
        while todo:
            node = made.get(todo.pop())
            if node is not None and node.output[0] not in seen:
                seen.add(node.output[0])
                todo.extend(node.input)
                yield node

    def with_evidence(self, evidence: Evidence, late: Tensor) -> onnx.ModelProto:
        """The graph with `evidence` added to `pooled` in place of any before, and features seen in integers.

        Args:
            late: N×F of some photos, the means of the late features, whose range is taken.

        Raises:
            ModelError: the graph has no memory.
        """
        if len(self.products()) < 2:
            raise ModelError(f"{self.file} has no memory that evidence could be drawn from")
        grown = self._without_evidence()
        (mean,) = (node for node in grown.graph.node if "pooled" in node.output)
        mean.name = mean.output[0] = "tokens_mean"
        writer = _EvidenceWriter(grown.graph)
        projected, frozen = self.products()
        rows = self.made[projected.input[0]]
        source = self.made[rows.input[0]].input[0]
        steps = tensor_steps(late, starts_at_zero=True)
        means = writer.mean(source, [projected.input[2], projected.input[4]], steps)
        writer.add(evidence, means, steps, frozen)
        return grown

    def _without_evidence(self) -> onnx.ModelProto:
        bare = onnx.ModelProto()
        bare.CopyFrom(self.model)
        if PREFIX + "added" in self.made:
            for part in (bare.graph.node, bare.graph.initializer):
                for piece in [piece for piece in part if piece.name.startswith((PREFIX, "pooled"))]:
                    part.remove(piece)
            (mean,) = (node for node in bare.graph.node if "tokens_mean" in node.output)
            mean.name = mean.output[0] = "pooled"
        return bare


class _EvidenceWriter:
    """Appends the nodes of `Evidence` to an image graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        self.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), PREFIX + name))
        return PREFIX + name

    def halves(self, name: str, value: npt.NDArray[Any]) -> str:
        """A constant that is kept in float16 and used in float32."""
        constant = self.constant(f"{name}_halves", value.astype(np.float16))
        return self.node("Cast", [constant], name, to=TensorProto.FLOAT)

    def node(self, kind: str, inputs: list[str], *outputs: str, **facts: Any) -> str:
        names = [PREFIX + name if name != "pooled" else name for name in outputs]
        self.graph.node.append(helper.make_node(kind, inputs, names, name=names[0], **facts))
        return names[0]

    def mean(self, source: str, source_steps: list[str], steps: Steps) -> str:
        """N×C×h×w in integers -> its mean as rows, N×1×C."""
        after = [
            self.constant("late_scale", np.array(steps.scale, np.float32)),
            self.constant("late_zero", np.array(steps.zero, np.uint8)),
        ]
        inputs = [source, *source_steps, *after]
        self.node("QLinearGlobalAveragePool", inputs, "late", domain="com.microsoft", channels_last=0)
        shape = self.constant("rows", np.array([0, 1, -1], np.int64))
        return self.node("Reshape", ["evidence_late", shape], "late_rows")

    def product(self, name: str, rows: list[str], weight: Tensor, bias: Tensor) -> str:
        """Rows in integers (tensor, scale, zero) times weight O×F, in floats."""
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
    def add(self, evidence: Evidence, means: str, steps: Steps, frozen: onnx.NodeProto) -> None:
        """`pooled` = `tokens_mean` + what the evidence says."""
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
        """The classes' logits N×1×C -> what their words add, N×1×(D+H)."""
        names = self.halves("names", evidence.names.numpy())
        p = self.node("Softmax", [logits], "p", axis=-1)
        floored = self.node("Max", [p, self.constant("floor", np.array(FLOOR, np.float32))], "p_floored")
        root = self.node("Sqrt", [floored], "p_root")
        parts = [self.node("MatMul", [x, names], name) for x, name in ((p, "p_names"), (root, "root_names"))]
        both = self.node("Concat", [*parts, root], "words", axis=-1)
        weight = LOUDER * torch.cat([evidence.said.weight, evidence.said_hidden.weight])
        self.node("MatMul", [both, self.halves("words_weight", weight.T.numpy())], "of_words")
