"""Helpers of sharded runs; whole runs are tested in `test_family`."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from anytag.errors import AnytagError
from anytag.torch.training.sharded import check_wrapping, lift_scalars
from tests.families import family_network, family_rows


def test_scalars_become_vectors_that_do_the_same() -> None:
    network = family_network("ram-plus")
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    rows = family_rows(network, (1, 5, 3))
    before = network(pixels, rows)
    assert lift_scalars(network) == {"decoder.reweight_scale"}
    assert all(parameter.ndim for parameter in network.parameters())
    assert torch.equal(network(pixels, rows), before)


def test_the_first_version_is_refused() -> None:
    with pytest.raises(AnytagError, match="--fsdp_version 2"):
        check_wrapping(SimpleNamespace(is_fsdp2=False))
    check_wrapping(SimpleNamespace(is_fsdp2=True), nn.Linear(2, 2))
