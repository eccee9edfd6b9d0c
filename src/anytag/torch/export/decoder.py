"""tags.onnx -> the decoder in torch again, so that queries can be learned against a model that is shipped."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from anytag.errors import ModelError
from anytag.torch.export.onnx_graphs import Located
from anytag.torch.export.parity import check_parity
from anytag.torch.nn.folded_decoder import FoldedDecoder


def read_decoder(file: Path) -> FoldedDecoder:
    """The folded decoder whose graph `file` is, compared with it.

    Raises:
        ModelError: the graph is not one that `export.graphs.export_tags_graph` wrote, or differs.
    """
    graph = onnx.load(file).graph
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    made = {name: node for node in graph.node for name in node.output}
    try:
        # An export of more than the decoder puts its name before those of the weights.
        key_bias, bias_bias = [next(n for n in known if n.endswith(e)) for e in ("key.bias", "bias.bias")]
        key, bias = _weight(graph, key_bias, known, made), _weight(graph, bias_bias, known, made)
        # A factor of 1, as of descriptions that were never weighed, is left out of the graph.
        sharp, root = _first_scalar(graph, "Mul", known, 1.0), _first_scalar(graph, "Div", known)
    except (StopIteration, KeyError, IndexError) as error:
        raise ModelError(
            f"{file}: not the graph of a folded decoder; only models of the family mini can be fine-tuned so"
        ) from error
    decoder = FoldedDecoder(len(key), heads=round(len(key) / root**2))
    with torch.no_grad():
        decoder.key.weight.copy_(torch.tensor(key.T))
        decoder.key.bias.copy_(torch.tensor(known[key_bias]))
        decoder.bias.weight.copy_(torch.tensor(bias.T))
        decoder.bias.bias.copy_(torch.tensor(known[bias_bias]))
        decoder.reweight_scale.fill_(math.log(sharp))
    generator = torch.Generator().manual_seed(0)
    tokens, queries = (torch.randn(*shape, len(key), generator=generator) for shape in ((2, 5), (1, 3, 2)))
    several = len(graph.output) > 1  # newer graphs also say where
    check_parity(Located(decoder) if several else decoder, file, [(tokens, tokens.mean(1), queries)])
    return decoder


def _weight(
    graph: onnx.GraphProto, bias: str, known: dict[str, np.ndarray], made: dict[str, onnx.NodeProto]
) -> np.ndarray:
    """The matrix of the product that `bias` is added to, as the graph holds it: in×out."""
    add = next(node for node in graph.node if node.op_type == "Add" and bias in node.input)
    product = next(made[name] for name in add.input if name in made)
    return known[product.input[1]]


def _first_scalar(
    graph: onnx.GraphProto, kind: str, known: dict[str, np.ndarray], default: float | None = None
) -> float:
    """The first scalar that a node of this kind takes besides a tensor, or else the default."""
    nodes = (node for node in graph.node if node.op_type == kind)
    scalars = (float(known[n]) for node in nodes for n in node.input if n in known and not known[n].ndim)
    return next(scalars) if default is None else next(scalars, default)
