"""Read the tensors of a published checkpoint, memory-mapped, and detect its family and configuration."""

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
from anytag.torch.checkpoints.weight_names import LEGACY, to_ours
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

DISPLAY_NAMES = {"tag2text": "Tag2Text", "ram": "RAM", "ram-plus": "RAM++"}
_HEAD = "tagging_head.encoder.layer"
_SWIN = "visual_encoder.layers"
_HEAD_WIDTH = 64  # of attention heads in a ViT, at every published size
_WRAPPER_KEYS = ("model", "state_dict", "model_state_dict", "module")
_DDP_PREFIX = "module."
_ALLOWED_CLASSES: list[Any] = [argparse.Namespace, PurePosixPath, PosixPath, PureWindowsPath]
"""Classes that training scripts pickle besides tensors; constructing them has no side effects."""
Tensors = dict[str, Tensor]


def read_tensors(path: Path) -> tuple[Tensors, tuple[str, ...]]:
    """Tensors of a .pth or .safetensors file by published name, and the names of its other entries.

    Tensors may be nested in "model", "state_dict", "model_state_dict" or "module", and their names may start
    with "module.", the prefix of DistributedDataParallel. They are memory-mapped, so memory is used when they
    are accessed. Nothing in the file is executed.

    Raises:
        CheckpointError: the file does not hold tensors, or is truncated.
    """
    data, rest = _load(path), tuple[str, ...]()
    while isinstance(data, Mapping) and (
        key := next((k for k in _WRAPPER_KEYS if _holds_tensors(data.get(k))), None)
    ):
        rest = (*rest, *(str(other) for other in data if other != key))
        data = data[key]
    if not isinstance(data, Mapping):
        raise CheckpointError(f"{path} holds {_kind(data)}; expected tensors by name, or under 'model'")
    tensors = {str(name): value for name, value in data.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors by name, but {_listed(map(str, data))}")
    while all(name.startswith(_DDP_PREFIX) for name in tensors):
        tensors = {name.removeprefix(_DDP_PREFIX): tensor for name, tensor in tensors.items()}
    return {to_ours(name, LEGACY) or name: tensor for name, tensor in tensors.items()}, rest


def _holds_tensors(data: object) -> bool:
    """Whether it is a mapping of tensors or of mappings."""
    return isinstance(data, Mapping) and any(isinstance(one, Tensor | Mapping) for one in data.values())


def read_embedding(path: Path) -> Tensor:
    """Read the file of frozen text vectors that is published with a checkpoint: rows×W.

    Raises:
        CheckpointError: the file does not hold one matrix.
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
    mapped = _is_zip(path)  # the format before torch 1.6 cannot be mapped
    try:
        with torch.serialization.safe_globals(_ALLOWED_CLASSES):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path} is refused: {_refusal(error)}") from error
    except Exception as error:  # of many types, in a damaged file
        raise CheckpointError(
            f"{path} is truncated or not a checkpoint ({path.stat().st_size:,} bytes; {_first_line(error)}). "
            "Download it again"
        ) from error


def _load_safetensors(path: Path) -> Tensors:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is truncated or not a safetensors file ({error}). Download it again"
        ) from error


def _refusal(error: pickle.UnpicklingError) -> str:
    """The reason without torch's own message, which explains how to execute untrusted code."""
    found = re.search(r"(?:GLOBAL|class) ([\w.]+\.[\w.]+)", str(error))
    what = f", such as {found[1]}," if found else ""
    return (
        f"it holds more than tensors, or is truncated. Loading other objects{what} would execute code, which "
        "anytag never does. Ask its author for a file of tensors only: "
        "torch.save({'model': model.state_dict()}, FILE), or safetensors"
    )


def check_finite(name: str, tensor: Tensor, file: Path) -> None:
    """Check that all values of a tensor are finite, without copying it.

    Raises:
        CheckpointError: a value is infinite or NaN.
    """
    if tensor.numel() and tensor.is_floating_point():
        low, high = torch.aminmax(tensor)
        if not (torch.isfinite(low) and torch.isfinite(high)):
            raise CheckpointError(
                f"{file}: {name} has infinite or NaN values, with which a network gives no meaningful "
                "scores. Use a checkpoint from before training diverged, or float32 if values exceed float16"
            )


def verify(path: Path) -> None:
    """Check a checkpoint with `check_sums`, if the file exists.

    Raises:
        CheckpointError: it is damaged.
    """
    if not path.is_file():
        return  # reading it will raise the error
    try:
        check_sums(path)
    except (ValueError, OSError) as error:
        size = f"{path.stat().st_size:,} bytes"
        raise CheckpointError(
            f"{path} is truncated or not a checkpoint ({size}; {error}). Download it again"
        ) from error


def check_sums(path: Path) -> None:
    """Verify the checksums in a file of `torch.save`, which `torch.load` ignores.

    Files in the format before torch 1.6 have none and pass.

    Raises:
        ValueError: a checksum differs.
        OSError: the file cannot be read.
    """
    if not _is_zip(path):
        return
    try:
        with zipfile.ZipFile(path) as parts:
            wrong = parts.testzip()
    except (zipfile.BadZipFile, NotImplementedError, EOFError, zlib.error) as error:
        raise ValueError(f"not a complete zip file: {error}") from error
    if wrong is not None:
        raise ValueError(f"the checksum of {wrong} differs: the file is corrupted")


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\3\4"


def detect_family(tensors: Mapping[str, Tensor], path: Path) -> str:
    """The family of a checkpoint: tag2text, ram or ram-plus.

    Raises:
        CheckpointError: it is none of them.
    """
    if "fc.W" in tensors:
        return "tag2text"
    if "reweight_scale" in tensors:
        return "ram-plus"
    if "image_proj.weight" in tensors and f"{_HEAD}.0.output.dense.weight" in tensors:
        return "ram"
    raise CheckpointError(
        f"{path} is not a checkpoint of Tag2Text, RAM or RAM++; its first tensors are {_listed(tensors)}"
    )


def detect_config(tensors: Mapping[str, Tensor], family: str) -> NetworkConfig:
    """The family's configuration with the dimensions that follow from the shapes of the tensors.

    The number of attention heads does not, and is the family's.

    Raises:
        CheckpointError: a tensor that determines a dimension is missing.
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
    """Configuration, image size and token width. At published sizes the last stage has one window."""
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
    mask = tensors.get(f"{_SWIN}.0.blocks.1.attn_mask")  # length: number of windows in the first stage
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
        raise CheckpointError(f"the checkpoint lacks {name}, which determines the size of its network")
    return tuple(tensors[name].shape)


def _count(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """Number of numbered modules after a prefix."""
    numbered = re.compile(re.escape(prefix) + r"\.(\d+)\.")
    return max((int(found[1]) + 1 for name in tensors if (found := numbered.match(name))), default=0)


def _kind(data: object) -> str:
    return f"a tensor of {tuple(data.shape)}" if isinstance(data, Tensor) else f"a {type(data).__name__}"


def _listed(names: Any) -> str:
    listed = list(names)
    return ", ".join(listed[:4]) + (f" and {len(listed) - 4} more" if len(listed) > 4 else "") or "nothing"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
