"""Check that every tensor of a checkpoint is loaded, tied to another one, derived, or reported by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from anytag.errors import CheckpointError
from anytag.torch.checkpoints.load import empty_network
from anytag.torch.checkpoints.read import DISPLAY_NAMES
from anytag.torch.checkpoints.weight_names import FAMILY_TABLES, SWIN, TIED, VIT, Table, to_ours, to_published
from anytag.torch.nn.configs import NetworkConfig, VitConfig
from anytag.torch.nn.network import TagNetwork

_LISTED = 20
_POSITION_IDS = ("tag_encoder.embeddings.position_ids", "text_decoder.bert.embeddings.position_ids")


@dataclass(frozen=True, slots=True)
class Plan:
    """The tensors of a checkpoint of a family, by published name.

    Attributes:
        loaded: published name -> our name.
        tied: published name of a tied tensor -> published name of the loaded one.
        shapes: shapes of all required tensors.
        derived: optional tensors, which can be computed.
        network: the network without weights.
    """

    loaded: Mapping[str, str]
    tied: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    derived: Mapping[str, Tensor]
    network: TagNetwork


def plan(family: str, config: NetworkConfig, *, rows: int) -> Plan:
    """The tensors that a checkpoint with `rows` query rows must have."""
    table = table_of(family, config)
    network = empty_network(config)
    loaded, tied, shapes = {}, {}, {}
    first: dict[int, str] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        published_name = _published(name, table)
        shapes[published_name] = tuple(parameter.shape)
        if (same := first.setdefault(id(parameter), published_name)) == published_name:
            loaded[published_name] = name
        else:
            tied[published_name] = same
    for published_name, shape in _query_shapes(config, rows).items():
        loaded[published_name] = to_ours(published_name, table) or published_name
        shapes[published_name] = shape
    if config.captions is not None:
        tied |= TIED
        shapes |= {second: shapes[first_name] for second, first_name in TIED.items()}
    return Plan(loaded, tied, shapes, _derived(config, network, table), network)


def check(tensors: Mapping[str, Tensor], tensor_plan: Plan, family: str, path: Path) -> None:
    """Compare a checkpoint with its plan.

    Raises:
        CheckpointError: tensors are missing, unknown or different; the message lists them.
    """
    known = [name for name in tensor_plan.shapes if name in tensors]
    faults = {
        "missing": [name for name in tensor_plan.shapes if name not in tensors],
        "unknown": [
            name for name in tensors if name not in tensor_plan.shapes and name not in tensor_plan.derived
        ],
        "with another shape": [
            f"{name} is {_shape_text(tensors[name].shape)}, expected {_shape_text(tensor_plan.shapes[name])}"
            for name in known
            if tuple(tensors[name].shape) != tensor_plan.shapes[name]
        ],
        "not floating-point": [name for name in known if not tensors[name].is_floating_point()],
    }
    if not any(faults.values()):
        faults = _different(tensors, tensor_plan)
    if any(faults.values()):
        listed = "".join(f"\n  {what}: {_listed(names)}" for what, names in faults.items() if names)
        raise CheckpointError(f"{path} does not match a checkpoint of {DISPLAY_NAMES[family]}:{listed}")


def _different(tensors: Mapping[str, Tensor], tensor_plan: Plan) -> dict[str, list[str]]:
    return {
        "different from the tensor it is tied to": [
            f"{name} ({first})"
            for name, first in tensor_plan.tied.items()
            if not _same(tensors[name], tensors[first])
        ],
        "different from the values that follow from the shapes": [
            name
            for name, tensor in tensor_plan.derived.items()
            if name in tensors and not _same(tensors[name], tensor)
        ],
    }


def table_of(family: str, config: NetworkConfig) -> Table:
    """All name pairs of a family, including those of its backbone."""
    return (*(VIT if isinstance(config.backbone, VitConfig) else SWIN), *FAMILY_TABLES[family])


def _query_shapes(config: NetworkConfig, rows: int) -> dict[str, tuple[int, ...]]:
    if config.queries != "learned":
        return {"label_embed": (rows, config.width)}
    assert config.cross is not None  # only the cross decoder has learned queries
    hidden = config.cross.hidden
    return {"label_embed.weight": (rows, hidden), "fc.W": (1, rows, hidden), "fc.b": (1, rows)}


def _derived(config: NetworkConfig, network: TagNetwork, table: Table) -> dict[str, Tensor]:
    buffers = {to_published(name, table): buffer for name, buffer in network.named_buffers()}
    derived = {name: buffer for name, buffer in buffers.items() if name is not None}
    if config.captions is not None:
        derived |= dict.fromkeys(_POSITION_IDS, torch.arange(config.captions.positions)[None])
    return derived


def _published(name: str, table: Table) -> str:
    published_name = to_published(name, table)
    if published_name is None:
        raise LookupError(f"the table of names has no entry for {name}")
    return published_name


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and (one.data_ptr() == other.data_ptr() or bool((one == other).all()))


def _shape_text(shape: Iterable[int]) -> str:
    return "×".join(map(str, shape)) or "a scalar"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
