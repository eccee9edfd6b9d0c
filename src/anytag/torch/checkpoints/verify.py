"""Every tensor of a checkpoint accounted for: loaded, tied to another, derived, or refused by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from anytag.errors import CheckpointError
from anytag.torch.checkpoints.load import empty_network
from anytag.torch.checkpoints.read import SHOWN
from anytag.torch.checkpoints.weight_names import FAMILY_TABLES, SWIN, TIED, VIT, Table, ours, published
from anytag.torch.nn.configs import NetworkConfig, VitConfig
from anytag.torch.nn.network import TagNetwork

_LISTED = 20
_POSITION_IDS = ("tag_encoder.embeddings.position_ids", "text_decoder.bert.embeddings.position_ids")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a checkpoint of a family must hold, by published names.

    Attributes:
        loaded: -> our names.
        tied: second names -> the name of the same tensor that is loaded.
        shapes: of all that must be there.
        derived: what can be computed, and so may be there.
        network: without weights.
    """

    loaded: Mapping[str, str]
    tied: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    derived: Mapping[str, Tensor]
    network: TagNetwork


def plan(family: str, config: NetworkConfig, *, rows: int) -> Plan:
    """What must be there for `rows` rows of queries."""
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
        loaded[published_name], shapes[published_name] = ours(published_name, table) or published_name, shape
    if config.captions is not None:
        tied |= TIED
        shapes |= {second: shapes[first_name] for second, first_name in TIED.items()}
    return Plan(loaded, tied, shapes, _derived(config, network, table), network)


def check(tensors: Mapping[str, Tensor], tensor_plan: Plan, family: str, path: Path) -> None:
    """Is the checkpoint just what the plan says?

    Raises:
        CheckpointError: lists all that is missing, unknown or different.
    """
    known = [name for name in tensor_plan.shapes if name in tensors]
    faults = {
        "missing": [name for name in tensor_plan.shapes if name not in tensors],
        "unknown": [
            name for name in tensors if name not in tensor_plan.shapes and name not in tensor_plan.derived
        ],
        "of another shape": [
            f"{name} is {_by(tensors[name].shape)}, expected {_by(tensor_plan.shapes[name])}"
            for name in known
            if tuple(tensors[name].shape) != tensor_plan.shapes[name]
        ],
        "not numbers of floating point": [name for name in known if not tensors[name].is_floating_point()],
    }
    if not any(faults.values()):
        faults = _different(tensors, tensor_plan)
    if any(faults.values()):
        listed = "".join(f"\n  {what}: {_some(names)}" for what, names in faults.items() if names)
        raise CheckpointError(f"{path} is not what a checkpoint of {SHOWN[family]} is:{listed}")


def _different(tensors: Mapping[str, Tensor], tensor_plan: Plan) -> dict[str, list[str]]:
    return {
        "different from what it is tied to": [
            f"{name} (to {first})"
            for name, first in tensor_plan.tied.items()
            if not _same(tensors[name], tensors[first])
        ],
        "different from what the shapes imply": [
            name
            for name, tensor in tensor_plan.derived.items()
            if name in tensors and not _same(tensors[name], tensor)
        ],
    }


def table_of(family: str, config: NetworkConfig) -> Table:
    """All rows of a family with its backbone's."""
    return (*(VIT if isinstance(config.backbone, VitConfig) else SWIN), *FAMILY_TABLES[family])


def _query_shapes(config: NetworkConfig, rows: int) -> dict[str, tuple[int, ...]]:
    if config.queries != "learned":
        return {"label_embed": (rows, config.width)}
    assert config.cross is not None  # learned rows are the cross decoder's
    hidden = config.cross.hidden
    return {"label_embed.weight": (rows, hidden), "fc.W": (1, rows, hidden), "fc.b": (1, rows)}


def _derived(config: NetworkConfig, network: TagNetwork, table: Table) -> dict[str, Tensor]:
    buffers = {published(name, table): buffer for name, buffer in network.named_buffers()}
    made = {name: buffer for name, buffer in buffers.items() if name is not None}
    if config.captions is not None:
        made |= dict.fromkeys(_POSITION_IDS, torch.arange(config.captions.positions)[None])
    return made


def _published(name: str, table: Table) -> str:
    published_name = published(name, table)
    if published_name is None:
        raise LookupError(f"no row of the table of names is about {name}")
    return published_name


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and (one.data_ptr() == other.data_ptr() or bool((one == other).all()))


def _by(shape: Iterable[int]) -> str:
    return "×".join(map(str, shape)) or "a scalar"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
