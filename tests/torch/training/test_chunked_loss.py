"""Chunked losses have the gradients of the whole loss."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import anytag.torch.nn.bert_layers
from anytag.torch.training.chunked_loss import chunked_sum
from anytag.torch.training.student import FixedQueries
from tests.runs import recipe_of, small_recipe, trainer_of

RECIPES = {name: recipe_of(name) for name in ("tag2text", "ram", "ram-plus")} | {"small": small_recipe()}


@pytest.fixture(autouse=True)
def no_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anytag.torch.nn.bert_layers, "DROPOUT", 0.0)


@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_a_sum_in_pieces_is_the_sum(scale: float) -> None:
    torch.manual_seed(0)
    leaf, asked, layer = torch.randn(3, 4), torch.randn(10, 4), nn.Linear(4, 4)
    unused = nn.Parameter(torch.ones(1))
    leaf.requires_grad_()
    asked.requires_grad_()

    def loss(number: int, piece: Tensor, shared: Tensor) -> Tensor:
        found: Tensor = (layer(piece) @ shared.T).sigmoid().sum() * (number + 1)
        return found

    def whole(shared: Tensor) -> Tensor:
        return torch.stack([loss(n, piece, shared) for n, piece in enumerate(asked.split(3))]).sum()  # type: ignore[no-untyped-call]

    def pieces(shared: Tensor) -> Tensor:
        learned = (*layer.parameters(), unused)
        return chunked_sum(loss, torch.split(asked, 3), [shared], learned=learned, scale=scale)

    inputs = [leaf, asked, layer.weight, layer.bias]
    values, slopes = [], []
    for how in (whole, pieces):
        total = how(leaf * 2) ** 2  # operations before and after it
        values.append(total.item())
        slopes.append(torch.autograd.grad(total, inputs))
    assert values[1] == pytest.approx(values[0], rel=1e-6)
    torch.testing.assert_close(slopes[1], slopes[0], rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        assert pieces(leaf * 2).item() ** 2 == pytest.approx(values[0], rel=1e-6)


def gradients(name: str, data: Path, out: Path, *, half: bool = False) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of a recipe's first step."""
    trainer = trainer_of(RECIPES[name], data, out)
    batch = trainer._prepare(next(trainer.dataset.stream(0, 1)))
    student = trainer.plain.train()
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        loss = student(batch)["loss"]
    loss.backward()
    return loss.item(), {n: p.grad for n, p in student.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", RECIPES)
def test_a_step_in_pieces_is_the_step(
    name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tags, captions with their rescaled tags, alignment: the gradient of every parameter."""
    loss, whole = gradients(name, data, tmp_path)
    monkeypatch.setattr("anytag.torch.training.student.Student.chunk", 2)
    again, pieces = gradients(name, data, tmp_path)
    assert again == pytest.approx(loss, rel=1e-6)
    assert whole.keys() == pieces.keys()
    for parameter, gradient in whole.items():
        near = 1e-5 * gradient.abs().max().item() + 1e-7
        torch.testing.assert_close(pieces[parameter], gradient, rtol=1e-5, atol=near, msg=parameter)


def test_bfloat16_leads_the_same_way(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anytag.torch.training.student.Student.chunk", 2)
    loss, exact = gradients("ram-plus", data, tmp_path)
    rounded, half = gradients("ram-plus", data, tmp_path, half=True)
    assert rounded == pytest.approx(loss, rel=0.02)
    one, other = (torch.cat([g.flatten() for g in found.values()]) for found in (exact, half))
    assert all(gradient.dtype == torch.float32 for gradient in half.values())
    assert torch.cosine_similarity(one, other, dim=0) > 0.99


def test_rows_are_kept_as_autocast_rounds_them() -> None:
    rows = torch.randn(3, 2, 4)
    assert FixedQueries(rows).rows.dtype == torch.float32
    assert torch.equal(FixedQueries(rows, "bf16")(), rows.bfloat16()[None])
