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

from .family import FamilyStudent, Floats, WordQueries, held_out_figures, held_out_logits
from .pixels import PixelCorpus
from .recipes import TrainRecipe
from .ship import save_queries
from .stored import fit_tag_lines, make_bank, probabilities
from .thresholds import Goal

SHORTLIST = 96
FEWEST = 20
"""Held-out photos that it takes to fit probabilities and thresholds."""


def write_model(
    student: FamilyStudent, corpus: PixelCorpus, recipe: TrainRecipe, folder: Path, *, data: str
) -> None:
    """Graphs, queries, vocabulary, words and card of a folded network.

    Args:
        student: the result, on the CPU, for evaluation.
        corpus: all its photos, of one process.
        folder: replaced when it is there.
        data: what it was trained on, for the card.
    """
    queries, vocabulary = student.queries, corpus.photos.vocabulary
    assert isinstance(queries, WordQueries)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as work:
        draft = Path(work, "model")
        draft.mkdir()
        export_encoder(student.network.encoder, draft / IMAGE, size=student.network.config.size)
        export_tags_graph(student.network.folded, draft / TAGS)
        with torch.no_grad():
            rows = queries()[0].numpy()
        logits, truth = held_out_logits(student, corpus), corpus.photos.truth
        lines, thresholds, how = _fitted(logits, truth)
        bank = make_bank(student.network.folded, rows, lines.astype(np.float32), known=Line(1.0, 0.0))
        save_queries(draft / "queries.safetensors", bank)
        ids = {tag.id: round(float(t), 2) for tag, t in zip(vocabulary, thresholds, strict=True)}
        vocabulary.with_thresholds(ids).write(draft / "vocabulary.jsonl")
        write_words(queries, draft / "text")
        metrics = held_out_figures(logits, truth)
        name = folder.parent.name or "model"
        write_card(draft, _card(name, student, recipe, len(vocabulary), how=how, data=data, metrics=metrics))
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


def _fitted(
    logits: Floats, truth: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], str]:
    """Lines K×2 and thresholds K from the held-out photos, and how they were made."""
    tags = logits.shape[1]
    if len(truth) < FEWEST or not truth.any():
        identity = np.tile([1.0, 0.0], (tags, 1))
        return identity, np.full(tags, 0.5), "0.5 for every tag: no photos were held out to fit them on."
    lines = fit_tag_lines(logits, truth.astype(np.float32))
    goal = Goal()
    thresholds = goal.fit(probabilities(logits, lines), truth.astype(np.float64))
    return lines, thresholds, f"{goal} on {len(truth)} held-out photos."


def _card(
    name: str, student: FamilyStudent, recipe: TrainRecipe, tags: int, *, how: str, data: str, metrics: Any
) -> Card:
    config, line = student.network.config, Line(1.0, 0.0)
    return Card(
        name=name,
        family="mini",
        version="1",
        description=f"{recipe.about} ({recipe.backbone or config.backbone})",
        image=ImageSpec(config.size, "bilinear", config.mean, config.std),
        width=config.width,
        text=TextSpec(kind="static", folder="text"),
        calibration=Calibration(vocabulary=line, own=line),
        shortlist=min(SHORTLIST, tags),
        licence="unknown; yours to say",
        training_data=data,
        thresholds=how,
        metrics={"held out": metrics} if metrics else {},
        files={},
    )
