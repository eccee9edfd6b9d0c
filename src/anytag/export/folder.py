"""A model folder with torch weights gets ONNX graphs, and says what fewer bits cost."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from anytag.checkpoints.load import load_network
from anytag.models.folder import ModelFolder, write_card
from anytag.models.onnx import CAPTION, IMAGE, MEMORY, TAGS
from anytag.nn.network import TagNetwork

from .captions import export_caption_graphs
from .cost import Cost, measure_cost
from .graphs import export_image_graph, export_tags_graph
from .precision import shrink_graph, to_float16, to_int8

Precision = Literal["float32", "float16", "int8"]


def export_folder(
    folder: str | Path, *, precision: Precision = "float32", photos: Sequence[Path] = ()
) -> Cost | None:
    """Write the graphs of a folder beside its weights: image, tags, and captions where it has a head.

    Each is compared with the network in float32 at batch 1 and 3 before it is made smaller. Caption graphs
    are only stored in fewer bits, and multiply in float32: what a step loses, all later ones would lose too.

    Args:
        folder: as `anytag.checkpoints.convert` writes it.
        precision: of the graphs' matrix products.
        photos: to measure the cost of fewer bits on; noise where there are none.

    Returns:
        the cost against float32, None for float32 itself.

    Raises:
        ModelError: the folder is wrong, or a graph and the network differ.
    """
    model = ModelFolder.open(folder)
    network = load_network(model)
    with tempfile.TemporaryDirectory(dir=model.path, prefix=".export") as scratch:
        draft = Path(scratch)
        names = _write_graphs(network, draft)
        for name in names:
            make_smaller(draft / name, precision)
            (draft / name).replace(model.path / name)
    write_card(model.path, model.card)
    if precision == "float32":
        return None
    cost = measure_cost(model.path, photos)
    metrics = {**model.card.metrics, f"graphs_{precision}": _told(cost)}
    write_card(model.path, replace(model.card, metrics=metrics))
    return cost


def _told(cost: Cost) -> dict[str, Any]:
    """For the card."""
    told = {"photos": cost.photos, "largest_logit_difference": cost.largest, "flips": cost.flips}
    if (said := cost.captions) is None:
        return told
    captions = {"photos": said.photos, "largest_logit_difference": said.largest, "changed": said.changed}
    return {**told, "captions": captions}


def _write_graphs(network: TagNetwork, draft: Path) -> list[str]:
    names = [IMAGE, TAGS]
    export_image_graph(network.encoder, draft / IMAGE, size=network.config.size)
    export_tags_graph(network.decoder, draft / TAGS)
    if network.captions is not None:
        export_caption_graphs(network.captions, draft, tokens=(5, network.config.width))
        names += [MEMORY, CAPTION]
    return names


def make_smaller(graph: Path, precision: Precision) -> None:
    """Puts a graph into fewer bits in place; what is kept in float32 depends on which it is."""
    if precision == "float32":
        return
    if graph.name in (MEMORY, CAPTION):
        shrink_graph(graph, precision)
    elif precision == "float16":
        to_float16(graph)
    else:
        to_int8(graph)
