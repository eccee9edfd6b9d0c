"""`torch.nn.cross_decoder`: tags and photos are independent, in any chunks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from anytag.torch.nn.cross_decoder import CrossDecoder
from anytag.torch.nn.network import TagNetwork
from tests.families import TINY_FAMILIES, family_network, family_rows

NETWORKS = {name: family_network(name) for name in TINY_FAMILIES}
Shape = tuple[int, int, int, bool]  # N, K, P, own queries for each photo
shapes = st.tuples(st.integers(1, 4), st.integers(1, 7), st.integers(1, 4), st.booleans())
families = st.sampled_from(sorted(NETWORKS))


def pixels(count: int) -> Tensor:
    """Random pixels of a few large blocks."""
    small = torch.randint(0, 256, (4, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return small[:count].repeat_interleave(8, 2).repeat_interleave(8, 3)


def cross(network: TagNetwork) -> CrossDecoder:
    assert isinstance(network.decoder, CrossDecoder)
    return network.decoder


def close(given: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(family=families, shape=shapes, seed=st.integers(0, 99), chunk=st.integers(1, 8))
@torch.inference_mode()
def test_any_subset_order_split_and_chunk_gives_the_same_logits(
    family: str, shape: Shape, seed: int, chunk: int
) -> None:
    network, (count, tags, descriptions, own) = NETWORKS[family], shape
    photos, rows = pixels(count), family_rows(network, (count if own else 1, tags, descriptions), seed=seed)
    random = torch.Generator().manual_seed(seed)
    whole = network(photos, rows)
    assert whole.shape == (count, tags)
    chosen = torch.randperm(tags, generator=random)[: 1 + seed % tags]
    close(network(photos, rows[:, chosen]), whole[:, chosen])
    some = torch.randperm(count, generator=random)[: 1 + seed % count]
    close(network(photos[some], rows[some] if own else rows), whole[some])
    close(network(photos, rows[:, :, torch.randperm(rows.shape[2], generator=random)]), whole)
    close(network.decoder(*network.encoder(photos), rows, chunk=chunk), whole)


@pytest.mark.parametrize("family", sorted(NETWORKS))
@torch.inference_mode()
def test_photos_and_tags_matter(family: str) -> None:
    """Otherwise the properties above would be trivial."""
    network = NETWORKS[family]
    logits = network(pixels(3), family_rows(network, (1, 5, 2)))
    assert logits.std(0).min() > 1e-2
    assert logits.std(1).min() > 1e-2


@settings(max_examples=20, deadline=None)
@given(family=families, shape=shapes, padding=st.integers(1, 3))
@torch.inference_mode()
def test_padding_changes_nothing(family: str, shape: Shape, padding: int) -> None:
    network, (count, tags, descriptions, _) = NETWORKS[family], shape
    rows = family_rows(network, (1, tags, descriptions))
    zeros = torch.zeros(1, tags, padding, rows.shape[3])
    close(network(pixels(count), torch.cat([rows, zeros], 2)), network(pixels(count), rows))


@torch.inference_mode()
def test_embedded_queries_are_averaged() -> None:
    network = NETWORKS["ram"]
    rows = family_rows(network, (1, 3, 4))
    close(network(pixels(2), rows), network(pixels(2), rows.mean(2, keepdim=True)))


@torch.inference_mode()
def test_learned_rows_hold_query_weights_and_bias() -> None:
    network = NETWORKS["tag2text"]
    rows, hidden = family_rows(network, (1, 3, 1)), 16
    assert rows.shape[3] == 2 * hidden + 1
    tokens, _ = network.encoder(pixels(2))
    memories = cross(network).project_kv(tokens)
    decoded = cross(network).decode(rows[:, :, 0, :hidden], memories)
    expected = (decoded * rows[:, :, 0, hidden:-1]).sum(-1) + rows[:, :, 0, -1]
    close(network(pixels(2), rows), expected)


@pytest.mark.parametrize("family", sorted(NETWORKS))
@torch.inference_mode()
def test_where_are_shares_of_every_token(family: str) -> None:
    network = NETWORKS[family]
    tokens, pooled = network.encoder(pixels(2))
    rows = family_rows(network, (1, 5, 2))
    logits, where = network.decoder.localize(tokens, pooled, rows)
    close(logits, network.decoder(tokens, pooled, rows))
    assert where.shape == (2, 5, tokens.shape[1])
    close(where.sum(-1), torch.ones(2, 5))
    assert (where >= 0).all() and where.std() > 1e-3


def test_tag_encoder_and_tag_decoder_share_their_first_layers() -> None:
    for family in ("tag2text", "ram"):
        network = NETWORKS[family]
        assert network.captions is not None
        for mine, theirs in zip(cross(network).layers, network.captions.encoder.layers, strict=True):
            assert theirs.get_submodule("cross") is mine
