"""A finished run -> a model folder that `anytag tag --model` loads: small networks, served as ONNX."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import save_file

from anytag.calibration.fit import Goal, fit_tags, pairs_below
from anytag.models.card import NAME, Calibration, Card, Family, ImageSpec, Line, TextSpec
from anytag.models.folder import write_card
from anytag.models.registry import EMBEDDED
from anytag.runtime.onnx import IMAGE, TAGS
from anytag.torch.checkpoints.load import DECODER, save_decoder
from anytag.torch.export.onnx_graphs import export_graph, export_tags_graph
from anytag.torch.export.parity import check_parity
from anytag.torch.nn.network import ImageEncoder
from anytag.torch.training.family import FamilyLoop, FamilyStudent, WordQueries, held_out_figures
from anytag.torch.training.recipes import TrainRecipe
from anytag.torch.training.stored import make_bank
from anytag.vocabulary import Vocabulary

SHORTLIST = 96
FEWEST = 20
"""Held-out photos that it takes to fit probabilities and thresholds."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """What held-out photos say of a result.

    Attributes:
        lines: float64 K×2, slope and offset that make each tag's logit log-odds.
        vocabulary: with the thresholds.
        how: they were made, in words.
        figures: of the result.
    """

    lines: npt.NDArray[np.float64]
    vocabulary: Vocabulary
    how: str
    figures: Mapping[str, float]


def write_model(
    student: FamilyStudent, recipe: TrainRecipe, folder: Path, *, fitted: Fitted, data: str
) -> None:
    """Graphs, queries, vocabulary, words and card of a folded network.

    Args:
        student: the result, on the CPU, for evaluation.
        folder: replaced when it is there; the card's name is that of the folder around it.
        data: what it was trained on, for the card.
    """
    queries = student.queries
    assert isinstance(queries, WordQueries)
    with drafted(folder) as draft:
        export_encoder(student.network.encoder, draft / IMAGE, size=student.network.config.size)
        export_tags_graph(student.network.folded, draft / TAGS)
        save_decoder(student.network.folded, draft / DECODER)
        with torch.no_grad():
            rows = queries()[0].numpy()
        lines = fitted.lines.astype(np.float32)
        bank = make_bank(student.network.folded, rows, lines, known=Line(1.0, 0.0))
        bank.write(draft / "queries.safetensors")
        fitted.vocabulary.write(draft / "vocabulary.jsonl")
        write_words(queries, draft / "text")
        card = card_of(student, recipe, fitted, family="mini", name=folder.parent.name, data=data)
        shortlist = min(SHORTLIST, card.shortlist)
        write_card(draft, replace(card, text=TextSpec(kind="static", folder="text"), shortlist=shortlist))


@contextmanager
def drafted(folder: Path) -> Iterator[Path]:
    """A folder to write into, which takes the place of `folder` once all is written."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as work:
        draft = Path(work, "model")
        draft.mkdir()
        yield draft
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


def fitted(loop: FamilyLoop) -> Fitted:
    """Asks the held-out photos, in every process; the student has taken the averages."""
    truth, logits, tags = loop.corpus.photos.truth, loop.held_out_logits(), loop.corpus.photos.vocabulary
    if len(truth) < FEWEST or not truth.any():
        lines, thresholds = np.tile([1.0, 0.0], (len(tags), 1)), np.full(len(tags), 0.5)
        how = "0.5 for every tag: no photos were held out to fit them on."
    else:
        goal, below = Goal(), pairs_below(list(tags.broader))
        lines, thresholds = fit_tags(logits, truth.astype(np.float64), goal, below=below)
        how = f"{goal} on {len(truth)} held-out photos."
    ids = {tag.id: round(float(t), 2) for tag, t in zip(tags, thresholds, strict=True)}
    return Fitted(lines, tags.with_thresholds(ids), how, held_out_figures(logits, truth))


def card_of(
    student: FamilyStudent, recipe: TrainRecipe, fitted: Fitted, *, family: Family, name: str, data: str
) -> Card:
    """What every run's folder says; without a text encoder."""
    config, line = student.network.config, Line(1.0, 0.0)
    return Card(
        name=name if NAME.fullmatch(name) else "model",
        family=family,
        version="1",
        description=f"{recipe.about} ({recipe.backbone or config.backbone})",
        image=ImageSpec(config.size, "bilinear", config.mean, config.std),
        width=config.width,
        text=None,
        calibration=Calibration(vocabulary=line, own=line),
        shortlist=len(fitted.vocabulary),
        licence="unknown; yours to say",
        training_data=data,
        thresholds=fitted.how,
        metrics={"held out": dict(fitted.figures)} if fitted.figures else {},
        files={},
    )
