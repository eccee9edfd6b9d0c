"""Which numbers of a recipe have an effect in it: the others are refused, and not shown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from anytag.errors import AnytagError
from anytag.torch.training.checkpoint import flat
from anytag.torch.training.recipes import TrainRecipe
from anytag.torch.training.values import keys_of, parse_numbers

_Rule = tuple[bool, tuple[str, ...], str]


def parse_train(recipe: TrainRecipe, pairs: Iterable[str]) -> TrainRecipe:
    """`key=value` pairs over a recipe, each with an effect, all of them fitting together.

    Raises:
        AnytagError: what `parse_numbers` refuses; a number that would change nothing, or parts that do not
            fit together: says why.
    """
    pairs = list(pairs)
    made = parse_numbers(recipe, pairs)
    check_parts(made)
    idle = without_effect(made)
    for key in keys_of(pairs):
        if key in idle:
            raise AnytagError(f"{key} has no effect here: {idle[key]}")
    return made


def resolved(recipe: TrainRecipe) -> dict[str, Any]:
    """The recipe as nested plain values, without what has no effect."""
    return _without(asdict(recipe), set(without_effect(recipe)))


def without_effect(recipe: TrainRecipe) -> dict[str, str]:
    """Keys that change nothing in this recipe, each with the reason and what to type instead."""
    known = flat(asdict(recipe))
    return {
        key: why
        for holds, parts, why in _rules(recipe)
        if holds
        for part in parts
        for key in known
        if key == part or key.startswith(f"{part}.")
    }


def check_parts(recipe: TrainRecipe) -> None:
    """Whether the parts of a recipe fit together.

    Raises:
        AnytagError: they do not; says which.
    """
    for wrong, why in _conflicts(recipe):
        if wrong:
            raise AnytagError(why)


def _rules(recipe: TrainRecipe) -> Iterator[_Rule]:
    yield from _run_rules(recipe)
    yield from _network_rules(recipe)
    yield from _text_rules(recipe)
    yield from _loss_rules(recipe)


def _run_rules(recipe: TrainRecipe) -> Iterator[_Rule]:
    fall = recipe.schedule.fall
    yield (
        recipe.steps > 0,
        ("epochs",),
        f"steps={recipe.steps} says how long the run is; leave one of them out",
    )
    yield fall != "epoch-decay", ("schedule.decay",), f"schedule.fall={fall}; give schedule.fall=epoch-decay"
    yield (
        recipe.warmup == 0,
        ("schedule.warmup_rate",),
        "warmup=0, so the rate does not rise; give warmup=N too",
    )


def _network_rules(recipe: TrainRecipe) -> Iterator[_Rule]:
    config, named = recipe.network, f"backbone={recipe.backbone} is the backbone"
    folded, learned = config.cross is None, config.queries == "learned"
    yield bool(recipe.backbone), ("network.backbone",), f"{named}; give that key"
    yield (
        not folded and not learned,
        ("network.width",),
        "tokens are as wide as the text vectors; give clip=MODEL",
    )
    yield (
        not config.projected,
        ("network.width",),
        "tokens are not projected, so the backbone's width is theirs",
    )
    yield not folded, ("network.text_hidden",), "only recipes of small models project text vectors"
    yield True, ("network.memory",), "only mini keeps a pretrained backbone beside the trained one"
    yield folded, ("network.queries",), "a small model weighs all texts of a tag alike; leave it out"
    words = ("network.captions.words", "network.alignment.words")
    yield True, words, "the wordpieces say how many words there are; give wordpieces=FILE"
    silent = not recipe.objective.captions
    yield silent, ("network.captions",), "objective.captions=false, so there is no caption head"


def _text_rules(recipe: TrainRecipe) -> Iterator[_Rule]:
    learned = recipe.network.cross is not None and recipe.network.queries == "learned"
    texts = ("descriptions", "embedding", "clip")
    yield learned, texts, "this recipe learns a query of each tag and reads no text of it; take ram-plus-14m"
    yield bool(recipe.embedding), ("descriptions",), "embedding=FILE has the text vectors; give one of them"
    yield (
        not recipe.objective.reads,
        ("wordpieces",),
        "this recipe reads no captions as wordpieces; take ram-14m",
    )


def _loss_rules(recipe: TrainRecipe) -> Iterator[_Rule]:
    objective = recipe.objective
    taught = objective.distils and bool(recipe.teacher)
    yield not objective.distils, ("teacher",), "objective.distils=false; give objective.distils=true too"
    yield (
        not taught,
        ("distillation",),
        "there is no distillation; give teacher=MODEL (and objective.distils=true)",
    )
    yield (
        not objective.aligns,
        ("objective.alignment_gamma_neg",),
        "objective.aligns=false: there is no such term",
    )
    scaled = objective.captions and not objective.aligns
    yield scaled, ("objective.sums",), "the tags' loss is scaled to the captions' anyway; leave it out"
    same = ("objective.same_captions_match",)
    yield not objective.aligns, same, "objective.aligns=false: no captions are compared"


def _conflicts(recipe: TrainRecipe) -> Iterator[tuple[bool, str]]:
    config, objective, schedule = recipe.network, recipe.objective, recipe.schedule
    learned = config.cross is not None and config.queries == "learned"
    yield (
        objective.aligns and learned,
        ("objective.aligns=true asks with text vectors, this recipe learns its queries: take ram-plus-14m"),
    )
    yield (
        config.cross is None and config.queries == "learned",
        ("network.queries=learned needs the decoder of a published family: take tag2text-14m"),
    )
    yield (
        objective.captions and config.captions is None,
        ("objective.captions=true, but this network has no caption head: take tag2text-14m or ram-14m"),
    )
    yield (
        objective.matching is not None and not objective.captions,
        (
            "objective.captions=false, but alignment heads read the tags that the caption head encodes: "
            "take tag2text-14m, which has no alignment heads"
        ),
    )
    for name, value in (("least", schedule.least), ("warmup_rate", schedule.warmup_rate)):
        yield (
            value > recipe.rate,
            (f"schedule.{name}={value:g} is above rate={recipe.rate:g}: give schedule.{name}=0"),
        )
    if objective.captions and (heads := config.captions) is not None:
        yield (
            heads.positions < heads.tag_length,
            (
                f"network.captions.positions={heads.positions} have no room for the tags' "
                f"network.captions.tag_length={heads.tag_length} wordpieces: give as many positions or more"
            ),
        )
        yield heads.tag_length < 2, "network.captions.tag_length=1 has no room for a tag: give 2 or more"


def _without(numbers: dict[str, Any], idle: set[str], path: str = "") -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in numbers.items():
        if isinstance(value, dict):
            if part := _without(value, idle, f"{path}{key}."):
                kept[key] = part
        elif path + key not in idle:
            kept[key] = value
    return kept
