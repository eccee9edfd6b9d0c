"""`anytag.torch.training.train`: recipes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from anytag.errors import AnytagError
from anytag.torch.training.train import Recipe, parse_recipe, read_recipe


def test_recipe_of_pairs() -> None:
    recipe = parse_recipe(["steps=7", "weights.tag=2", "precision=bf16"])
    assert (recipe.steps, recipe.weights.tag, recipe.precision) == (7, 2.0, "bf16")
    assert recipe.weights.coarse == Recipe().weights.coarse


def test_recipe_of_a_run(tmp_path: Path) -> None:
    recipe = parse_recipe(["steps=7", "weights.tag=2", "sources=coco"])
    (tmp_path / "recipe.json").write_text(json.dumps(dataclasses.asdict(recipe)))
    assert read_recipe(tmp_path / "recipe.json") == recipe


@pytest.mark.parametrize("text", [None, "{", "[]", "{}", '{"weights": {}, "stepz": 7}'])
def test_a_file_that_is_no_recipe(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "recipe.json").write_text(text)
    with pytest.raises(AnytagError, match=r"recipe\.json: no recipe of a run .*; name the folder"):
        read_recipe(tmp_path / "recipe.json")


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ("stepz=7", r"'stepz': no such number in the recipe; did you mean steps"),
        ("weights=7", r"'weights' has numbers of its own: give one of weights\.tag, weights\.coarse"),
        (
            "weights.tags=7",
            r"'weights\.tags': no such number in the recipe; did you mean weights\.tag or tags",
        ),
        ("steps=many", r"steps=many: expected a whole number, 1 or more.*; the recipe's own is steps=1450"),
        ("steps=0", "steps=0: expected a whole number, 1 or more"),
    ],
)
def test_wrong_recipe(pair: str, said: str) -> None:
    with pytest.raises(AnytagError, match=said):
        parse_recipe([pair])
