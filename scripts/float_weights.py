"""Copy `mini` with float weights of its image network, so that training can start from it.

    python -m scripts.float_weights mini FOLDER

`mini` contains its image network only in int8: float weights would add 19 MB to its 35. Here they are
recovered from the graph, up to rounding.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from safetensors.numpy import save_file
from torch import nn

from anytag._io import atomic_write
from anytag.errors import ModelError
from anytag.models.folder import ModelFolder, edited_copy, write_card
from anytag.models.registry import resolve
from anytag.runtime.onnx import IMAGE
from anytag.text_encoders.static import StaticTextEncoder
from anytag.torch.nn.backbones import Backbone, fold_norms
from anytag.torch.nn.configs import FAMILIES
from anytag.torch.nn.evidence import WORD_SCALE
from anytag.torch.nn.network import make_backbone
from anytag.torch.training.mini import class_vectors
from anytag.torch.training.mini_init import ENCODER
from anytag.torch.training.quantized_graph import PREFIX, QuantizedGraph

Array = npt.NDArray[Any]


def read_weights(graph: QuantizedGraph, backbone: nn.Module, names: Array) -> dict[str, Array]:
    """Weights of the image network by parameter name, float32.

    Args:
        backbone: like the graph's, with folded norms.
        names: text vectors of the classifier's classes, C×W.

    Raises:
        ModelError: the graph has another number of convolutions.
    """
    needed = {node.name for node in graph.path_to(graph.projection)}
    nodes = [n for n in graph.graph.node if n.op_type == "QLinearConv" and n.name in needed]
    layers = [name for name, module in backbone.named_modules() if isinstance(module, nn.Conv2d)]
    if len(nodes) != len(layers):
        raise ModelError(f"{graph.file} has {len(nodes)} convolutions, expected {len(layers)}")
    found: dict[str, Array] = {}
    for name, node in zip(layers, nodes, strict=True):
        weight, bias = _convolution(graph, node)
        found |= {f"backbone.{name}.weight": weight, f"backbone.{name}.bias": bias}
    found["proj.weight"], found["proj.bias"] = _projection(graph)
    if PREFIX + "added" in graph.producers:
        evidence = read_evidence(graph.constants, names)
        found |= {f"evidence.{name}": value for name, value in evidence.items()}
    return {name: np.ascontiguousarray(value, np.float32) for name, value in found.items()}


def _convolution(graph: QuantizedGraph, node: onnx.NodeProto) -> tuple[Array, Array]:
    """Weight O×I×h×w and bias O."""
    weight, scale = graph.constants[node.input[3]], graph.constants[node.input[4]]
    step, whole = graph.constants[node.input[1]], graph.constants[node.input[8]]
    return weight * scale[:, None, None, None], whole * scale * step


def read_evidence(known: Mapping[str, Array], names: Array) -> dict[str, Array]:
    """Weights of the evidence module by parameter name, the inverse of `QuantizedGraph.with_evidence`.

    In the graph the classes' text vectors are multiplied into the weights; for sqrt(p) they stay there.

    Args:
        names: text vectors of the classes, C×W.
    """
    width, hidden = len(known[PREFIX + "out_bias"]), len(known[PREFIX + "out_weight_halves"])
    late = (known[PREFIX + "of_late_weight"] * known[PREFIX + "of_late_scales"]).T  # O×F
    composed = (known[PREFIX + "of_words_weight"] * known[PREFIX + "of_words_scales"]).T  # O×2C
    of_p, roots = np.split(composed / WORD_SCALE, 2, axis=1)
    words = np.hstack([of_p @ np.linalg.pinv(names).T, np.zeros((len(roots), names.shape[1])), roots])
    bias = known[PREFIX + "of_late_bias"]
    seen, inner, classes = np.split(np.arange(len(late)), [width, width + hidden])
    return {
        "seen.weight": late[seen],
        "seen_hidden.weight": late[inner],
        "seen_hidden.bias": bias[inner],
        "classifier.weight": late[classes],
        "classifier.bias": bias[classes],
        "said.weight": words[:width],
        "said_hidden.weight": words[width:],
        "out.weight": known[PREFIX + "out_weight_halves"].T,
        "out.bias": known[PREFIX + "out_bias"],
    }


def _projection(graph: QuantizedGraph) -> tuple[Array, Array]:
    """Weight D×C and bias D."""
    known, node = graph.constants, graph.projection
    return (known[node.input[1]] * known[node.input[3]]).T, known[node.input[6]]


def main(model: str, folder: Path) -> None:
    base = ModelFolder.open(resolve(model))
    backbone = make_backbone(FAMILIES["mini"])
    assert isinstance(backbone, Backbone)
    fold_norms(backbone)
    names = class_vectors(StaticTextEncoder.from_folder(base.text))
    weights = read_weights(QuantizedGraph(base.file(IMAGE)), backbone, names)
    with edited_copy(base, folder) as draft:
        with atomic_write(draft / ENCODER) as file:
            save_file(weights, file)
        write_card(draft, base.card)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
