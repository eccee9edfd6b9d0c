"""A finished run -> a model folder that `anytag tag --model` loads: small networks, served as ONNX."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import save_file

from anytag.export.graphs import export_graph, export_tags_graph
from anytag.export.parity import check_parity
from anytag.models.card import Calibration, Card, ImageSpec, Line, TextSpec
from anytag.models.folder import write_card
from anytag.models.hub import EMBEDDED
from anytag.models.onnx import IMAGE, TAGS
from anytag.nn.network import ImageEncoder
from anytag.vocabulary import Vocabulary

from .family import FamilyLoop, WordQueries
from .ship import save_queries
from .stored import fit_tag_lines, make_bank, probabilities
from .thresholds import Goal

SHORTLIST = 96
FEWEST = 20
"""Held-out photos that it takes to fit probabilities and thresholds."""


def write_model(loop: FamilyLoop, folder: Path, *, data: str) -> None:
    """Graphs, queries, vocabulary, words and card of a folded network, with the run's averaged weights.

    Args:
        loop: after its run; its student gets the averages.
        folder: replaced when it is there.
        data: what it was trained on, for the card.
    """
    student = loop.family.cpu().eval()
    student.load_state_dict({**student.state_dict(), **{k: v.cpu() for k, v in loop.average.shadow.items()}})
    queries = student.queries
    assert isinstance(queries, WordQueries)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as work:
        draft = Path(work, "model")
        draft.mkdir()
        export_encoder(student.network.encoder, draft / IMAGE, size=student.network.config.size)
        export_tags_graph(student.network.folded, draft / TAGS)
        with torch.no_grad():
            rows = queries()[0].numpy()
        lines, thresholds, how = _fitted(loop)
        bank = make_bank(student.network.folded, rows, lines.astype(np.float32), known=Line(1.0, 0.0))
        save_queries(draft / "queries.safetensors", bank)
        vocabulary = loop.corpus.photos.vocabulary
        ids = {tag.id: round(float(t), 2) for tag, t in zip(vocabulary, thresholds, strict=True)}
        vocabulary.with_thresholds(ids).write(draft / "vocabulary.jsonl")
        write_words(queries, draft / "text")
        write_card(draft, _card(loop, vocabulary, how=how, data=data))
        if folder.exists():
            shutil.rmtree(folder)
        draft.rename(folder)


def export_encoder(encoder: ImageEncoder, file: Path, *, size: int) -> None:
    """image.onnx of any backbone, compared with it."""
    random = torch.Generator().manual_seed(0)
    two, three = (
        torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=random) for count in (2, 3)
    )
    export_graph(encoder, file, (two,), {"pixels": "N3SS", "tokens": "NTD", "pooled": "ND"}, free="N")
    check_parity(encoder, file, [(three,)])


def write_words(queries: WordQueries, folder: Path) -> None:
    """The static text encoder with the run's own projection."""
    shutil.copytree(EMBEDDED / "text", folder)
    (folder / "projection.safetensors").unlink()
    p = queries.projection
    tensors = {"skip": p.skip.weight, "w1": p.fc1.weight, "w2": p.fc2.weight}
    arrays = {name: np.ascontiguousarray(t.detach().numpy().T) for name, t in tensors.items()}
    biases = {"b1": p.fc1.bias.detach().numpy(), "b2": p.fc2.bias.detach().numpy()}
    save_file({**arrays, **biases}, folder / "projection.safetensors")
    (folder / "projection.safetensors").chmod(0o644)


def _fitted(loop: FamilyLoop) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], str]:
    """Lines K×2 and thresholds K from the held-out photos, and how they were made."""
    truth, tags = loop.corpus.photos.truth, len(loop.corpus.photos.vocabulary)
    if len(truth) < FEWEST or not truth.any():
        identity = np.tile([1.0, 0.0], (tags, 1))
        return identity, np.full(tags, 0.5), "0.5 for every tag: no photos were held out to fit them on."
    logits = loop.held_out_logits()
    lines = fit_tag_lines(logits, truth.astype(np.float32))
    goal = Goal()
    thresholds = goal.fit(probabilities(logits, lines), truth.astype(np.float64))
    return lines, thresholds, f"{goal} on {len(truth)} held-out photos."


def _card(loop: FamilyLoop, vocabulary: Vocabulary, *, how: str, data: str) -> Card:
    config = loop.family.network.config
    line, metrics = Line(1.0, 0.0), dict[str, Any](loop.evaluate())
    return Card(
        name=loop.out.name or "model",
        family="mini",
        version="1",
        description=f"{loop.recipe.about} ({loop.recipe.backbone or config.backbone})",
        image=ImageSpec(config.size, "bilinear", config.mean, config.std),
        width=config.width,
        text=TextSpec(kind="static", folder="text"),
        calibration=Calibration(vocabulary=line, own=line),
        shortlist=min(SHORTLIST, len(vocabulary)),
        licence="unknown; yours to say",
        training_data=data,
        thresholds=how,
        metrics={"held out": metrics} if metrics else {},
        files={},
    )
