"""A network's two graphs: image.onnx and tags.onnx."""

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
    """`ImageEncoder` whose projection is a 1×1 convolution, so that there is nothing but convolutions."""

    def __init__(self, encoder: ImageEncoder) -> None:
        super().__init__()
        self.backbone = encoder.backbone
        linear = encoder.projection
        self.proj = nn.Conv2d(linear.in_features, linear.out_features, 1)
        self.proj.weight.data = linear.weight.detach()[:, :, None, None]
        self.proj.bias = linear.bias
        self.split = encoder.frozen_from
        if self.split:
            self.memory = nn.Sequential(*encoder.memory)
            self.recall = nn.Conv2d(linear.in_features, linear.out_features, 1, bias=False)
            self.recall.weight.data = encoder.recall.weight.detach()[:, :, None, None]
        self.evidence = encoder.evidence

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        features = self.backbone((pixels.float() - 127) / 128, 0, self.split)
        late = self.backbone(features, self.split)
        grid = self.proj(late)
        if self.split:
            frozen = self.memory(features).mean((2, 3), keepdim=True)
            grid = grid + self.recall(frozen)
        tokens = grid.flatten(2).transpose(1, 2)
        pooled = tokens.mean(1)
        if self.evidence is not None:
            pooled = pooled + self.evidence(late.mean((2, 3)), frozen.flatten(1))
        return tokens, pooled


class Located(nn.Module):
    """`TagDecoder.located` as a module of its own, in the form with the fewest multiplications."""

    def __init__(self, decoder: TagDecoder) -> None:
        super().__init__()
        self.decoder = FoldedCross(decoder) if isinstance(decoder, CrossDecoder) else decoder

    def forward(self, tokens: Tensor, pooled: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        return self.decoder.located(tokens, pooled, queries)


def export_folder_graphs(network: TagNetwork, folder: Path) -> None:
    """Writes a network's image.onnx and tags.onnx in float32 and compares them with it.

    Args:
        network: on the CPU.
        folder: where to write; made if it is missing.

    Raises:
        ModelError: a graph and the network differ, by `parity.check_parity`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    training = network.training
    network.eval()
    export_image_graph(network.encoder, folder / IMAGE, size=network.config.size)
    export_tags_graph(network.decoder, folder / TAGS)
    network.train(training)


def export_image_graph(encoder: ImageEncoder, file: Path, *, size: int) -> float:
    """`pixels` uint8 N×3×S×S -> `tokens` float32 N×T×D, `pooled` float32 N×D, N free.

    Returns:
        the largest difference from the encoder, as `check_parity` gives it.
    """
    random = torch.Generator().manual_seed(0)
    one, two, three = (
        torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=random)
        for count in (1, 2, 3)
    )
    axes = {"pixels": "N3SS", "tokens": "NTD", "pooled": "ND"}
    convolved = isinstance(encoder.backbone, Backbone)
    module = _ConvolvedEncoder(encoder).eval() if convolved else encoder
    export_graph(module, file, (two,), axes, free="N")
    return check_parity(encoder, file, [(one,), (three,)])


def export_tags_graph(decoder: TagDecoder, file: Path) -> float:
    """`tokens` N×T×D, `pooled` N×D, `queries` Q×K×P×R -> `logits` N×K, `where` N×K×T: float32; D, R fixed.

    Q is 1 (the same queries for all photos) or N. `where` is a step on the way to `logits` and costs nothing.

    Returns:
        the largest difference from the decoder, as `check_parity` gives it.
    """
    axes = {"tokens": "NTD", "pooled": "ND", "queries": "QKPR", "logits": "NK", "where": "NKT"}
    # Six photos and two sets of queries: the trace must take neither for the other, nor for 1.
    located = Located(decoder).eval()
    export_graph(located, file, _asked(decoder, photos=6, sets=2), axes, free="NTQKP")
    sizes = ((1, 1), (3, 1), (3, 3))
    return check_parity(located, file, [_asked(decoder, photos=n, sets=q) for n, q in sizes])


def _asked(decoder: TagDecoder, *, photos: int, sets: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random arguments with 5 tokens a photo, and 7 tags of up to 3 descriptions."""
    random = torch.Generator().manual_seed(photos + sets)
    tokens = torch.randn(photos, 5, decoder.width, generator=random)
    queries = torch.randn(sets, 7, 3, decoder.row_width, generator=random)
    queries[:, 1, 2:] = 0  # padding
    return tokens, tokens.mean(1), queries


def export_graph(
    module: nn.Module, file: Path, example: tuple[Tensor, ...], axes: Mapping[str, str], *, free: str
) -> None:
    """Writes a module's graph.

    Args:
        axes: inputs, then outputs: name -> a letter for each axis.
        free: the letters of axes whose length is not fixed.
    """
    inputs = list(axes)[: len(example)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, about itself
        torch.onnx.export(
            module,
            example,
            file,
            dynamo=True,
            input_names=inputs,
            output_names=list(axes)[len(example) :],
            dynamic_shapes=tuple(
                {i: Dim.DYNAMIC for i, axis in enumerate(axes[name]) if axis in free} for name in inputs
            ),
            opset_version=_OPSET,
            external_data=False,
            verbose=False,
        )
    _clean(file, axes, free=free)


def _clean(file: Path, axes: Mapping[str, str], *, free: str) -> None:
    """Names the free axes as we do and forgets where the graph came from: torch notes paths of code."""
    model = onnx.load(file)
    for value in (*model.graph.input, *model.graph.output):
        for axis, size in zip(axes[value.name], value.type.tensor_type.shape.dim, strict=True):
            if axis in free:
                size.dim_param = axis  # instead of torch's "s27"
    del model.graph.value_info[:]  # it speaks of s27 too
    for noted in (model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output):
        del noted.metadata_props[:]
        noted.doc_string = ""
    for tensor in model.graph.initializer:
        del tensor.metadata_props[:]
    onnx.save(model, file)
