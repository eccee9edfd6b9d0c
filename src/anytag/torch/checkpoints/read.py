"""A published checkpoint: its tensors, memory-mapped, and what they say of the network they come from."""

from __future__ import annotations

import argparse
import math
import pickle
import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PosixPath, PurePosixPath, PureWindowsPath
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from anytag.errors import CheckpointError
from anytag.torch.checkpoints.weight_names import OLDER, ours
from anytag.torch.nn.configs import (
    FAMILIES,
    VIT_BASE,
    VIT_LARGE,
    CaptionConfig,
    CrossConfig,
    NetworkConfig,
    SwinConfig,
    VitConfig,
)

SHOWN = {"tag2text": "Tag2Text", "ram": "RAM", "ram-plus": "RAM++"}
_HEAD = "tagging_head.encoder.layer"
_SWIN = "visual_encoder.layers"
_HEAD_WIDTH = 64  # of a ViT, in every published size
_UNDER = ("model", "state_dict", "model_state_dict", "module")
_PARALLEL = "module."
_HARMLESS: list[Any] = [argparse.Namespace, PurePosixPath, PosixPath, PureWindowsPath]
"""What training scripts keep beside tensors, and what does nothing when it is made."""
Tensors = dict[str, Tensor]


def read_tensors(path: Path) -> tuple[Tensors, tuple[str, ...]]:
    """Tensors of a .pth or .safetensors by their published names, and what else was in the file.

    Tensors may lie under "model", "state_dict", "model_state_dict" or "module", and their names may begin
    with "module.", as torch's parallel training leaves them. They are mapped, not read: memory is used
    as they are touched, and given back with them. Nothing in the file is executed.

    Raises:
        CheckpointError: it is no file of tensors, or is truncated.
    """
    data, rest = _load(path), tuple[str, ...]()
    while isinstance(data, Mapping) and (key := next((k for k in _UNDER if _named(data.get(k))), None)):
        rest = (*rest, *(str(other) for other in data if other != key))
        data = data[key]
    if not isinstance(data, Mapping):
        raise CheckpointError(f"{path} holds {_kind(data)}; expected tensors by name, or under 'model'")
    named = {str(name): one for name, one in data.items() if isinstance(one, Tensor)}
    if not named:
        raise CheckpointError(f"{path} holds no tensors by name: {_few(map(str, data))}")
    while all(name.startswith(_PARALLEL) for name in named):
        named = {name.removeprefix(_PARALLEL): one for name, one in named.items()}
    return {ours(name, OLDER) or name: one for name, one in named.items()}, rest


def _named(data: object) -> bool:
    """Tensors by name, or something with such inside."""
    return isinstance(data, Mapping) and any(isinstance(one, Tensor | Mapping) for one in data.values())


def read_embedding(path: Path) -> Tensor:
    """The frozen text vectors that are published beside a checkpoint: rows×W.

    Raises:
        CheckpointError: the file holds something else.
    """
    data = _load(path)
    if not isinstance(data, Tensor) or data.ndim != 2:
        raise CheckpointError(
            f"{path} holds {_kind(data)}; expected one tensor, tags × descriptions by width"
        )
    return data.detach()


def _load(path: Path) -> Any:
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; expected a published checkpoint (.pth)")
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    mapped = _is_zip(path)  # the form before torch 1.6 cannot be mapped
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path} is refused: {_refused(error)}") from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is truncated or no checkpoint ({path.stat().st_size:,} bytes; {_first_line(error)}). "
            "Download it again"
        ) from error


def _load_safetensors(path: Path) -> Tensors:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is truncated or no file of safetensors ({error}). Download it again"
        ) from error


def _refused(error: pickle.UnpicklingError) -> str:
    """In our words: torch's own say how to execute what a stranger has written."""
    found = re.search(r"(?:GLOBAL|class) ([\w.]+\.[\w.]+)", str(error))
    what = f", such as {found[1]}," if found else ""
    return (
        f"it holds more than tensors, or is cut off. To make anything else{what} of it, code would be "
        "executed, which is never done here. Ask its maker for a file of tensors alone: "
        "torch.save({'model': model.state_dict()}, FILE), or safetensors"
    )


def refuse_infinite(name: str, tensor: Tensor, file: Path) -> None:
    """Holds a tensor's numbers to be numbers; no copy is made of it.

    Raises:
        CheckpointError: one is infinite or NaN.
    """
    if tensor.numel() and tensor.is_floating_point():
        low, high = torch.aminmax(tensor)
        if not (torch.isfinite(low) and torch.isfinite(high)):
            raise CheckpointError(
                f"{file}: {name} holds numbers that are infinite or none (NaN); a network with them says "
                "nothing. Take one from before training went wrong, or float32 where float16 is too small"
            )


def verify(path: Path) -> None:
    """`check_sums` of a checkpoint, where there is one.

    Raises:
        CheckpointError: it is damaged.
    """
    if not path.is_file():
        return  # which who reads it says
    try:
        check_sums(path)
    except (ValueError, OSError) as error:
        size = f"{path.stat().st_size:,} bytes"
        raise CheckpointError(
            f"{path} is truncated or no checkpoint ({size}; {error}). Download it again"
        ) from error


def check_sums(path: Path) -> None:
    """Holds every part of a file of torch's against its checksum, which torch itself does not look at.

    Raises:
        ValueError: one differs; the form before torch 1.6 has none and passes.
        OSError: the file cannot be read.
    """
    if not _is_zip(path):
        return
    try:
        with zipfile.ZipFile(path) as parts:
            wrong = parts.testzip()
    except (zipfile.BadZipFile, NotImplementedError, EOFError, zlib.error) as error:
        raise ValueError(f"not a whole zip file: {error}") from error
    if wrong is not None:
        raise ValueError(f"the checksum of {wrong} differs: some bits have changed")


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\3\4"


def detect_family(tensors: Mapping[str, Tensor], path: Path) -> str:
    """tag2text, ram or ram-plus.

    Raises:
        CheckpointError: none of them.
    """
    if "fc.W" in tensors:
        return "tag2text"
    if "reweight_scale" in tensors:
        return "ram-plus"
    if "image_proj.weight" in tensors and f"{_HEAD}.0.output.dense.weight" in tensors:
        return "ram"
    raise CheckpointError(
        f"{path} is no checkpoint of Tag2Text, RAM or RAM++; its tensors begin with {_few(tensors)}"
    )


def detect_config(tensors: Mapping[str, Tensor], family: str) -> NetworkConfig:
    """The family's row with the numbers that the tensors' shapes tell; heads of attention are the family's.

    Raises:
        CheckpointError: a tensor that tells them is missing.
    """
    row = FAMILIES[family]
    backbone, size, width = _detect_swin(tensors) if _count(tensors, _SWIN) else _detect_vit(tensors)
    if row.projected:
        width = _shape(tensors, "image_proj.weight")[0]
    cross = CrossConfig(
        hidden=_shape(tensors, f"{_HEAD}.0.crossattention.self.query.weight")[0],
        layers=_count(tensors, _HEAD),
        mlp=_shape(tensors, f"{_HEAD}.0.intermediate.dense.weight")[0],
    )
    captions = None
    if row.captions is not None and (family == "tag2text" or _count(tensors, "tag_encoder.encoder.layer")):
        captions = _detect_captions(tensors, row.captions, cross)
    return replace(row, backbone=backbone, size=size, width=width, cross=cross, captions=captions)


def _detect_swin(tensors: Mapping[str, Tensor]) -> tuple[SwinConfig, int, int]:
    """Numbers, image size and token width. The published sizes leave one window in the last stage."""
    stages = range(_count(tensors, _SWIN))
    tables = [f"{_SWIN}.{stage}.blocks.0.attn.relative_position_bias_table" for stage in stages]
    window = (math.isqrt(_shape(tensors, tables[0])[0]) + 1) // 2
    width = _shape(tensors, "visual_encoder.patch_embed.proj.weight")[0]
    config = SwinConfig(
        width=width,
        depths=tuple(_count(tensors, f"{_SWIN}.{stage}.blocks") for stage in stages),
        heads=tuple(_shape(tensors, table)[1] for table in tables),
        window=window,
    )
    mask = tensors.get(f"{_SWIN}.0.blocks.1.attn_mask")  # one for each window of the first stage
    side = window * 2 ** (len(stages) - 1) if mask is None else window * math.isqrt(len(mask))
    return config, 4 * side, width * 2 ** (len(stages) - 1)


def _detect_vit(tensors: Mapping[str, Tensor]) -> tuple[VitConfig, int, int]:
    shape = _shape(tensors, "visual_encoder.patch_embed.proj.weight")
    width, patch, depth = shape[0], shape[-1], _count(tensors, "visual_encoder.blocks")
    grid = math.isqrt(_shape(tensors, "visual_encoder.pos_embed")[1] - 1)
    known = [one for one in (VIT_BASE, VIT_LARGE) if (one.width, one.depth) == (width, depth)]
    config = known[0] if known else VitConfig(width, depth, max(width // _HEAD_WIDTH, 1))
    return replace(config, patch=patch), grid * patch, width


def _detect_captions(tensors: Mapping[str, Tensor], row: CaptionConfig, cross: CrossConfig) -> CaptionConfig:
    words, width = _shape(tensors, "tag_encoder.embeddings.word_embeddings.weight")
    return replace(
        row,
        words=words,
        layers=_count(tensors, "tag_encoder.encoder.layer"),
        shared=cross.layers,
        width=width,
        mlp=_shape(tensors, "tag_encoder.encoder.layer.0.intermediate.dense.weight")[0],
        positions=_shape(tensors, "tag_encoder.embeddings.position_embeddings.weight")[0],
    )


def _shape(tensors: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    if name not in tensors:
        raise CheckpointError(f"the checkpoint lacks {name}, which tells the size of its network")
    return tuple(tensors[name].shape)


def _count(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbered parts follow a prefix."""
    numbered = re.compile(re.escape(prefix) + r"\.(\d+)\.")
    return max((int(found[1]) + 1 for name in tensors if (found := numbered.match(name))), default=0)


def _kind(data: object) -> str:
    return f"a tensor of {tuple(data.shape)}" if isinstance(data, Tensor) else f"a {type(data).__name__}"


def _few(names: Any) -> str:
    listed = list(names)
    return ", ".join(listed[:4]) + (f" and {len(listed) - 4} more" if len(listed) > 4 else "") or "nothing"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
