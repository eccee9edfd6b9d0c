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
from anytag.torch.nn.evidence import WORD_SCALE, Evidence

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
        self.projection = self._find_projection()
        """The product of the features and the projection to tokens."""

    def _find_projection(self) -> onnx.NodeProto:
        tokens: onnx.NodeProto | None = self.producers.get("tokens")
        if tokens is None or tokens.op_type != "MatMulIntegerToFloat":
            raise ModelError(
                f"{self.file} is not an int8 image graph with one branch, from which a run could start; "
                "up to version 9 the embedded model's had two"
            )
        return tokens

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
        """A graph `pixels` -> `features` N×C, pooled features of the last stage."""
        cut = onnx.ModelProto()
        cut.CopyFrom(self.model)
        del cut.graph.output[:]
        product = self.projection
        source = [product.input[0], product.input[2], product.input[4]]  # N×T×C
        cut.graph.node.append(helper.make_node("DequantizeLinear", source, ["features_rows"]))
        axis = numpy_helper.from_array(np.array([1], np.int64), "features_axis")
        cut.graph.initializer.append(axis)
        cut.graph.node.append(
            helper.make_node("ReduceMean", ["features_rows", axis.name], ["features"], keepdims=0)
        )
        cut.graph.output.append(helper.make_tensor_value_info("features", TensorProto.FLOAT, None))
        needed = {node.name for node in self.path_to(product)} - {product.name}
        for node in [node for node in self.graph.node if node.name not in needed]:
            cut.graph.node.remove(node)
        return cut

    def with_evidence(self, evidence: Evidence, late: Tensor) -> onnx.ModelProto:
        """The graph with an evidence module, quantised, in place of a previous one.

        Args:
            late: N×F, pooled features of the last stage for some photos, which determine the range.
        """
        extended = self._without_evidence()
        (mean,) = (node for node in extended.graph.node if "pooled" in node.output)
        mean.name = mean.output[0] = "tokens_mean"
        writer = _EvidenceWriter(extended.graph)
        rows = self.producers[self.projection.input[0]]
        source = self.producers[rows.input[0]].input[0]
        params = choose_quant_params(late, starts_at_zero=True)
        means = writer.mean(source, [self.projection.input[2], self.projection.input[4]], params)
        writer.add(evidence, means)
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
    def add(self, evidence: Evidence, means: str) -> None:
        """Add `pooled` = `tokens_mean` + output of the evidence module."""
        width, hidden = evidence.out.out_features, evidence.out.in_features
        classifier, inner = evidence.classifier, evidence.seen_hidden
        rows = [means, "evidence_late_scale", "evidence_late_zero"]
        weight = torch.cat([evidence.seen.weight, inner.weight, classifier.weight])
        self.product("of_late", rows, weight, torch.cat([torch.zeros(width), inner.bias, classifier.bias]))
        seen_out, seen_hidden, logits = self.split("of_late", [width, hidden, classifier.out_features])
        self.words(evidence, logits)
        said_out, said_hidden = self.split("of_words", [width, hidden])
        self.node("Sum", [seen_hidden, said_hidden], "hidden_sum")
        self.node("Relu", ["evidence_hidden_sum"], "hidden")
        out = self.halves("out_weight", evidence.out.weight.T.numpy())
        self.node("MatMul", ["evidence_hidden", out], "of_hidden")
        bias_out = self.constant("out_bias", evidence.out.bias.numpy())
        self.node("Sum", [seen_out, said_out, "evidence_of_hidden", bias_out], "sum")
        self.node("Squeeze", ["evidence_sum", self.constant("axis", np.array([1], np.int64))], "added")
        self.node("Add", ["tokens_mean", "evidence_added"], "pooled")

    def words(self, evidence: Evidence, logits: str) -> None:
        """Class logits N×1×C -> their contribution, N×1×(D+H).

        It is linear in p and sqrt(p), so the text vectors are multiplied into the weights here. Both are
        rounded to 1/255, below which a class contributes nothing of note.
        """
        p = self.node("Softmax", [logits], "p", axis=-1)
        both = self.node("Concat", [p, self.node("Sqrt", [p], "p_root")], "probabilities", axis=-1)
        steps = [
            self.constant("probabilities_scale", np.array(1 / 255, np.float32)),
            self.constant("probabilities_zero", np.array(0, np.uint8)),
        ]
        whole = self.node("QuantizeLinear", [both, *steps], "probabilities_rounded")
        weight = torch.cat([evidence.said.weight, evidence.said_hidden.weight])
        width = evidence.names.shape[1]
        of_p, of_root, roots = weight[:, :width], weight[:, width : 2 * width], weight[:, 2 * width :]
        names = evidence.names.T
        composed = WORD_SCALE * torch.cat([of_p @ names, of_root @ names + roots], 1)
        self.product("of_words", [whole, *steps], composed, torch.zeros(len(composed)))
