"""A run begins with the weights of another, of a released checkpoint, or of a pretrained image network.

`start=` names a run's folder, a model folder, or a file of weights: a checkpoint of Tag2Text, RAM or RAM++,
a Swin or ViT as its authors or timm write it, or weights of the timm network that is the backbone. Positions
are resampled for another image size, and every tensor is accounted for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anytag.errors import AnytagError, CheckpointError
from anytag.models.folder import ModelFolder
from anytag.models.published import WORDPIECES
from anytag.torch.checkpoints.load import ALIGNMENT, CAPTIONS, QUERIES, WEIGHTS, read_config, stored
from anytag.torch.checkpoints.read import (
    SHOWN,
    detect_config,
    detect_family,
    read_tensors,
    refuse_infinite,
    verify,
)
from anytag.torch.checkpoints.resample import fit_positions, resized
from anytag.torch.checkpoints.verify import plan
from anytag.torch.checkpoints.weight_names import SWIN, VIT, ours
from anytag.torch.nn.configs import NetworkConfig
from anytag.torch.nn.timm_backbone import TimmBackbone
from anytag.torch.nn.transformer_backbones import SwinBackbone, VitBackbone
from anytag.torch.training.checkpoint import STUDENT
from anytag.torch.training.recipes import Recipe
from anytag.vocabulary import Vocabulary

_HEADS = ("network.alignment.", "network.captions.")  # what a start may have, and a run need not
_NEW = "network.alignment."  # heads that a start may be without
_QUERIES = "queries."
_BACKBONE = "network.encoder.backbone."
_RECIPES = {"learned": "tag2text-14m-384", "embedded": "ram-14m-384", "descriptions": "ram-plus-14m-384"}


@dataclass(frozen=True)
class Start:
    """Weights to begin with.

    Attributes:
        path: where they are from.
        tensors: by the student's names, or of `backbone_only` by the file's own.
        config: of the network that they are of, where that is known.
        folder: a model folder, which has tags and text vectors too.
        backbone_only: weights of an image network.
        lost: things that were left out before.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    config: NetworkConfig | None = None
    folder: ModelFolder | None = None
    backbone_only: bool = False
    lost: tuple[str, ...] = field(default=())


def read_start(path: Path) -> Start:
    """What `start` of a recipe names.

    Raises:
        AnytagError: it is missing, damaged, or none of what can be a start.
    """
    if (path / STUDENT).is_file():
        return _from_file(path / STUDENT)
    if (path / "card.json").is_file():
        return _from_folder(path)
    if path.is_file():
        return _from_file(path)
    raise AnytagError(
        f"{path} is no start: start names the folder of a finished run, a model folder with torch weights, "
        "or a file of weights (.pth or .safetensors)"
    )


def _from_folder(path: Path) -> Start:
    model = ModelFolder.open(path)
    if not model.card.network:
        raise AnytagError(
            f"{path} is of the family {model.card.family!r}, whose graphs cannot be trained: start at the "
            f"folder of its run, or teach it tags with anytag finetune --model {path}"
        )
    config = read_config(model.card)
    parts = [WEIGHTS, *([CAPTIONS] if config.captions else []), *([ALIGNMENT] if config.alignment else [])]
    tensors = {f"network.{name}": t.float() for part in parts for name, t in stored(model, part).items()}
    if config.queries == "learned":
        tensors |= _learned(stored(model, QUERIES)["rows"].float())
    return Start(path, tensors, config, model)


def _learned(rows: Tensor) -> dict[str, Tensor]:
    """K×1×(2H+1) as the student has it."""
    hidden = rows.shape[2] // 2
    embed, weight, bias = rows[:, 0, :hidden], rows[:, 0, hidden:-1], rows[:, 0, -1]
    return {f"{_QUERIES}embed": embed, f"{_QUERIES}weight": weight[None], f"{_QUERIES}bias": bias[None]}


def _from_file(path: Path) -> Start:
    verify(path)
    tensors, _ = read_tensors(path)
    for name, tensor in tensors.items():
        refuse_infinite(name, tensor, path)
    if any(name.startswith("network.") for name in tensors):
        return Start(path, tensors)
    try:
        family = detect_family(tensors, path)
    except CheckpointError:
        return Start(path, tensors, backbone_only=True)
    config = detect_config(tensors, family)
    rows = tensors.get("label_embed.weight", tensors.get("label_embed", torch.zeros(1, 1)))
    names = plan(family, config, rows=len(rows)).loaded
    made = {
        name if name.startswith(_QUERIES) else f"network.{name}": tensors[published].float()
        for published, name in names.items()
        if published in tensors and name != f"{_QUERIES}rows"
    }
    return Start(path, made, config)


def adopted(recipe: Recipe, start: Start) -> Recipe:
    """The recipe with the network that its start is of, at the recipe's own image size.

    Of a model folder it also takes tags, text vectors and wordpieces, where the recipe names none.

    Raises:
        AnytagError: the start is of another family, or has weights and no tags where they are needed.
    """
    config, own = start.config, recipe.network
    if config is None:
        return recipe
    if config.queries != own.queries or own.cross is None or recipe.backbone:
        right = _RECIPES[config.queries]
        raise AnytagError(
            f"start={start.path} is a {_family(config)} model, and this recipe trains another: take {right}"
        )
    if config.queries != "learned" and start.folder is None and not (recipe.embedding or recipe.clip):
        raise AnytagError(
            f"start={start.path} has no tags beside its weights: make a folder of it (anytag convert "
            f"{start.path} -o FOLDER) and give start=FOLDER; or give vocabulary=FILE and embedding= or clip="
        )
    captions = None if own.captions is None else config.captions or own.captions
    alignment = own.alignment
    if alignment is not None and captions is not None:
        alignment = replace(alignment, width=captions.width, words=captions.words)
    network = replace(
        resized(config, own.size), mean=own.mean, std=own.std, captions=captions, alignment=alignment
    )
    return replace(recipe, network=network, **_texts(recipe, start))


def _texts(recipe: Recipe, start: Start) -> dict[str, Any]:
    """Tags, text vectors and wordpieces of a model folder, for what the recipe leaves open."""
    folder = start.folder
    if folder is None:
        return {}
    texts: dict[str, str] = {}
    if not recipe.vocabulary:
        texts["vocabulary"] = str(folder.path / "vocabulary.jsonl")
        described = recipe.embedding or recipe.descriptions or recipe.clip
        if recipe.network.queries != "learned" and not described:
            texts["embedding"] = str(folder.path / QUERIES)
    pieces = folder.path / "text" / WORDPIECES
    if not recipe.wordpieces and recipe.objective.reads and pieces.is_file():
        texts["wordpieces"] = str(pieces)
    return texts


def _family(config: NetworkConfig) -> str:
    """As people call it."""
    return {"learned": SHOWN["tag2text"], "embedded": SHOWN["ram"]}.get(config.queries, SHOWN["ram-plus"])


def start_from(student: nn.Module, source: Path | Start, *, vocabulary: Vocabulary | None = None) -> str:
    """Loads a start into a student; positions are resampled to its image size.

    Args:
        vocabulary: the run's, so that learned queries are taken tag by tag.

    Returns:
        what was taken, what is new and what was left out, in one line.

    Raises:
        AnytagError: the start is missing, or is of another network; names what does not fit.
    """
    start = read_start(source) if isinstance(source, Path) else source
    target = student.state_dict()
    if start.backbone_only:
        tensors, left = _backbone(start, student)
    else:
        tensors, left = _fitted(start, student), []
        if start.folder is not None and vocabulary is not None:
            _by_tag(tensors, target, Vocabulary.read(start.folder.file("vocabulary.jsonl")), vocabulary)
    left += [name for name in tensors if name not in target and _optional(name, start)]
    tensors = {name: tensor for name, tensor in tensors.items() if name not in left}
    wrong = [n for n, t in tensors.items() if n not in target or target[n].shape != t.shape]
    new = _missing(student, tensors)
    wrong += [name for name in new if not _may_be_new(name, start)]
    if wrong:
        raise AnytagError(f"{start.path} is of another network: {', '.join(wrong[:5])} ({len(wrong)} in all)")
    student.load_state_dict(tensors, strict=False)
    return _accounted(start, len(tensors), new, left)


def _fitted(start: Start, student: nn.Module) -> dict[str, Tensor]:
    """Without what follows from the size, positions at the student's."""
    network: Any = student.network
    tensors: dict[str, Tensor] = {}
    for name, tensor in start.tensors.items():
        if not _derived(name):
            inner = name.removeprefix("network.")
            tensors[name] = fit_positions(inner, tensor, network.config) if inner != name else tensor
    return tensors


def _by_tag(
    tensors: dict[str, Tensor], target: Mapping[str, Tensor], known: Vocabulary, tags: Vocabulary
) -> None:
    """Learned queries of the run's tags, in its order; those of tags that the start lacks stay random."""
    if f"{_QUERIES}embed" not in tensors or known.ids == tags.ids:
        return
    pairs = [(place, known.index(id)) for place, id in enumerate(tags.ids) if id in known]
    places, rows = (torch.tensor([pair[side] for pair in pairs], dtype=torch.int64) for side in (0, 1))
    for part, dim in (("embed", 0), ("weight", 1), ("bias", 1)):
        name = f"{_QUERIES}{part}"
        tensor = tensors[name].index_select(dim, rows)
        tensors[name] = target[name].clone().index_copy_(dim, places, tensor)


def _backbone(start: Start, student: nn.Module) -> tuple[dict[str, Tensor], list[str]]:
    """Weights of an image network by the student's names, and the names of what is not the backbone's."""
    network: Any = student.network
    backbone = network.encoder.backbone
    tensors: dict[str, Tensor] = {}
    left: list[str] = []
    for name, tensor in start.tensors.items():
        inner = _name_in(backbone, name, start.tensors)
        if inner is None or f"network.{inner}" not in student.state_dict():
            left += [] if _derived(name) else [name]
        else:
            tensors[f"network.{inner}"] = fit_positions(inner, tensor.float(), network.config)
    return tensors, left


def _name_in(backbone: nn.Module, name: str, names: Mapping[str, Tensor]) -> str | None:
    """Our name of a tensor of an image network's file; None where it is not the backbone's."""
    if isinstance(backbone, TimmBackbone):
        return f"encoder.backbone.stages.0.net.{name}"
    if isinstance(backbone, VitBackbone):
        return ours(f"visual_encoder.{name}", VIT)
    if isinstance(backbone, SwinBackbone):
        last = f"layers.{len(backbone.stages) - 2}.downsample.reduction.weight"
        if last in names:  # timm's own form, in which a stage opens with what closed the one before
            return ours(f"visual_encoder.{name}", _TIMM_SWIN)
        return ours(f"visual_encoder.{name}", SWIN)
    return None


_TIMM_SWIN = (
    ("visual_encoder.patch_embed.", "encoder.backbone.stages.0."),
    ("visual_encoder.layers.#.", "encoder.backbone.stages.#+1."),
    ("visual_encoder.norm.", "encoder.backbone.norm."),
)


def _missing(student: nn.Module, tensors: Mapping[str, Tensor]) -> list[str]:
    """Parameters of the student that are not given, by any of their names."""
    named = list(student.named_parameters(remove_duplicate=False))
    present = {id(parameter) for name, parameter in named if name in tensors}
    first: dict[int, str] = {}
    for name, parameter in named:
        first.setdefault(id(parameter), name)
    return [name for key, name in first.items() if key not in present]


def _may_be_new(name: str, start: Start) -> bool:
    if start.backbone_only:
        return not name.startswith(_BACKBONE)
    if name.startswith("network.captions.") and start.config is not None:
        return start.config.captions is None
    return name.startswith(_NEW) or (name.startswith(_QUERIES) and start.config is not None)


def _optional(name: str, start: Start) -> bool:
    """May a run do without it?"""
    return start.config is not None and name.startswith((*_HEADS, _QUERIES))


def _accounted(start: Start, count: int, new: list[str], left: list[str]) -> str:
    new_text = f"; made anew: {_parts(new)}" if new else ""
    lost = f"; left out: {_parts(left)}" if left else ""
    return f"Starts with {count} tensors of {start.path}{new_text}{lost}."


def _parts(names: list[str]) -> str:
    """Names by the parts that they belong to, with how many there are."""
    counts: dict[str, int] = {}
    for name in names:
        parts = name.removeprefix("network.").split(".")
        counts[parts[0]] = counts.get(parts[0], 0) + 1
    return ", ".join(f"{part} ({count})" for part, count in counts.items())


def _derived(name: str) -> bool:
    """Buffers that follow from the size."""
    return name.endswith(("relative_position_index", "attn_mask"))
