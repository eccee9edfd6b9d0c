"""Initialise a run with the weights of another run, a published checkpoint, or a pretrained image network.

`start=` is a run's folder, a model folder, or a file of weights: a checkpoint of Tag2Text, RAM or RAM++, a
Swin or ViT in its authors' or timm's format, or weights of the timm network that is the backbone. Position
tables are resampled for another image size, and every tensor is accounted for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anytag.errors import AnytagError, CheckpointError
from anytag.models.folder import ModelFolder
from anytag.models.published import WORDPIECES
from anytag.torch.checkpoints.load import ALIGNMENT, CAPTIONS, QUERIES, WEIGHTS, load_tensors, read_config
from anytag.torch.checkpoints.read import (
    DISPLAY_NAMES,
    check_finite,
    detect_config,
    detect_family,
    read_tensors,
    verify,
)
from anytag.torch.checkpoints.resample import fit_positions, resized
from anytag.torch.checkpoints.verify import plan
from anytag.torch.checkpoints.weight_names import SWIN, VIT, to_ours
from anytag.torch.nn.configs import NetworkConfig
from anytag.torch.nn.timm_backbone import TimmBackbone
from anytag.torch.nn.transformer_backbones import SwinBackbone, VitBackbone
from anytag.torch.training.checkpoint import STUDENT
from anytag.torch.training.recipes import Recipe
from anytag.vocabulary import Vocabulary

_HEADS = ("network.alignment.", "network.captions.")  # a start may have these heads and the run not
_NEW = "network.alignment."  # a run may have these heads and the start not
_QUERIES = "queries."
_OF_TAGS = {"queries.embed": 0, "queries.weight": 1, "queries.bias": 1, "queries.residual": 0}
"""What is learned for single tags, with the dimension of the tags."""
_BACKBONE = "network.encoder.backbone."
_STATISTICS = (".running_mean", ".running_var")  # of batch norms
_RECIPES = {"learned": "tag2text-14m-384", "embedded": "ram-14m-384", "descriptions": "ram-plus-14m-384"}


@dataclass(frozen=True)
class Start:
    """Initial weights of a run.

    Attributes:
        path: their file or folder.
        tensors: by the student's names, or by the file's names if `backbone_only`.
        config: configuration of their network, if known.
        folder: the model folder, which has tags and text vectors too; None for a file or a run.
        vocabulary: the file of their tags, if known.
        wordpieces: the file of their wordpieces, if they have some and they are known.
        backbone_only: whether they are those of an image network.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    config: NetworkConfig | None = None
    folder: ModelFolder | None = None
    vocabulary: Path | None = None
    wordpieces: Path | None = None
    backbone_only: bool = False


def read_start(path: Path) -> Start:
    """Read the weights that a recipe's `start` names.

    Raises:
        AnytagError: they are missing, damaged, or of an unsupported kind.
    """
    if (path / STUDENT).is_file():
        return _from_file(path / STUDENT)
    if (path / "card.json").is_file():
        return _from_folder(path)
    if path.is_file():
        return _from_file(path)
    raise AnytagError(
        f"{path} cannot be a start: expected the folder of a finished run, a model folder with torch "
        "weights, or a file of weights (.pth or .safetensors)"
    )


def _from_folder(path: Path) -> Start:
    model = ModelFolder.open(path)
    if not model.card.network:
        raise AnytagError(
            f"{path} is of the family {model.card.family!r}, whose graphs cannot be trained: start from the "
            f"folder of its run, or add tags with anytag finetune --model {path}"
        )
    config = read_config(model.card)
    parts = [WEIGHTS, *([CAPTIONS] if config.captions else []), *([ALIGNMENT] if config.alignment else [])]
    tensors = {
        f"network.{name}": t.float() for part in parts for name, t in load_tensors(model, part).items()
    }
    if config.queries == "learned":
        tensors |= _learned(load_tensors(model, QUERIES)["rows"].float())
    pieces = path / "text" / WORDPIECES
    return Start(path, tensors, config, model, model.file("vocabulary.jsonl"), _existing(pieces))


def _of_run(path: Path, tensors: Mapping[str, Tensor]) -> Start:
    """The result of a run, with the tags and wordpieces of its model or else of its folder."""
    model, run = path.parent / "model", path.parent
    vocabulary = _existing(model / "vocabulary.jsonl", run / "vocabulary.jsonl")
    pieces = _existing(model / "text" / WORDPIECES, run / WORDPIECES)
    return Start(path, tensors, vocabulary=vocabulary, wordpieces=pieces)


def _existing(*files: Path) -> Path | None:
    """The first of the files that exists."""
    return next((file for file in files if file.is_file()), None)


def _learned(rows: Tensor) -> dict[str, Tensor]:
    """Learned rows K×1×(2H+1) as the student's tensors."""
    hidden = rows.shape[2] // 2
    embed, weight, bias = rows[:, 0, :hidden], rows[:, 0, hidden:-1], rows[:, 0, -1]
    return {f"{_QUERIES}embed": embed, f"{_QUERIES}weight": weight[None], f"{_QUERIES}bias": bias[None]}


def _from_file(path: Path) -> Start:
    verify(path)
    tensors, _ = read_tensors(path)
    for name, tensor in tensors.items():
        check_finite(name, tensor, path)
    if any(name.startswith("network.") for name in tensors):
        return _of_run(path, tensors)
    try:
        family = detect_family(tensors, path)
    except CheckpointError:
        return Start(path, tensors, backbone_only=True)
    config = detect_config(tensors, family)
    rows = tensors.get("label_embed.weight", tensors.get("label_embed", torch.zeros(1, 1)))
    names = plan(family, config, rows=len(rows)).loaded
    renamed = {
        name if name.startswith(_QUERIES) else f"network.{name}": tensors[published].float()
        for published, name in names.items()
        if published in tensors and name != f"{_QUERIES}rows"
    }
    return Start(path, renamed, config)


def adopt_network(recipe: Recipe, start: Start) -> Recipe:
    """The recipe with the network configuration of its start, at the recipe's image size.

    If the start is a model folder, its tags and text vectors are used unless the recipe has some, and so are
    the wordpieces of a model folder or a run.

    Raises:
        AnytagError: the start is of another family, or lacks the tags that are needed.
    """
    config, own = start.config, recipe.network
    if config is None:
        return replace(recipe, **_texts(recipe, start))
    if config.queries != own.queries or own.cross is None or recipe.backbone:
        right = _RECIPES[config.queries]
        raise AnytagError(
            f"start={start.path} is a {_family(config)} model, but this recipe trains another: use {right}"
        )
    if config.queries != "learned" and start.folder is None and not (recipe.embedding or recipe.clip):
        raise AnytagError(
            f"start={start.path} has weights but no tags: convert it to a folder (anytag convert "
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
    """Recipe fields for tags, text vectors and wordpieces of the start that the recipe does not set."""
    folder, texts = start.folder, dict[str, str]()
    if folder is not None and not recipe.vocabulary:
        texts["vocabulary"] = str(folder.path / "vocabulary.jsonl")
        described = recipe.embedding or recipe.descriptions or recipe.clip
        if recipe.network.queries != "learned" and not described:
            texts["embedding"] = str(folder.path / QUERIES)
    if start.wordpieces is not None and not recipe.wordpieces and recipe.objective.reads:
        texts["wordpieces"] = str(start.wordpieces)
    return texts


def _family(config: NetworkConfig) -> str:
    """The family's display name."""
    family = {"learned": "tag2text", "embedded": "ram"}.get(config.queries, "ram-plus")
    return DISPLAY_NAMES[family]


def start_from(student: nn.Module, source: Path | Start, *, vocabulary: Vocabulary | None = None) -> str:
    """Load initial weights into a student; position tables are resampled to its image size.

    Args:
        vocabulary: the run's vocabulary, by which learned queries and residuals are matched tag by tag; None:
            it is that of the start.

    Returns:
        a line with the number of loaded tensors, and with new and ignored parts.

    Raises:
        AnytagError: the start is missing, or is of another network; the message names what does not fit.
    """
    start = read_start(source) if isinstance(source, Path) else source
    target, new_tags = student.state_dict(), 0
    if start.backbone_only:
        tensors, ignored = _backbone(start, student, target)
    else:
        tensors, ignored = _resampled(start, student), []
        if vocabulary is not None:
            new_tags = _by_tag(tensors, target, start, vocabulary)
    ignored += [name for name in tensors if name not in target and _optional(name, start)]
    tensors = {name: tensor for name, tensor in tensors.items() if name not in ignored}
    wrong = [n for n, t in tensors.items() if n not in target or target[n].shape != t.shape]
    new = _missing(student, tensors)
    wrong += [n for n in target if start.backbone_only and n.endswith(_STATISTICS) and n not in tensors]
    wrong += [name for name in new if not _may_be_new(name, start)]
    if wrong:
        raise AnytagError(
            f"{start.path} does not fit the network: {', '.join(wrong[:5])} ({len(wrong)} in total)"
        )
    student.load_state_dict(tensors, strict=False)
    return _summary(start, len(tensors), new, ignored, new_tags)


def _resampled(start: Start, student: nn.Module) -> dict[str, Tensor]:
    """The tensors with positions at the student's image size, without buffers that the run makes itself."""
    network: Any = student.network
    tensors: dict[str, Tensor] = {}
    for name, tensor in start.tensors.items():
        if not _derived(name):
            inner = name.removeprefix("network.")
            tensors[name] = fit_positions(inner, tensor, network.config) if inner != name else tensor
    return tensors


def _by_tag(tensors: dict[str, Tensor], target: Mapping[str, Tensor], start: Start, tags: Vocabulary) -> int:
    """Reorder what was learned for single tags; returns the number of tags that the start lacks.

    These keep their initial values.
    """
    learned = {name: dim for name, dim in _OF_TAGS.items() if name in tensors and name in target}
    if not learned or (start.vocabulary is None and start.config is not None):
        return 0  # the rows of a published checkpoint are those of vocabulary=
    if start.vocabulary is None:
        raise AnytagError(
            f"{start.path} has learned tags, but no vocabulary.jsonl beside it that names them: give the "
            "folder of the run"
        )
    known = Vocabulary.read(start.vocabulary)
    pairs = [(row, known.index(id)) for row, id in enumerate(tags.ids) if id in known]
    targets, sources = (torch.tensor([pair[side] for pair in pairs], dtype=torch.int64) for side in (0, 1))
    for name, dim in learned.items():
        if tensors[name].shape[dim] != len(known):
            raise AnytagError(
                f"{start.path} has {tensors[name].shape[dim]} learned tags, but {start.vocabulary} has "
                f"{len(known)}: give the folder of the run with its own vocabulary.jsonl"
            )
        tensor = tensors[name].index_select(dim, sources)
        if tensor.shape == target[name].index_select(dim, targets).shape:  # otherwise refused later
            tensors[name] = target[name].clone().index_copy_(dim, targets, tensor)
    return len(tags) - len(pairs)


def _backbone(
    start: Start, student: nn.Module, target: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """Weights of an image network by the student's names, and the names of tensors outside the backbone."""
    network: Any = student.network
    backbone = network.encoder.backbone
    tensors: dict[str, Tensor] = {}
    ignored: list[str] = []
    for name, tensor in start.tensors.items():
        inner = _name_in(backbone, name, start.tensors)
        if _derived(name):
            continue
        if inner is not None and f"network.{inner}" in target:
            tensors[f"network.{inner}"] = fit_positions(inner, tensor.float(), network.config)
        elif inner is None or isinstance(backbone, TimmBackbone):  # such as a classifier
            ignored.append(name)
        else:
            tensors[name] = tensor  # of a deeper network: it is refused
    return tensors, ignored


def _name_in(backbone: nn.Module, name: str, names: Mapping[str, Tensor]) -> str | None:
    """Our name of a tensor in an image network's file; None if it is not part of the backbone."""
    if isinstance(backbone, TimmBackbone):
        return f"encoder.backbone.stages.0.net.{name}"
    if isinstance(backbone, VitBackbone):
        return to_ours(f"visual_encoder.{name}", VIT)
    if isinstance(backbone, SwinBackbone):
        last = f"layers.{len(backbone.stages) - 2}.downsample.reduction.weight"
        if last in names:  # timm's format, in which downsampling is at the beginning of the next stage
            return to_ours(f"visual_encoder.{name}", _TIMM_SWIN)
        return to_ours(f"visual_encoder.{name}", SWIN)
    return None


_TIMM_SWIN = (
    ("visual_encoder.patch_embed.", "encoder.backbone.stages.0."),
    ("visual_encoder.layers.#.", "encoder.backbone.stages.#+1."),
    ("visual_encoder.norm.", "encoder.backbone.norm."),
)


def _missing(student: nn.Module, tensors: Mapping[str, Tensor]) -> list[str]:
    """Parameters of the student for which no tensor is given, under any of their names."""
    parameters = list(student.named_parameters(remove_duplicate=False))
    present = {id(parameter) for name, parameter in parameters if name in tensors}
    first: dict[int, str] = {}
    for name, parameter in parameters:
        first.setdefault(id(parameter), name)
    return [name for key, name in first.items() if key not in present]


def _may_be_new(name: str, start: Start) -> bool:
    if start.backbone_only:
        return not name.startswith(_BACKBONE)
    if name.startswith("network.captions.") and start.config is not None:
        return start.config.captions is None
    return name.startswith(_NEW) or (name.startswith(_QUERIES) and start.config is not None)


def _optional(name: str, start: Start) -> bool:
    """Whether a tensor may be ignored."""
    return start.config is not None and name.startswith((*_HEADS, _QUERIES))


def _summary(start: Start, count: int, new: list[str], ignored: list[str], new_tags: int) -> str:
    tags = f"; tags that it lacks: {new_tags}" if new_tags else ""
    new_parts = f"; newly initialised: {_parts(new)}" if new else ""
    ignored_parts = f"; ignored: {_parts(ignored)}" if ignored else ""
    return f"Starts with {count} tensors of {start.path}{tags}{new_parts}{ignored_parts}."


def _parts(names: list[str]) -> str:
    """Names of modules with their number of tensors."""
    counts: dict[str, int] = {}
    for name in names:
        parts = name.removeprefix("network.").split(".")
        counts[parts[0]] = counts.get(parts[0], 0) + 1
    return ", ".join(f"{part} ({count})" for part, count in counts.items())


def _derived(name: str) -> bool:
    """Whether it is a buffer that follows from the image size, or has the text vectors of other tags."""
    return name.endswith(("relative_position_index", "attn_mask")) or name == f"{_QUERIES}text"
