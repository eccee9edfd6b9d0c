"""A run begins with the weights of another, at another image size if need be."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from anytag.checkpoints.resample import resample_relative_positions
from anytag.errors import AnytagError

_NEW = "network.alignment."  # heads that a run before this one may have been without
_TABLE = "relative_position_bias_table"


def start_from(student: nn.Module, file: Path) -> None:
    """Loads a run's student.pt; Swin's tables of positions are resampled to the new window.

    Alignment heads that the run did not have stay as they are.

    Raises:
        AnytagError: the file is missing, or is of another network; names what does not fit.
    """
    if not file.is_file():
        raise AnytagError(f"{file} is missing: start names the folder of a finished run")
    found: dict[str, Tensor] = torch.load(file, weights_only=True, map_location="cpu")
    wanted = student.state_dict()
    found = {name: _fit(name, tensor, wanted.get(name)) for name, tensor in found.items()}
    found = {name: tensor for name, tensor in found.items() if not _derived(name)}
    wrong = [n for n, t in found.items() if n not in wanted or wanted[n].shape != t.shape]
    wrong += [n for n in wanted if n not in found and not _derived(n) and not n.startswith(_NEW)]
    if wrong:
        raise AnytagError(f"{file} is of another network: {', '.join(wrong[:5])} ({len(wrong)} in all)")
    student.load_state_dict(found, strict=False)


def _fit(name: str, tensor: Tensor, wanted: Tensor | None) -> Tensor:
    if wanted is None or not name.endswith(_TABLE) or wanted.shape == tensor.shape:
        return tensor
    return resample_relative_positions(tensor, round((wanted.shape[0] ** 0.5 + 1) / 2))


def _derived(name: str) -> bool:
    """Buffers that follow from the size."""
    return name.endswith(("relative_position_index", "attn_mask"))
