"""Write the model folder of a finished run: small networks as graphs, others as weights."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import Tensor

from anytag._io import atomic_folder
from anytag.calibration.fit import Goal, broader_pairs, fit_tags
from anytag.models.card import NAME, Calibration, Card, Family, ImageSpec, Platt, TextSpec
from anytag.models.folder import write_card
from anytag.models.published import WORDPIECES
from anytag.models.registry import EMBEDDED
from anytag.queries.bank import Bank
from anytag.runtime.onnx import IMAGE, TAGS
from anytag.text_encoders.static import PROJECTION, write_projection
from anytag.text_encoders.wordpiece import WordPieces
from anytag.torch.checkpoints.convert import caption_spec
from anytag.torch.checkpoints.load import (
    ALIGNMENT,
    CAPTIONS,
    DECODER,
    QUERIES,
    WEIGHTS,
    network_fields,
    save_decoder,
)
from anytag.torch.export.onnx_graphs import export_image_graph, export_tags_graph
from anytag.torch.nn.configs import Queries
from anytag.torch.nn.network import TagNetwork
from anytag.torch.training.build import prompts_of
from anytag.torch.training.held_out import held_out_figures
from anytag.torch.training.recipes import Recipe
from anytag.torch.training.stored_tags import make_bank
from anytag.torch.training.student import Student, WordQueries
from anytag.torch.training.trainer import Trainer
from anytag.vocabulary import Vocabulary

_FAMILIES: dict[Queries, Family] = {"learned": "tag2text", "embedded": "ram", "descriptions": "ram-plus"}
_HEADS = {"captions": CAPTIONS, "alignment": ALIGNMENT}
_TEXT = "text"
SHORTLIST = 96
"""Number of tags that the first pass of a trained model selects for each photo."""
MIN_PHOTOS = 20
"""Minimum number of held-out photos for fitting probabilities and thresholds."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """Calibration and figures on held-out photos.

    Attributes:
        lines: float64 K×2, slope and bias from each tag's logit to log-odds.
        vocabulary: the tags with thresholds.
        how: origin of the thresholds, in words.
        figures: figures of the result.
    """

    lines: npt.NDArray[np.float64]
    vocabulary: Vocabulary
    how: str
    figures: Mapping[str, float]


def write_model(student: Student, recipe: Recipe, folder: Path, *, fitted: Fitted, data: str) -> None:
    """Write graphs, queries, vocabulary, text encoder and card of a network with the folded decoder.

    Args:
        student: the trained student, on the CPU, in evaluation mode.
        folder: the folder to write; replaced if it exists. The name in the card is that of its parent.
        fitted: its calibration.
        data: description of the training data, for the card.
    """
    queries = student.queries
    assert isinstance(queries, WordQueries)
    with atomic_folder(folder, replace=True) as draft:
        export_image_graph(student.network.encoder, draft / IMAGE, size=student.network.config.size)
        export_tags_graph(student.network.folded, draft / TAGS)
        save_decoder(student.network.folded, draft / DECODER)
        with torch.no_grad():
            rows = queries()[0].numpy()
        lines = fitted.lines.astype(np.float32)
        bank = make_bank(student.network.folded, rows, lines, known=Platt(1.0, 0.0))
        bank.write(draft / QUERIES)
        fitted.vocabulary.write(draft / "vocabulary.jsonl")
        write_words(queries, draft / _TEXT)
        card = card_of(student, recipe, fitted, family="mini", name=folder.parent.name, data=data)
        shortlist = min(SHORTLIST, card.shortlist)
        write_card(draft, replace(card, text=TextSpec(kind="static", folder=_TEXT), shortlist=shortlist))


def write_torch_model(
    student: Student, recipe: Recipe, folder: Path, *,
    fitted: Fitted, data: str, pieces: WordPieces | None,
) -> None:  # fmt: skip
    """Write weights, queries, vocabulary, texts and card; arguments as for `write_model`.

    The text encoder is included if queries are text vectors of the static table.

    Args:
        pieces: wordpieces of captions, if the network uses them.
    """
    network, config = student.network, student.network.config
    family, has_words = (
        _FAMILIES[config.queries],
        config.queries != "learned" and not (recipe.clip or recipe.embedding),
    )
    with atomic_folder(folder, replace=True) as draft:
        for name, tensors in _parts(network).items():
            save_file(tensors, draft / name)
        with torch.no_grad():
            rows = student.queries()[0].float().contiguous()  # K×P×R; may be stored in half precision
        Bank(rows.numpy(), None, None, fitted.lines.astype(np.float32)).write(draft / QUERIES)
        fitted.vocabulary.write(draft / "vocabulary.jsonl")
        _write_texts(draft / _TEXT, words=has_words, pieces=pieces)
        card = card_of(student, recipe, fitted, family=family, name=folder.parent.name, data=data)
        prompts = prompts_of(recipe, config)
        text = TextSpec(kind="static", folder=_TEXT, prompts=prompts) if has_words else None
        new_card = replace(card, text=text, network=network_fields(config), captions=caption_spec(config))
        write_card(draft, new_card)


def can_be_written(recipe: Recipe) -> bool:
    """Whether a card can describe the recipe's network; it cannot describe timm backbones."""
    return not (recipe.backbone or isinstance(recipe.network.backbone, str))


def _parts(network: TagNetwork) -> dict[str, dict[str, Tensor]]:
    """Trained tensors by file, tied ones once."""
    files: dict[str, dict[str, Tensor]] = {}
    for name, parameter in network.named_parameters():
        file = _HEADS.get(name.partition(".")[0], WEIGHTS)
        files.setdefault(file, {})[name] = parameter.detach().contiguous()
    return files


def _write_texts(folder: Path, *, words: bool, pieces: WordPieces | None) -> None:
    """Write the static text encoder without its projection, and the wordpieces of captions."""
    if words:
        left_out = shutil.ignore_patterns(PROJECTION, WORDPIECES)
        shutil.copytree(EMBEDDED / _TEXT, folder, ignore=left_out)
    if pieces is not None:
        folder.mkdir(exist_ok=True)
        pieces.write(folder / WORDPIECES)


def write_words(queries: WordQueries, folder: Path) -> None:
    """Write the static text encoder with the run's projection."""
    shutil.copytree(EMBEDDED / _TEXT, folder, ignore=shutil.ignore_patterns(PROJECTION))
    write_projection(queries.projection.arrays(), folder)


def fit_on_held_out(trainer: Trainer, tags: Vocabulary) -> Fitted:
    """Fit calibration and thresholds on the held-out photos; a collective operation.

    The student must have loaded its averages.
    """
    truth, logits = trainer.dataset.truth, trainer.held_out_logits()
    if truth is None or len(truth) < MIN_PHOTOS or not truth.any():
        lines, thresholds = np.tile([1.0, 0.0], (len(tags), 1)), np.full(len(tags), 0.5)
        count = 0 if truth is None else len(truth)
        how = f"0.5 for every tag: {count} photos were held out, too few to fit them on ({MIN_PHOTOS})."
    else:
        goal, below = Goal(), broader_pairs(list(tags.broader))
        lines, thresholds = fit_tags(logits, truth.astype(np.float64), goal, pairs=below)
        how = f"{goal} on {len(truth)} held-out photos."
    ids = {tag.id: round(float(t), 2) for tag, t in zip(tags, thresholds, strict=True)}
    return Fitted(
        lines, tags.with_thresholds(ids), how, held_out_figures(logits, truth) if truth is not None else {}
    )


def card_of(
    student: Student, recipe: Recipe, fitted: Fitted, *, family: Family, name: str, data: str
) -> Card:
    """The card of a run's folder, without a text encoder."""
    config, line = student.network.config, Platt(1.0, 0.0)
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
