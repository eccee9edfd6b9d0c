"""Export a network's two graphs, image.onnx and tags.onnx."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn
from torch.export import Dim

from anytag.runtime.onnx import IMAGE, TAGS
from anytag.torch.export.parity import check_parity
from anytag.torch.nn.absorbed_attention import FoldedCross
from anytag.torch.nn.backbones import Backbone
from anytag.torch.nn.cross_decoder import CrossDecoder
from anytag.torch.nn.folded_decoder import TagDecoder
from anytag.torch.nn.network import ImageEncoder, TagNetwork

_OPSET = 20


class _ConvolvedEncoder(nn.Module):
    """An `ImageEncoder` whose projection is a 1×1 convolution, so that all its products are convolutions."""

    def __init__(self, encoder: ImageEncoder) -> None:
        super().__init__()
        self.backbone = encoder.backbone
        linear = encoder.projection
        self.proj = nn.Conv2d(linear.in_features, linear.out_features, 1)
        self.proj.weight.data = linear.weight.detach()[:, :, None, None]
        self.proj.bias = linear.bias
        self.evidence = encoder.evidence

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        features = self.backbone((pixels.float() - 127) / 128)
        tokens = self.proj(features).flatten(2).transpose(1, 2)
        pooled = tokens.mean(1)
        if self.evidence is not None:
            pooled = pooled + self.evidence(features.mean((2, 3)))
        return tokens, pooled


class LocalizingDecoder(nn.Module):
    """A module whose `forward` is `TagDecoder.localize`, in the form with the fewest multiplications."""

    def __init__(self, decoder: TagDecoder) -> None:
        super().__init__()
        self.decoder = FoldedCross(decoder) if isinstance(decoder, CrossDecoder) else decoder

    def forward(self, tokens: Tensor, pooled: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        return self.decoder.localize(tokens, pooled, queries)


def export_folder_graphs(network: TagNetwork, folder: Path) -> None:
    """Write a network's image.onnx and tags.onnx in float32 and compare them with it.

    Args:
        network: the network, on the CPU.
        folder: the folder to write to; created if it is missing.

    Raises:
        ModelError: `check_parity` finds that a graph and the network differ.
    """
    folder.mkdir(parents=True, exist_ok=True)
    training = network.training
    network.eval()
    export_image_graph(network.encoder, folder / IMAGE, size=network.config.size)
    export_tags_graph(network.decoder, folder / TAGS)
    network.train(training)


def export_image_graph(encoder: ImageEncoder, file: Path, *, size: int) -> float:
    """Export `pixels` uint8 N×3×S×S -> `tokens` float32 N×T×D, `pooled` float32 N×D; N is dynamic.

    Returns:
        the largest difference from the encoder, as `check_parity` returns it.
    """
    random = torch.Generator().manual_seed(0)
    one, two, three = (
        torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=random)
        for count in (1, 2, 3)
    )
    axes = {"pixels": "N3SS", "tokens": "NTD", "pooled": "ND"}
    convolved = isinstance(encoder.backbone, Backbone)
    module = _ConvolvedEncoder(encoder).eval() if convolved else encoder
    export_graph(module, file, (two,), axes, dynamic="N")
    return check_parity(encoder, file, [(one,), (three,)])


def export_tags_graph(decoder: TagDecoder, file: Path) -> float:
    """Export `tokens` N×T×D, `pooled` N×D, `queries` Q×K×P×R -> `logits` N×K, `where` N×K×T, in float32.

    Q is 1 (the same queries for all photos) or N; D and R are fixed. `where` is an intermediate result of
    `logits` and costs nothing.

    Returns:
        the largest difference from the decoder, as `check_parity` returns it.
    """
    axes = {"tokens": "NTD", "pooled": "ND", "queries": "QKPR", "logits": "NK", "where": "NKT"}
    # Six photos and two sets of queries, so that the trace confuses neither with the other, nor with 1.
    module = LocalizingDecoder(decoder).eval()
    export_graph(module, file, _example_inputs(decoder, photos=6, sets=2), axes, dynamic="NTQKP")
    sizes = ((1, 1), (3, 1), (3, 3))
    return check_parity(module, file, [_example_inputs(decoder, photos=n, sets=q) for n, q in sizes])


def _example_inputs(decoder: TagDecoder, *, photos: int, sets: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random inputs with 5 tokens per photo, and 7 tags with up to 3 descriptions."""
    random = torch.Generator().manual_seed(photos + sets)
    tokens = torch.randn(photos, 5, decoder.width, generator=random)
    queries = torch.randn(sets, 7, 3, decoder.row_width, generator=random)
    queries[:, 1, 2:] = 0  # padding
    return tokens, tokens.mean(1), queries


def export_graph(
    module: nn.Module, file: Path, example: tuple[Tensor, ...], axes: Mapping[str, str], *, dynamic: str
) -> None:
    """Export a module to an ONNX file.

    Args:
        axes: inputs, then outputs: name -> one letter per axis.
        dynamic: the letters of dynamic axes.
    """
    inputs = list(axes)[: len(example)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # internal warnings of torch
        torch.onnx.export(
            module,
            example,
            file,
            dynamo=True,
            input_names=inputs,
            output_names=list(axes)[len(example) :],
            dynamic_shapes=tuple(
                {i: Dim.DYNAMIC for i, axis in enumerate(axes[name]) if axis in dynamic} for name in inputs
            ),
            opset_version=_OPSET,
            external_data=False,
            verbose=False,
        )
    _clean(file, axes, dynamic=dynamic)


def _clean(file: Path, axes: Mapping[str, str], *, dynamic: str) -> None:
    """Name the dynamic axes and remove metadata, in which torch records source paths."""
    model = onnx.load(file)
    for value in (*model.graph.input, *model.graph.output):
        for axis, size in zip(axes[value.name], value.type.tensor_type.shape.dim, strict=True):
            if axis in dynamic:
                size.dim_param = axis  # instead of torch's "s27"
    del model.graph.value_info[:]  # it uses torch's names of the axes
    for item in (model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output):
        del item.metadata_props[:]
        item.doc_string = ""
    for tensor in model.graph.initializer:
        del tensor.metadata_props[:]
    onnx.save(model, file)
