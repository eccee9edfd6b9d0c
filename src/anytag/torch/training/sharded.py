"""Sharded students (FSDP): checks, gathering and loading of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from anytag.errors import AnytagError


def check_wrapping(accelerator: Any, whole: nn.Module | None = None) -> None:
    """Check the FSDP wrapping.

    Args:
        whole: a part of the student that must not be wrapped itself.

    Raises:
        AnytagError: it is FSDP version 1, or `whole` is wrapped; the message says what to give.
    """
    if not accelerator.is_fsdp2:
        raise AnytagError("FSDP version 1 is not supported; give accelerate launch --fsdp_version 2")
    if whole is not None and any(isinstance(part, FSDPModule) for part in whole.modules()):
        raise AnytagError(
            "FSDP wraps the tag decoder's layers, but its loss is computed in chunks; "
            "give accelerate launch --fsdp_auto_wrap_policy NO_WRAP, or wrap only layers of the backbone"
        )


def lift_scalars(student: nn.Module) -> frozenset[str]:
    """Turn scalar parameters into vectors of length 1, since FSDP shards dimension 0; returns their names.

    Products with them are unchanged.
    """
    lifted = [name for name, parameter in student.named_parameters() if parameter.ndim == 0]
    for name in lifted:
        owner, _, own_name = name.rpartition(".")
        parameter = student.get_parameter(name)
        vector = nn.Parameter(parameter.detach().reshape(1), requires_grad=parameter.requires_grad)
        setattr(student.get_submodule(owner), own_name, vector)
    return frozenset(lifted)


def full_state(student: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
    """State of student and optimizer, gathered in the main process; a collective operation."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    model, state = get_state_dict(student, optimizer, options=options)
    return dict(model), dict(state)


def load_full_state(student: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load the state that `full_state` returned; a collective operation.

    Tensors are loaded one by one, since torch's own function fails for tensors that two modules share.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

    with torch.no_grad():
        for name, tensor in student.state_dict().items():
            fill(tensor, state["student"][name])
    options = StateDictOptions(full_state_dict=True)
    set_optimizer_state_dict(student, optimizer, state["optimizer"], options=options)


def gathered(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Full tensors of sharded ones; a collective operation."""
    return {
        name: tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
        for name, tensor in tensors.items()
    }


def fill(tensor: Tensor, whole: Tensor) -> None:
    """Copy a full tensor into one that may be sharded."""
    if hasattr(tensor, "device_mesh"):
        from torch.distributed.tensor import distribute_tensor

        whole = distribute_tensor(whole, tensor.device_mesh, tensor.placements)  # type: ignore[attr-defined]
    tensor.copy_(whole)
