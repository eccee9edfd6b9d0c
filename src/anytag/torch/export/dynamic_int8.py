"""Conversion of graphs to fp16, dynamic int8 and weight-only int8."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from anytag._typing import Floats
from anytag.queries.bank import quantized

MIN_INT8_WEIGHTS = 1 << 16  # smaller matrices are not faster in int8
MIN_QUANTIZED_SIZE = 1 << 12  # smaller tensors stay in float32
MLP_WEIGHTS = 1 << 20  # a size that only the MLPs of a published tag decoder reach
_MICROSOFT, _PRODUCT = "com.microsoft", "DynamicQuantizeMatMul"
# The axis of the rows of a product's input, and the number of rows from which their mean is estimated: the
# mean of 256 rows takes onnxruntime 2.2 ms, their product with 3072×768 weights 3.0 ms.
_ROWS, _FIRST, _SOME = "rows", "rows.first", "rows.some"
_NUMBERS = {_ROWS: -2, _FIRST: 0, _SOME: 32}
# Operators that sum many values or take powers stay in float32.
_FLOAT32 = ("LayerNormalization", "ReduceL2", "ReduceMean", "ReduceSum", "Softmax")


def to_float16(file: Path) -> None:
    """Convert a graph to float16, half the size; inputs, outputs, norms and softmax stay in float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = onnx.load(file)
    onnx.save(convert_float_to_float16(model, keep_io_types=True, op_block_list=list(_FLOAT32)), file)


def to_int8(file: Path, *, large: int = MIN_INT8_WEIGHTS, subtract_mean: bool = False) -> int:
    """Quantise products with large weight matrices dynamically: one scale per column, and one per input.

    Inputs are quantised at run time, so no calibration photos are needed; all else stays in float32.

    Args:
        large: minimum number of weights of a quantised matrix.
        subtract_mean: multiply the rows' mean in float32, see `anytag.torch.nn.quantized_linear`.

    Returns:
        the number of quantised products.
    """
    model = onnx.load(file)
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    chosen = [node.output[0] for node in graph.node if _is_large(node, weights, large)]
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes += _in_int8(node, subtract_mean=subtract_mean) if node.output[0] in chosen else [node]
    for name in {node.input[1] for node in graph.node if node.output[0] in chosen}:
        rounded, scale = quantized(numpy_helper.to_array(weights[name]), axis=0)
        if not subtract_mean:
            graph.initializer.remove(weights[name])
        graph.initializer.append(numpy_helper.from_array(rounded, f"{name}.int8"))
        graph.initializer.append(numpy_helper.from_array(scale[0], f"{name}.scale"))
    if subtract_mean:
        graph.initializer.extend(numpy_helper.from_array(np.array([n]), name) for name, n in _NUMBERS.items())
    del graph.node[:]
    graph.node.extend(nodes)
    if chosen and all(one.domain != _MICROSOFT for one in model.opset_import):
        model.opset_import.append(helper.make_opsetid(_MICROSOFT, 1))
    onnx.save(model, file)
    return len(chosen)


def _in_int8(node: onnx.NodeProto, *, subtract_mean: bool) -> list[onnx.NodeProto]:
    """The nodes that replace a product with a matrix."""
    (x, matrix), (out,) = node.input, node.output
    columns = [f"{matrix}.int8", f"{matrix}.scale"]
    if not subtract_mean:
        return [helper.make_node(_PRODUCT, [x, *columns], [out], domain=_MICROSOFT)]
    parts = ("some", "shared", "rest", "product", "added")
    some, shared, rest, product, added = (f"{out}.{part}" for part in parts)
    return [
        helper.make_node("Slice", [x, _FIRST, _SOME, _ROWS], [some]),
        helper.make_node("ReduceMean", [some, _ROWS], [shared], keepdims=1),
        helper.make_node("Sub", [x, shared], [rest]),
        helper.make_node(_PRODUCT, [rest, *columns], [product], domain=_MICROSOFT),
        helper.make_node("MatMul", [shared, matrix], [added]),
        helper.make_node("Add", [product, added], [out]),
    ]


def _is_large(node: onnx.NodeProto, weights: dict[str, onnx.TensorProto], large: int) -> bool:
    if node.op_type != "MatMul" or node.input[1] not in weights:
        return False
    shape = weights[node.input[1]].dims
    return len(shape) == 2 and shape[0] * shape[1] >= large


def quantize_weights(file: Path, precision: Literal["float16", "int8"] = "int8") -> int:
    """Weight-only quantisation: matrices are stored in fp16 or int8 and multiplied in float32.

    int8 has one scale per row or per column, whichever has the smaller error, so matrices rounded by
    `fake_quantize` stay unchanged even if the export has transposed them. onnxruntime dequantises them once,
    when it loads the graph.

    Returns:
        the size of the file in bytes.
    """
    model = onnx.load(file)
    graph, nodes = model.graph, []
    for tensor in list(graph.initializer):
        matrix = numpy_helper.to_array(tensor)
        if matrix.dtype != np.float32 or matrix.ndim != 2 or matrix.size < MIN_QUANTIZED_SIZE:
            continue
        name, stored = tensor.name, f"{tensor.name}.{precision}"
        graph.initializer.remove(tensor)
        if precision == "float16":
            graph.initializer.append(numpy_helper.from_array(matrix.astype(np.float16), stored))
            nodes.append(helper.make_node("Cast", [stored], [name], to=TensorProto.FLOAT))
            continue
        levels, scale = min((quantized(matrix, axis=axis) for axis in (0, 1)), key=partial(_error, matrix))
        graph.initializer.append(numpy_helper.from_array(levels, stored))
        graph.initializer.append(numpy_helper.from_array(scale, f"{name}.scale"))
        nodes.append(helper.make_node("Cast", [stored], [f"{name}.float"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Mul", [f"{name}.float", f"{name}.scale"], [name]))
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])
    onnx.save(model, file)
    return file.stat().st_size


def _error(matrix: Floats, rounded: tuple[npt.NDArray[np.int8], Floats]) -> float:
    levels, scale = rounded
    return float(np.abs(levels * scale - matrix).sum())
