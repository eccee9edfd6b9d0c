"""Which numbers of a recipe have an effect in it: the others are refused, and not shown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from anytag.errors import AnytagError
from anytag.torch.training.checkpoint import flat
from anytag.torch.training.recipes import Recipe, find
from anytag.torch.training.values import keys_of, parse_numbers

_Rule = tuple[bool, tuple[str, ...], str]


def resolve(name: str, pairs: Iterable[str]) -> Recipe:
    """A recipe by name, with `key=value` pairs over it.

    Raises:
        AnytagError: there is no such recipe, or what `parse_train` refuses.
    """
    return parse_train(find(name), pairs)


def parse_train(recipe: Recipe, pairs: Iterable[str]) -> Recipe:
    """`key=value` pairs over a recipe, each with an effect, all of them fitting together.

    Raises:
        AnytagError: what `parse_numbers` refuses; a number that would change nothing, or parts that do not
            fit together: says why.
    """
    pairs = list(pairs)
    recipe_set = parse_numbers(recipe, pairs)
    check_parts(recipe_set)
    idle = without_effect(recipe_set)
    for key in keys_of(pairs):
        if key in idle:
            raise AnytagError(f"{key} has no effect here: {idle[key]}")
    return recipe_set


def resolved(recipe: Recipe) -> dict[str, Any]:
    """The recipe as nested plain values, without what has no effect."""
    return _without(asdict(recipe), set(without_effect(recipe)))


def without_effect(recipe: Recipe) -> dict[str, str]:
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


def check_parts(recipe: Recipe) -> None:
    """Whether the parts of a recipe fit together.

    Raises:
        AnytagError: they do not; says which.
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
    long = f"steps={recipe.steps} says how long the run is; leave one of them out"
    yield recipe.steps > 0, ("epochs",), long
    yield fall != "epoch-decay", ("schedule.decay",), f"schedule.fall={fall}; give schedule.fall=epoch-decay"
    still = "warmup=0, so the rate does not rise; give warmup=N too"
    yield recipe.warmup == 0, ("schedule.warmup_rate",), still


def _feature_rules(recipe: Recipe) -> Iterator[_Rule]:
    """Of `mini` and its caption head, whose network is one that ships."""
    yield from _run_rules(recipe)
    captions = recipe.objective.guidance is not None
    parts = ("backbone", "size", "width", "heads", "text_hidden", "memory", "evidence", "projected")
    more = ("queries", "cross", "alignment", "mean", "std")
    network = (*(f"network.{part}" for part in (*parts, *more)), "backbone", "embedding", "clip")
    yield True, network, "the embedded model's network and texts are what they are; take small"
    yield True, ("objective.matching",), "this recipe has no alignment heads; take tag2text-retrieval"
    kinds = ("objective.captions", "objective.first_pass", "objective.distils", "objective.aligns")
    yield True, kinds, "the embedded model's terms are what they are; give their weights"
    yield True, ("objective.sums", "objective.same_captions_match"), "this recipe takes means over photos"
    fixed = ("network.captions.words", "network.captions.shared", "network.captions.prompt")
    yield True, fixed, "the wordpieces and the small head decide them; leave them out"
    tags = (
        "backbone_rate", "sampled_tags", "vocabulary", "teacher", "descriptions", "features",
        "objective.gamma_neg", "objective.clip", "objective.alignment_gamma_neg", "objective.temperature",
    )  # fmt: skip
    yield captions, tags, "captions alone are learned, on a frozen encoder; take mini for tags"
    yield (
        not captions,
        ("network.captions", "objective.guidance", "objective.smoothing", "wordpieces"),
        ("tags alone are learned; take mini-captions for captions"),
    )
    yield not captions, ("descriptions",), "they lie in the folder of vocabulary=FOLDER"
    terms = {"caption"} if captions else {*_TERMS} - {"caption", "match"}
    yield from _weights(terms)


_TERMS = ("tag", "caption", "distillation", "alignment", "contrast", "match", "coarse", "subject")


def _weights(terms: set[str]) -> Iterator[_Rule]:
    """Weights of terms that there are not."""
    gone = tuple(f"objective.weights.{name}" for name in _TERMS if name not in terms)
    yield True, gone, "this recipe has no such term"


def _network_rules(recipe: Recipe) -> Iterator[_Rule]:
    config, named = recipe.network, f"backbone={recipe.backbone} is the backbone"
    folded, learned = config.cross is None, config.queries == "learned"
    yield bool(recipe.backbone), ("network.backbone",), f"{named}; give that key"
    wide = "tokens are as wide as the text vectors; give clip=MODEL"
    yield not folded and not learned, ("network.width",), wide
    own = "tokens are not projected, so the backbone's width is theirs"
    yield not config.projected, ("network.width",), own
    yield not folded, ("network.text_hidden",), "only recipes of small models project text vectors"
    yield True, ("network.memory",), "only mini keeps a pretrained backbone beside the trained one"
    yield folded, ("network.queries",), "a small model weighs all texts of a tag alike; leave it out"
    words = ("network.captions.words", "network.alignment.words")
    yield True, words, "the wordpieces say how many words there are; give wordpieces=FILE"
    silent = not recipe.objective.captions
    yield silent, ("network.captions",), "objective.captions=false, so there is no caption head"


def _text_rules(recipe: Recipe) -> Iterator[_Rule]:
    learned = recipe.network.cross is not None and recipe.network.queries == "learned"
    texts = ("descriptions", "embedding", "clip")
    yield learned, texts, "this recipe learns a query of each tag and reads no text of it; take ram-plus-14m"
    yield bool(recipe.embedding), ("descriptions",), "embedding=FILE has the text vectors; give one of them"
    unread = "this recipe reads no captions as wordpieces; take ram-14m"
    yield not recipe.objective.reads, ("wordpieces",), unread


def _loss_rules(recipe: Recipe) -> Iterator[_Rule]:
    objective = recipe.objective
    taught = objective.distils and bool(recipe.teacher)
    yield not objective.distils, ("teacher",), "objective.distils=false; give objective.distils=true too"
    without = "there is no distillation; give teacher=MODEL (and objective.distils=true)"
    yield not taught, ("objective.weights.distillation",), without
    unaligned, same = "objective.aligns=false: there is no such term", "objective.same_captions_match"
    yield not objective.aligns, ("objective.alignment_gamma_neg",), unaligned
    yield not objective.captions, ("objective.smoothing",), "objective.captions=false: none is learned"
    scaled = objective.captions and not objective.aligns
    yield scaled, ("objective.sums",), "the tags' loss is scaled to the captions' anyway; leave it out"
    yield not objective.aligns, (same,), "objective.aligns=false: no captions are compared"
    first = ("objective.first_pass", "objective.temperature")
    yield True, first, "only mini is taught by a classifier, in two passes"
    there = {"tag": True, "distillation": True, "caption": objective.captions, "alignment": objective.aligns}
    pairs = dict.fromkeys(("contrast", "match"), objective.matching is not None)
    yield from _weights({name for name, is_there in {**there, **pairs}.items() if is_there})


def _conflicts(recipe: Recipe) -> Iterator[tuple[bool, str]]:
    config, objective, schedule = recipe.network, recipe.objective, recipe.schedule
    for name, value in (("least", schedule.least), ("warmup_rate", schedule.warmup_rate)):
        above = f"schedule.{name}={value:g} is above rate={recipe.rate:g}: give schedule.{name}=0"
        yield value > recipe.rate, above
    if (features := recipe.features) is not None:
        early = (
            f"features.trained={features.trained} is before features.first={features.first}, the stage that "
            f"cached features are for: give features.trained={features.first} or more"
        )
        yield features.trained < features.first, early
        return
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
    values: dict[str, Any] = {}
    for key, value in numbers.items():
        if isinstance(value, dict):
            if part := _without(value, idle, f"{path}{key}."):
                values[key] = part
        elif path + key not in idle:
            values[key] = value
    return values
