"""A finished run -> a model folder with torch weights, as `anytag convert` writes one: published families."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from anytag.models.card import Family, TextSpec
from anytag.models.folder import write_card
from anytag.models.published import WORDPIECES
from anytag.models.registry import EMBEDDED
from anytag.text_encoders.wordpiece import WordPieces
from anytag.torch.checkpoints.convert import caption_spec
from anytag.torch.checkpoints.load import ALIGNMENT, CAPTIONS, QUERIES, WEIGHTS, network_numbers
from anytag.torch.nn.configs import Queries
from anytag.torch.nn.network import TagNetwork
from anytag.torch.training.build import prompts_of
from anytag.torch.training.model_folder import Fitted, card_of, drafted
from anytag.torch.training.recipes import Recipe
from anytag.torch.training.student import Student

_FAMILIES: dict[Queries, Family] = {"learned": "tag2text", "embedded": "ram", "descriptions": "ram-plus"}
_HEADS = {"captions": CAPTIONS, "alignment": ALIGNMENT}
_TEXT = "text"


def write_torch_model(
    student: Student, recipe: Recipe, folder: Path, *,
    fitted: Fitted, data: str, pieces: WordPieces | None,
) -> None:  # fmt: skip
    """Weights, queries, vocabulary, words and card; arguments as for `model_folder.write_model`.

    The text encoder goes along where queries are text vectors of the static table.

    Args:
        pieces: of captions, where the network reads or writes them.
    """
    network, config = student.network, student.network.config
    family, has_words = (
        _FAMILIES[config.queries],
        config.queries != "learned" and not (recipe.clip or recipe.embedding),
    )
    with drafted(folder) as draft:
        for name, tensors in _parts(network).items():
            save_file(tensors, draft / name)
        with torch.no_grad():
            rows = student.queries()[0].float().contiguous()  # K×P×R; kept rounded in half precision
        save_file({"rows": rows, "line": torch.from_numpy(fitted.lines).float()}, draft / QUERIES)
        fitted.vocabulary.write(draft / "vocabulary.jsonl")
        _write_texts(draft / _TEXT, words=has_words, pieces=pieces)
        card = card_of(student, recipe, fitted, family=family, name=folder.parent.name, data=data)
        prompts = prompts_of(recipe, config)
        text = TextSpec(kind="static", folder=_TEXT, prompts=prompts) if has_words else None
        told = replace(card, text=text, network=network_numbers(config), captions=caption_spec(config))
        write_card(draft, told)


def can_be_written(recipe: Recipe) -> bool:
    """Do a card's numbers tell the network? A backbone of timm's they do not."""
    return not (recipe.backbone or isinstance(recipe.network.backbone, str))


def _parts(network: TagNetwork) -> dict[str, dict[str, Tensor]]:
    """Trained tensors by the file they go to, each tied one once."""
    files: dict[str, dict[str, Tensor]] = {}
    for name, parameter in network.named_parameters():
        file = _HEADS.get(name.partition(".")[0], WEIGHTS)
        files.setdefault(file, {})[name] = parameter.detach().contiguous()
    return files


def _write_texts(folder: Path, *, words: bool, pieces: WordPieces | None) -> None:
    """The static text encoder, as it encodes what queries are made of, and the wordpieces of captions."""
    if words:
        left_out = shutil.ignore_patterns("projection.safetensors", WORDPIECES)
        shutil.copytree(EMBEDDED / "text", folder, ignore=left_out)
    if pieces is not None:
        folder.mkdir(exist_ok=True)
        entries = pieces.entries[:-2]  # without the two that every vocabulary gets
        (folder / WORDPIECES).write_text("".join(f"{entry}\n" for entry in entries), encoding="utf-8")
