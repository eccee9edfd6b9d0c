"""`anytag.torch.nn.absorbed_attention`: the rearranged decoder computes the same logits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from anytag.torch.nn.absorbed_attention import FoldedCross
from anytag.torch.nn.configs import CrossConfig, Queries
from anytag.torch.nn.cross_decoder import CrossDecoder
from anytag.torch.nn.quantized_linear import RoundedLinear, Rounding

CONFIG = CrossConfig(hidden=24, layers=2, mlp=48)
WIDTH = 16
KINDS: tuple[Queries, ...] = ("descriptions", "embedded", "learned")


def decoder(queries: Queries) -> CrossDecoder:
    torch.manual_seed(0)
    made = CrossDecoder(CONFIG, width=WIDTH, heads=4, queries=queries).eval().requires_grad_(False)
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=0.2)  # with initial weights, attention is uniform
    return made


def asked(made: CrossDecoder, *, photos: int, sets: int, tags: int, tokens: int) -> tuple[Tensor, ...]:
    seen = torch.randn(photos, tokens, WIDTH)
    rows = torch.randn(sets, tags, 1 if made.queries == "learned" else 3, made.row_width)
    return seen, seen[:, 0], rows


@pytest.mark.parametrize("queries", KINDS)
@settings(max_examples=10, deadline=None)
@given(photos=st.integers(1, 3), own=st.booleans(), tags=st.integers(1, 5), tokens=st.integers(1, 9))
def test_folded_is_the_decoder(queries: Queries, photos: int, own: bool, tags: int, tokens: int) -> None:
    made = decoder(queries)
    given = asked(made, photos=photos, sets=photos if own else 1, tags=tags, tokens=tokens)
    for ours, theirs in zip(FoldedCross(made).localize(*given), made.localize(*given), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(FoldedCross(made)(*given), made(*given), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rounding", ["bfloat16", "int8"])
def test_fewer_bits_stay_near_and_give_float32(rounding: Rounding) -> None:
    made = decoder("descriptions")
    given = asked(made, photos=2, sets=1, tags=40, tokens=9)
    exact, rounded = FoldedCross(made)(*given), FoldedCross(made, rounding=rounding)(*given)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().max() < 0.05


@pytest.mark.parametrize("rounding", ["bfloat16", "int8"])
def test_what_rows_share_is_not_rounded(rounding: Rounding) -> None:
    """However large the mean is compared with the differences from it."""
    torch.manual_seed(0)
    linear = torch.nn.Linear(32, 16).requires_grad_(False)
    shared, rest = 100 * torch.randn(2, 1, 32), torch.randn(2, 50, 32)
    rounded = RoundedLinear(linear, rounding)
    torch.testing.assert_close(
        rounded(shared.expand(2, 50, 32)), linear(shared.expand(2, 50, 32)), rtol=1e-5, atol=1e-4
    )
    error, alone = rounded(shared + rest) - linear(shared + rest), rounded(rest) - linear(rest)
    assert 0 < error.std() < 1.5 * alone.std()
