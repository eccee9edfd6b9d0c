"""Export a model folder with torch weights to ONNX, and measure the accuracy cost of quantisation."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from anytag.models.folder import ModelFolder, edited, write_card
from anytag.runtime.onnx import CAPTION, IMAGE, MEMORY, QUANTIZED_TAGS, TAGS
from anytag.torch.checkpoints.load import load_network
from anytag.torch.export.accuracy_cost import Cost, measure_cost
from anytag.torch.export.caption_graphs import export_caption_graphs
from anytag.torch.export.dynamic_int8 import MLP_WEIGHTS, quantize_weights, to_float16, to_int8
from anytag.torch.export.onnx_graphs import export_image_graph, export_tags_graph
from anytag.torch.nn.network import TagNetwork

Precision = Literal["float32", "float16", "int8"]


def export_folder(
    folder: str | Path, *, precision: Precision = "float32", photos: Sequence[Path] = ()
) -> Cost | None:
    """Add graphs to a folder with weights: image, tags, and captions if it has a caption head.

    Each is compared with the network in float32 at batch sizes 1 and 3 before it is quantised. The float32
    tag graph is kept, for scores near their thresholds. Caption graphs are quantised weight-only, since
    errors of decoding steps would accumulate.

    Args:
        folder: a folder as `anytag.torch.checkpoints.convert` writes it.
        precision: of the graphs' matrix products.
        photos: photos on which the cost of quantisation is measured; random images by default.

    Returns:
        the cost relative to float32; None for float32 itself.

    Raises:
        ModelError: the folder is invalid, or a graph and the network differ.
    """
    model = ModelFolder.open(folder)
    network = load_network(model)
    with edited(model) as draft:
        names = _write_graphs(network, draft)
        if precision != "float32":
            quantize_graphs(draft, names, precision)
    if precision == "float32":
        (model.path / QUANTIZED_TAGS).unlink(missing_ok=True)
    write_card(model.path, model.card)
    if precision == "float32":
        return None
    cost = measure_cost(model.path, photos)
    metrics = {**model.card.metrics, f"graphs_{precision}": _metrics(cost)}
    write_card(model.path, replace(model.card, metrics=metrics))
    return cost


def _metrics(cost: Cost) -> dict[str, Any]:
    """The cost as a metric of the card."""
    facts = {"photos": cost.photos, "largest_logit_difference": cost.largest, "flips": cost.flips}
    if (captions_cost := cost.captions) is None:
        return facts
    captions = {
        "photos": captions_cost.photos,
        "largest_logit_difference": captions_cost.largest,
        "changed": captions_cost.changed,
    }
    return {**facts, "captions": captions}


def _write_graphs(network: TagNetwork, draft: Path) -> list[str]:
    names = [IMAGE, TAGS]
    export_image_graph(network.encoder, draft / IMAGE, size=network.config.size)
    export_tags_graph(network.decoder, draft / TAGS)
    if network.captions is not None:
        export_caption_graphs(network.captions, draft, tokens=(5, network.config.width))
        names += [MEMORY, CAPTION]
    return names


def quantize_graphs(draft: Path, names: list[str], precision: Precision) -> None:
    """Quantise graphs; the quantised tag graph is written in addition to the float32 one."""
    shutil.copyfile(draft / TAGS, draft / QUANTIZED_TAGS)
    for name in names:
        if name in (MEMORY, CAPTION) and precision != "float32":
            quantize_weights(draft / name, precision)
    if precision == "float16":
        to_float16(draft / IMAGE)
        to_float16(draft / QUANTIZED_TAGS)
    else:
        to_int8(draft / IMAGE)
        to_int8(draft / QUANTIZED_TAGS, large=MLP_WEIGHTS, subtract_mean=True)
