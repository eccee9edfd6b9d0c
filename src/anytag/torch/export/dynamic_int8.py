"""fp16, dynamic int8 and weight-only int8 graphs."""

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

LARGE = 1 << 16  # weights of a matrix from which int8 pays
SMALL = 1 << 12  # numbers; smaller tensors stay in float32
MLP_WEIGHTS = 1 << 20  # those that only the MLPs of a published tag decoder have
_MICROSOFT, _PRODUCT = "com.microsoft", "DynamicQuantizeMatMul"
# A product's input: the axis of its rows, and how many of them tell what all share. The mean of 256 rows took
# onnxruntime 2.2 ms where their product with 3072×768 weights took 3.0.
_ROWS, _FIRST, _SOME = "rows", "rows.first", "rows.some"
_NUMBERS = {_ROWS: -2, _FIRST: 0, _SOME: 32}
# What sums or takes powers of many numbers stays in float32.
_FLOAT32 = ("LayerNormalization", "ReduceL2", "ReduceMean", "ReduceSum", "Softmax")


def to_float16(file: Path) -> None:
    """Stores and multiplies in float16, half the bytes; inputs, outputs, norms, softmax stay in float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = onnx.load(file)
    onnx.save(convert_float_to_float16(model, keep_io_types=True, op_block_list=list(_FLOAT32)), file)


def to_int8(file: Path, *, large: int = LARGE, subtract_mean: bool = False) -> int:
    """Products with large matrices of weights in int8: a scale for each column, and one for all of the input.

    What is multiplied is rounded as it comes, so no photos are needed; all else stays in float32.

    Args:
        large: weights of a matrix from which it is rounded.
        subtract_mean: the rows' mean is multiplied in float32, see `anytag.torch.nn.quantized_linear`.

    Returns:
        how many products.
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
    """The nodes in place of a product with a matrix."""
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
    """Weight-only quantisation: matrices stored in fp16 or int8, computed in float32.

    int8 has a scale for each row or each column, whichever loses less, so matrices of `fake_quantize` stay
    unchanged, also where the export transposed them. onnxruntime makes floats once, when it loads the graph.

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
        levels, scale = min((quantized(matrix, axis=axis) for axis in (0, 1)), key=partial(_loss, matrix))
        graph.initializer.append(numpy_helper.from_array(levels, stored))
        graph.initializer.append(numpy_helper.from_array(scale, f"{name}.scale"))
        nodes.append(helper.make_node("Cast", [stored], [f"{name}.float"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Mul", [f"{name}.float", f"{name}.scale"], [name]))
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])
    onnx.save(model, file)
    return file.stat().st_size


def _loss(matrix: Floats, rounded: tuple[npt.NDArray[np.int8], Floats]) -> float:
    levels, scale = rounded
    return float(np.abs(levels * scale - matrix).sum())
