"""Graphs in fewer bits: float16 to be small and for a GPU, int8 for a CPU; or only stored so."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

LARGE = 1 << 16  # weights of a matrix from which int8 pays
SMALL = 1 << 12  # numbers; what holds fewer is not worth storing in fewer bits
Floats = npt.NDArray[np.float32]
_MICROSOFT = "com.microsoft"
# What sums or takes powers of many numbers stays in float32.
_FLOAT32 = ("LayerNormalization", "ReduceL2", "ReduceMean", "ReduceSum", "Softmax")


def to_float16(file: Path) -> None:
    """Stores and multiplies in float16, half the bytes; inputs, outputs, norms, softmax stay in float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = onnx.load(file)
    onnx.save(convert_float_to_float16(model, keep_io_types=True, op_block_list=list(_FLOAT32)), file)


def to_int8(file: Path, *, large: int = LARGE) -> int:
    """Products with large matrices of weights in int8: a scale for each column, and one for all of the input.

    What is multiplied is rounded as it comes, so no photos are needed; all else stays in float32.

    Returns:
        how many products.
    """
    model = onnx.load(file)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    chosen = [node for node in model.graph.node if _is_large(node, weights, large)]
    for name in {node.input[1] for node in chosen}:
        rounded, scale = _rounded(numpy_helper.to_array(weights[name]), axis=0)
        model.graph.initializer.remove(weights[name])
        model.graph.initializer.append(numpy_helper.from_array(rounded, f"{name}.int8"))
        model.graph.initializer.append(numpy_helper.from_array(scale[0], f"{name}.scale"))
    for node in chosen:
        matrix = node.input[1]
        node.op_type, node.domain = "DynamicQuantizeMatMul", _MICROSOFT
        node.input[:] = [node.input[0], f"{matrix}.int8", f"{matrix}.scale"]
    if chosen and all(one.domain != _MICROSOFT for one in model.opset_import):
        model.opset_import.append(helper.make_opsetid(_MICROSOFT, 1))
    onnx.save(model, file)
    return len(chosen)


def _is_large(node: onnx.NodeProto, weights: dict[str, onnx.TensorProto], large: int) -> bool:
    if node.op_type != "MatMul" or node.input[1] not in weights:
        return False
    shape = weights[node.input[1]].dims
    return len(shape) == 2 and shape[0] * shape[1] >= large


def shrink_graph(file: Path, precision: Literal["float16", "int8"] = "int8") -> int:
    """Stores the matrices of a graph in fewer bits; all is computed in float32.

    int8 has a scale for each row or each column, whichever loses less, so that a matrix of `round_head` stays
    as it is, also where the export turned it round. onnxruntime makes floats once, when it loads the graph.

    Returns:
        bytes of the file now.
    """
    model = onnx.load(file)
    graph, nodes = model.graph, []
    for tensor in list(graph.initializer):
        matrix = numpy_helper.to_array(tensor)
        if matrix.dtype != np.float32 or matrix.ndim != 2 or matrix.size < SMALL:
            continue
        name, stored = tensor.name, f"{tensor.name}.{precision}"
        graph.initializer.remove(tensor)
        if precision == "float16":
            graph.initializer.append(numpy_helper.from_array(matrix.astype(np.float16), stored))
            nodes.append(helper.make_node("Cast", [stored], [name], to=TensorProto.FLOAT))
            continue
        levels, scale = min((_rounded(matrix, axis=axis) for axis in (0, 1)), key=partial(_loss, matrix))
        graph.initializer.append(numpy_helper.from_array(levels, stored))
        graph.initializer.append(numpy_helper.from_array(scale, f"{name}.scale"))
        nodes.append(helper.make_node("Cast", [stored], [f"{name}.float"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Mul", [f"{name}.float", f"{name}.scale"], [name]))
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])
    onnx.save(model, file)
    return file.stat().st_size


def _rounded(matrix: Floats, *, axis: int) -> tuple[npt.NDArray[np.int8], Floats]:
    """K×N -> int8 K×N, and scales that are shared along the axis: 1×N or K×1."""
    scale = np.maximum(np.abs(matrix).max(axis, keepdims=True), 1e-12).astype(np.float32) / np.float32(127)
    return np.round(matrix / scale).astype(np.int8), scale


def _loss(matrix: Floats, rounded: tuple[npt.NDArray[np.int8], Floats]) -> float:
    levels, scale = rounded
    return float(np.abs(levels * scale - matrix).sum())
