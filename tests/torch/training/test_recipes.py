"""`anytag.torch.training.recipes`: one dataclass for all runs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from anytag.errors import AnytagError
from anytag.torch.training.effects import resolve
from anytag.torch.training.recipes import RECIPES, find, read_recipe


def test_numbers_over_a_recipe() -> None:
    recipe = resolve("mini", ["steps=7", "objective.weights.tag=2", "precision=bf16", "features.trained=9"])
    assert (recipe.steps, recipe.objective.weights.tag, recipe.precision) == (7, 2.0, "bf16")
    assert recipe.objective.weights.coarse == find("mini").objective.weights.coarse
    assert resolve("mini-captions", ["network.captions.layers=2"]).network.captions != (
        find("mini-captions").network.captions
    )


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipe_of_a_run_is_read_as_it_was(name: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(json.dumps(dataclasses.asdict(find(name))))
    assert read_recipe(tmp_path / "recipe.json") == find(name)


@pytest.mark.parametrize("text", [None, "{", "[]", "{}", '{"weights": {}, "stepz": 7}'])
def test_a_file_that_is_no_recipe(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "recipe.json").write_text(text)
    with pytest.raises(AnytagError, match=r"recipe\.json is not the recipe of a run .*; give the folder"):
        read_recipe(tmp_path / "recipe.json")


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ("stepz=7", r"'stepz': the recipe has no such key; did you mean steps"),
        ("features=7", r"'features' is a group of values: give one of features\.first, features\.trained"),
        ("objective.weights.tags=7", r"the recipe has no such key; did you mean objective\.weights\.tag"),
        ("steps=many", r"steps=many: expected a whole number, 0 or more.*; the recipe's value is steps=1450"),
        ("batch_size=0", "batch_size=0: expected a whole number, 1 or more"),
        ("network.width=8", "network and texts of the embedded model are fixed; use small"),
        ("objective.weights.caption=2", "this recipe has no such term"),
        ("objective.aligns=false", "the loss terms of the embedded model are fixed; change their weights"),
        ("features.trained=3", r"features\.trained=3 is before features\.first=5"),
        ("network.captions.layers=2", "this recipe has no network.captions"),
    ],
)
def test_what_mini_does_not_take(pair: str, said: str) -> None:
    with pytest.raises(AnytagError, match=said):
        resolve("mini", [pair])


@pytest.mark.parametrize(
    "pair", ["teacher=x", "sampled_tags=3", "features.first=2", "objective.weights.tag=2"]
)
def test_what_captions_of_mini_do_not_take(pair: str) -> None:
    with pytest.raises(AnytagError, match="has no effect here"):
        resolve("mini-captions", [pair])
