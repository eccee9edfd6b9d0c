"""`key=value`: types, ranges, choices, tuples; any input gives a readable error, never a traceback."""

from __future__ import annotations

import math
from dataclasses import asdict, fields, is_dataclass
from typing import Any, get_type_hints

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from anytag.errors import AnytagError
from anytag.torch.training.checkpoint import flatten
from anytag.torch.training.effects import parse_train
from anytag.torch.training.recipes import RECIPES, find
from anytag.torch.training.values import RANGES, parse_numbers
from tests.command import run

KEYS = sorted({key for make in RECIPES.values() for key in flatten(asdict(make()))})


def test_values_of_every_kind() -> None:
    made = parse_train(
        find("ram-14m"),
        [
            "network.backbone.depths=2, 2,6,2", "network.mean=(0.5,0.5,0.5)", "rate=2e-4", "precision=bf16",
            "objective.aligns=yes", "about=mine", "schedule.fall=cosine", "batch_size=32",
        ],
    )  # fmt: skip
    assert made.network.backbone.depths == (2, 2, 6, 2)  # type: ignore[union-attr]
    assert made.network.mean == (0.5, 0.5, 0.5)
    assert (made.rate, made.precision, made.objective.aligns) == (2e-4, "bf16", True)
    assert (made.schedule.fall, made.batch_size, made.about) == ("cosine", 32, "mine")


@pytest.mark.parametrize(
    ("recipe", "pair", "said"),
    [
        (
            "small",
            "rate=-1",
            "rate=-1: expected a number, above 0, at most 100; the recipe's value is rate=0.001",
        ),
        ("small", "rate=0", "expected a number, above 0"),
        ("small", "rate=nan", "expected a number"),
        ("small", "rate=inf", "expected a number"),
        ("small", "batch_size=0", "expected a whole number, 1 or more"),
        ("small", "batch_size=1.5", "expected a whole number"),
        ("small", "network.size=-5", "expected a whole number, 1 or more, at most 8192"),
        ("small", "precision=fp8", "expected one of no, bf16, fp16; the recipe's value is precision=no"),
        ("small", "network.mean=0.5", "expected 3 numbers, comma-separated"),
        ("small", "network.std=0,1,1", "expected a number, above 0"),
        ("ram-14m", "network.backbone.depths=", "expected numbers, comma-separated"),
        ("small", "ema=1", "below 1"),
        ("small", "seed=-1", "0 or more"),
        (
            "small",
            "objective.aligns=maybe",
            "expected true or false; the recipe's value is objective.aligns=t",
        ),
        ("small", "network=3", "'network' is a group of values: give one of network.backbone"),
        ("ram-14m", "network.backbone=resnet18", "give one of network.backbone.width"),
        ("small", "network.cross=1", "this recipe has no such part"),
        ("small", "network.cross.layers=1", "this recipe has no network.cross"),
        ("small", "rte=1", "did you mean rate"),
        ("small", "schedule.rate=1", "did you mean rate"),
        ("small", "lr=1", "the key is rate"),
        ("small", "rate.peak=1", "no such key"),
        ("small", "rate", "'rate' has no value: give rate=VALUE"),
        ("small", "=1", "no such key"),
        ("small", "start=a\0b", "expected printable text"),
    ],
)
def test_wrong_values_are_named_with_what_fits(recipe: str, pair: str, said: str) -> None:
    with pytest.raises(AnytagError) as caught:
        parse_train(find(recipe), [pair])
    assert said in str(caught.value)


def test_a_number_is_given_once() -> None:
    with pytest.raises(AnytagError, match="rate is given twice"):
        parse_train(find("small"), ["rate=1", "rate=2"])


_JUNK = st.one_of(
    st.sampled_from(["", "-1", "0", "nan", "-inf", "1e999", "9" * 400, "1,2", ",", "()", "true", "é"]),
    st.integers().map(str), st.floats().map(str), st.text(max_size=12),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(RECIPES)), st.one_of(st.sampled_from(KEYS), st.text(max_size=20)), _JUNK)
@example("small", "network", "")
@example("tag2text-retrieval", "network.alignment", "9" * 400)
def test_any_key_and_any_value_give_a_recipe_or_an_error(name: str, key: str, value: str) -> None:
    """And accepted numbers are finite and in range."""
    try:
        made = parse_train(find(name), [f"{key}={value}"])
    except AnytagError as error:
        assert len(str(error)) < 3000
        return
    for number in flatten(asdict(made)).values():
        assert not isinstance(number, float) or math.isfinite(number)


@pytest.mark.parametrize("recipe", [*(make() for make in RECIPES.values())])
def test_every_recipe_holds_what_may_be_given(recipe: Any) -> None:
    """The recipes' values are in range: giving them as printed changes nothing."""
    for key, value in flatten(asdict(recipe)).items():
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        if value is not None:
            assert parse_numbers(recipe, [f"{key}={text}"]) == recipe


def test_ranges_are_of_fields_that_there_are() -> None:
    known = {name for recipe in (make() for make in RECIPES.values())
             for name in _names(recipe)} | {"patch", "depth", "drop_path"}  # fmt: skip
    assert {name.rpartition(".")[2] for name in RANGES} <= known


def _names(recipe: Any) -> set[str]:
    found: set[str] = set(get_type_hints(type(recipe)))
    for one in fields(recipe):
        value = getattr(recipe, one.name)
        found |= _names(value) if is_dataclass(value) else set()
    return found


@pytest.mark.parametrize("words", [["small", "rate=-1"], ["mini", "batch_size=0"], ["small", "x=1"]])
def test_the_command_refuses_them(words: list[str]) -> None:
    done = run("train", *words)
    assert done.exit_code == 2 and "Error:" in done.stderr and not done.stdout
