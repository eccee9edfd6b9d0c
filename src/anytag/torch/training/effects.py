"""Which fields of a recipe have an effect: fields without one are rejected and not shown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from anytag.errors import AnytagError
from anytag.torch.training.checkpoint import flatten
from anytag.torch.training.recipes import Recipe, find
from anytag.torch.training.values import keys_of, parse_numbers

_Rule = tuple[bool, tuple[str, ...], str]


def resolve(name: str, pairs: Iterable[str]) -> Recipe:
    """A recipe by name with `key=value` pairs applied.

    Raises:
        AnytagError: there is no such recipe, or an error of `parse_train`.
    """
    return parse_train(find(name), pairs)


def parse_train(recipe: Recipe, pairs: Iterable[str]) -> Recipe:
    """Apply `key=value` pairs to a recipe and check that each has an effect and that all are compatible.

    Raises:
        AnytagError: an error of `parse_numbers`, a value without an effect, or incompatible values.
    """
    pairs = list(pairs)
    changed = parse_numbers(recipe, pairs)
    check_parts(changed)
    idle = without_effect(changed)
    for key in keys_of(pairs):
        if key in idle:
            raise AnytagError(f"{key} has no effect here: {idle[key]}")
    return changed


def effective_fields(recipe: Recipe) -> dict[str, Any]:
    """The recipe as nested plain values, without the fields that have no effect."""
    return _without(asdict(recipe), set(without_effect(recipe)))


def without_effect(recipe: Recipe) -> dict[str, str]:
    """Keys without an effect in this recipe, each with the reason and what to give instead."""
    known = flatten(asdict(recipe))
    return {
        key: why
        for holds, parts, why in _rules(recipe)
        if holds
        for part in parts
        for key in known
        if key == part or key.startswith(f"{part}.")
    }


def check_parts(recipe: Recipe) -> None:
    """Check that the values of a recipe are compatible.

    Raises:
        AnytagError: they are not; the message names them.
    """
    for wrong, why in _conflicts(recipe):
        if wrong:
            raise AnytagError(why)


def _rules(recipe: Recipe) -> Iterator[_Rule]:
    if recipe.features is not None:
        yield from _feature_rules(recipe)
        return
    yield from _run_rules(recipe)
    yield from _network_rules(recipe)
    yield from _text_rules(recipe)
    yield from _loss_rules(recipe)


def _run_rules(recipe: Recipe) -> Iterator[_Rule]:
    fall = recipe.schedule.fall
    by_steps = f"steps={recipe.steps} sets the length of the run; leave one of them out"
    yield recipe.steps > 0, ("epochs",), by_steps
    yield fall != "epoch-decay", ("schedule.decay",), f"schedule.fall={fall}; give schedule.fall=epoch-decay"
    no_warmup = "warmup=0, so there is no warmup; give warmup=N too"
    yield recipe.warmup == 0, ("schedule.warmup_rate",), no_warmup


def _feature_rules(recipe: Recipe) -> Iterator[_Rule]:
    """Rules for `mini` and its caption head, whose network is fixed."""
    yield from _run_rules(recipe)
    captions = recipe.objective.guidance is not None
    parts = ("backbone", "size", "width", "heads", "text_hidden", "evidence", "projected")
    more = ("queries", "cross", "alignment", "mean", "std")
    network = (*(f"network.{part}" for part in (*parts, *more)), "backbone", "embedding", "clip")
    yield True, network, "network and texts of the embedded model are fixed; use small"
    yield True, ("objective.matching",), "this recipe has no alignment heads; use tag2text-retrieval"
    kinds = ("objective.captions", "objective.first_pass", "objective.distils", "objective.aligns")
    yield True, kinds, "the loss terms of the embedded model are fixed; change their weights instead"
    yield True, ("objective.sums", "objective.same_captions_match"), "this recipe uses means over photos"
    fixed = ("network.captions.words", "network.captions.shared", "network.captions.prompt")
    yield True, fixed, "they follow from the wordpieces and the small head; leave them out"
    tags = (
        "backbone_rate", "sampled_tags", "vocabulary", "teacher", "descriptions", "features",
        "objective.gamma_neg", "objective.clip", "objective.alignment_gamma_neg", "objective.temperature",
    )  # fmt: skip
    yield captions, tags, "this recipe trains only captions, on a frozen encoder; use mini for tags"
    yield (
        not captions,
        ("network.captions", "objective.guidance", "objective.smoothing", "wordpieces"),
        "this recipe trains only tags; use mini-captions for captions",
    )
    yield not captions, ("descriptions",), "descriptions are read from the folder of vocabulary=FOLDER"
    terms = {"caption"} if captions else {*_TERMS} - {"caption", "match"}
    yield from _weights(terms)


_TERMS = ("tag", "caption", "distillation", "alignment", "contrast", "match", "coarse", "subject")


def _weights(terms: set[str]) -> Iterator[_Rule]:
    """Rules for the weights of terms that the recipe does not have."""
    unused = tuple(f"objective.weights.{name}" for name in _TERMS if name not in terms)
    yield True, unused, "this recipe has no such term"


def _network_rules(recipe: Recipe) -> Iterator[_Rule]:
    config = recipe.network
    folded, learned = config.cross is None, config.queries == "learned"
    by_key = f"backbone={recipe.backbone} sets the backbone; give that key"
    yield bool(recipe.backbone), ("network.backbone",), by_key
    by_text = "tokens have the width of the text vectors; give clip=MODEL"
    yield not folded and not learned, ("network.width",), by_text
    by_backbone = "tokens are not projected, so they have the backbone's width"
    yield not config.projected, ("network.width",), by_backbone
    yield not folded, ("network.text_hidden",), "only recipes of small models project text vectors"
    yield folded, ("network.queries",), "a small model averages the texts of a tag; leave it out"
    words = ("network.captions.words", "network.alignment.words")
    yield True, words, "it follows from the wordpieces; give wordpieces=FILE"
    no_captions = not recipe.objective.captions
    yield no_captions, ("network.captions",), "objective.captions=false, so there is no caption head"


def _text_rules(recipe: Recipe) -> Iterator[_Rule]:
    learned = recipe.network.cross is not None and recipe.network.queries == "learned"
    texts = ("descriptions", "embedding", "clip")
    yield learned, texts, "this recipe learns its queries without text; use ram-plus-14m"
    yield bool(recipe.embedding), ("descriptions",), "embedding=FILE has the text vectors; give one of them"
    no_wordpieces = "this recipe does not use captions as wordpieces; use ram-14m"
    yield not recipe.objective.reads, ("wordpieces",), no_wordpieces


def _loss_rules(recipe: Recipe) -> Iterator[_Rule]:
    objective = recipe.objective
    distilled = objective.distils and bool(recipe.teacher)
    yield not objective.distils, ("teacher",), "objective.distils=false; give objective.distils=true too"
    no_teacher = "there is no distillation; give teacher=MODEL (and objective.distils=true)"
    yield not distilled, ("objective.weights.distillation",), no_teacher
    no_alignment = "objective.aligns=false, so there is no alignment term"
    same = "objective.same_captions_match"
    yield not objective.aligns, ("objective.alignment_gamma_neg", same), no_alignment
    no_captions = "objective.captions=false, so there is no caption term"
    yield not objective.captions, ("objective.smoothing",), no_captions
    scaled = objective.captions and not objective.aligns
    yield scaled, ("objective.sums",), "the tag loss is scaled to the caption loss anyway; leave it out"
    first = ("objective.first_pass", "objective.temperature")
    yield True, first, "only mini has a first pass and a classifier as its teacher"
    terms = {"tag": True, "distillation": True, "caption": objective.captions, "alignment": objective.aligns}
    pairs = dict.fromkeys(("contrast", "match"), objective.matching is not None)
    yield from _weights({name for name, is_used in {**terms, **pairs}.items() if is_used})


def _conflicts(recipe: Recipe) -> Iterator[tuple[bool, str]]:
    config, objective, schedule = recipe.network, recipe.objective, recipe.schedule
    for name, value in (("least", schedule.least), ("warmup_rate", schedule.warmup_rate)):
        above = f"schedule.{name}={value:g} is above rate={recipe.rate:g}: give schedule.{name}=0"
        yield value > recipe.rate, above
    if (features := recipe.features) is not None:
        early = (
            f"features.trained={features.trained} is before features.first={features.first}, the stage whose "
            f"input is cached: give features.trained={features.first} or more"
        )
        yield features.trained < features.first, early
        return
    learned = config.cross is not None and config.queries == "learned"
    yield (
        objective.aligns and learned,
        "objective.aligns=true needs queries from text, but this recipe learns its queries: use ram-plus-14m",
    )
    yield (
        config.cross is None and config.queries == "learned",
        "network.queries=learned needs the decoder of a published family: use tag2text-14m",
    )
    yield (
        objective.captions and config.captions is None,
        "objective.captions=true, but this network has no caption head: use tag2text-14m or ram-14m",
    )
    yield (
        objective.matching is not None and not objective.captions,
        "objective.captions=false, but alignment heads need the tags that the caption head encodes: "
        "use tag2text-14m, which has no alignment heads",
    )
    if objective.captions and (heads := config.captions) is not None:
        yield (
            heads.positions < heads.tag_length,
            f"network.captions.positions={heads.positions} is less than network.captions.tag_length="
            f"{heads.tag_length}: give at least as many positions",
        )
        yield heads.tag_length < 2, "network.captions.tag_length=1 is too short for a tag: give 2 or more"


def _without(numbers: dict[str, Any], idle: set[str], path: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in numbers.items():
        if isinstance(value, dict):
            if part := _without(value, idle, f"{path}{key}."):
                values[key] = part
        elif path + key not in idle:
            values[key] = value
    return values
