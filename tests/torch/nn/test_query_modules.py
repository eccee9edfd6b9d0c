"""`anytag.torch.nn.query_modules`: text vectors -> rows, in training and evaluation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from anytag.torch.nn.query_modules import QueryProjection, TagQueries

K, P, TEXT, D = 6, 4, 8, 5


@pytest.fixture
def text() -> Tensor:
    """Unit vectors; the last tag has one description fewer."""
    vectors = torch.randn(K, P, TEXT, generator=torch.Generator().manual_seed(0))
    vectors /= vectors.norm(dim=-1, keepdim=True)
    vectors[-1, -1] = 0
    return vectors


def make(text: Tensor, *, residual_drop: float = 0.0) -> TagQueries:
    torch.manual_seed(0)
    queries = TagQueries(text, D, hidden=7, residual_drop=residual_drop)
    torch.nn.init.normal_(queries.residual)
    torch.nn.init.normal_(queries.projection.fc2.bias)
    return queries


def test_padding_stays_zero(text: Tensor) -> None:
    for queries in (make(text).eval(), make(text).train()):
        assert (queries()[-1, -1] == 0).all()
    assert (QueryProjection(TEXT, D, hidden=7)(torch.zeros(2, TEXT)) == 0).all()


def test_rows_are_projected_words_and_what_was_learned(text: Tensor) -> None:
    queries = make(text).eval()
    rows = queries()
    assert rows.shape == (K, P, D)
    assert torch.allclose(rows[0], queries.projection(text[0]) + queries.residual[0])


def test_words_only_leaves_the_residuals_out(text: Tensor) -> None:
    queries = make(text).eval()
    assert torch.equal(queries(words_only=True), queries.projection(text))


def test_some_tags_are_rows_of_all(text: Tensor) -> None:
    queries = make(text).eval()
    chosen = torch.tensor([4, 1])
    assert torch.allclose(queries(chosen), queries()[chosen])


def test_only_draws_so_many_of_a_tags_own_descriptions(text: Tensor) -> None:
    queries = make(text).eval()
    drawn, rows = queries(only=2), queries()
    assert drawn.shape == (K, 2, D)
    distance = (drawn[:, :, None] - rows[:, None]).abs().amax(-1)  # K×2×P
    assert (distance.amin(-1) < 1e-6).all()


def test_only_draws_each_of_a_tags_descriptions_but_no_padding(text: Tensor) -> None:
    queries = make(text).eval()
    drawn, rows = queries(only=200), queries()
    assert (drawn != 0).any(-1).all()
    nearest = (drawn[:, :, None] - rows[:, None]).abs().amax(-1).argmin(-1)  # K×200
    assert [sorted(set(found.tolist())) for found in nearest] == [list(range(P))] * (K - 1) + [[0, 1, 2]]


def test_residuals_are_dropped_in_training_only(text: Tensor) -> None:
    queries = make(text, residual_drop=1.0)
    assert torch.equal(queries.train()(only=P), queries(only=P, words_only=True)) is False  # drawn anew
    torch.manual_seed(1)
    with_drop = queries.train()()
    torch.manual_seed(1)
    assert torch.equal(with_drop, queries(words_only=True))
    assert not torch.allclose(queries.eval()(), queries(words_only=True))


def test_residuals_are_dropped_for_about_a_quarter_of_tags() -> None:
    queries = make(torch.ones(4000, 1, TEXT), residual_drop=0.25).train()
    torch.manual_seed(0)
    dropped = (queries()[:, 0] == queries(words_only=True)[:, 0]).all(-1).float().mean().item()
    assert dropped == pytest.approx(0.25, abs=0.03)


def test_training_leaves_descriptions_out_but_never_all(text: Tensor) -> None:
    queries = make(text).train()
    torch.manual_seed(0)
    kept = torch.stack([(queries() != 0).any(-1) for _ in range(60)]).float()
    assert kept.amax(2).all()  # every tag keeps at least one
    share = kept.mean(0)
    assert share[-1, -1] == 0
    assert share[:-1].mean().item() == pytest.approx(0.7, abs=0.07)


def test_gradients_reach_words_and_residuals(text: Tensor) -> None:
    queries = make(text).train()
    queries().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in queries.parameters())
