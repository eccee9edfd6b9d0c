"""A model folder with torch weights gets ONNX graphs, and says what fewer bits cost."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from anytag.asked import Question, Questions
from anytag.checkpoints.load import load_network
from anytag.images import ImageSource
from anytag.models.folder import ModelFolder, write_card
from anytag.models.onnx import CAPTION, IMAGE, MEMORY, ROUNDED, TAGS
from anytag.nn.caption import CaptionHead
from anytag.nn.network import TagNetwork
from anytag.tagger import Tagger

from .captions import export_caption_graphs
from .graphs import export_image_graph, export_tags_graph
from .precision import PERCEPTRON, to_float16, to_int8

Precision = Literal["float32", "float16", "int8"]
Floats = npt.NDArray[np.float32]
_NOISE = 8  # photos made up where none are given


@dataclass(frozen=True, slots=True)
class Cost:
    """What fewer bits change in the answers about some photos.

    Attributes:
        photos: how many.
        largest: difference of a tag's log-odds, before what is near its threshold is decoded exactly.
        flips: share of tags given by either, the exact model or the other, that the two do not agree on.
        given: tags that the exact model gives.
    """

    photos: int
    largest: float
    flips: float
    given: int


def export_folder(
    folder: str | Path, *, precision: Precision = "float32", photos: Sequence[Path] = ()
) -> Cost | None:
    """Write the graphs of a folder beside its weights: image, tags, and captions where it has a head.

    Each is compared with the network in float32 at batch 1 and 3 before it is made smaller. The tags' graph
    stays in float32 beside one in fewer bits, for tags near their thresholds; so do caption graphs.

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
        (model.path / ROUNDED).unlink(missing_ok=True)
        if precision != "float32":
            _round_graphs(draft, precision)
            names.append(ROUNDED)
        for name in names:
            (draft / name).replace(model.path / name)
    write_card(model.path, model.card)
    if precision == "float32":
        return None
    cost = measure_cost(model.path, photos)
    told = {"photos": cost.photos, "largest_logit_difference": cost.largest, "flips": cost.flips}
    write_card(model.path, replace(model.card, metrics={**model.card.metrics, f"graphs_{precision}": told}))
    return cost


def _write_graphs(network: TagNetwork, draft: Path) -> list[str]:
    names = [IMAGE, TAGS]
    export_image_graph(network.encoder, draft / IMAGE, size=network.config.size)
    export_tags_graph(network.decoder, draft / TAGS)
    if isinstance(network.captions, CaptionHead):
        export_caption_graphs(network.captions, draft, tokens=(5, network.config.width))
        names += [MEMORY, CAPTION]
    return names


def _round_graphs(draft: Path, precision: Precision) -> None:
    rounded = Path(shutil.copyfile(draft / TAGS, draft / ROUNDED))
    if precision == "float16":
        to_float16(draft / IMAGE)
        to_float16(rounded)
    else:
        to_int8(draft / IMAGE)
        to_int8(rounded, large=PERCEPTRON, apart=True)


def measure_cost(folder: str | Path, photos: Sequence[Path] = ()) -> Cost:
    """What the folder's graphs answer otherwise than its weights in float32.

    Raises:
        ModelError: the folder has no graphs or no weights.
        ImageError: a photo cannot be read.
    """
    exact = Tagger.load(folder, device="cpu", precision="float32")
    graphs = Tagger.load(folder, device="cpu")
    questions = Questions(ModelFolder.open(folder, verify=False))
    question = questions.prepare(None, also=None, top_k=None, threshold=0.0)  # every tag is decoded
    shape = (_NOISE, exact.card.image.size, exact.card.image.size, 3)
    images: Iterable[ImageSource] = photos or np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    cost = Cost(photos=0, largest=0.0, flips=0.0, given=0)
    differ = either = 0
    for image in images:
        (ours, a), (theirs, b) = (_answers(tagger, question, image) for tagger in (exact, graphs))
        differ, either = differ + len(a ^ b), either + len(a | b)
        cost = Cost(
            photos=cost.photos + 1,
            largest=max(cost.largest, float(np.abs(ours - theirs).max())),
            flips=differ / max(1, either),
            given=cost.given + len(a),
        )
    return cost


def _answers(tagger: Tagger, question: Question, image: ImageSource) -> tuple[Floats, set[str]]:
    """Logits of every tag, as they come: K; ids of the tags that are given."""
    seen = tagger.encode(image)
    _, logits = question.logits(tagger.runtime, seen.tokens[None], seen.pooled[None])
    return logits[0], {tag.id for tag in tagger.score(seen).tags}
