"""Every field of a recipe has an effect: changing it changes the run, or is rejected with the reason."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anytag.data.rows import read_rows
from anytag.errors import AnytagError
from anytag.models.registry import EMBEDDED
from anytag.text_encoders import StaticTextEncoder
from anytag.torch.training.build import resolve_network
from anytag.torch.training.checkpoint import flatten
from anytag.torch.training.effects import effective_fields, parse_train, without_effect
from anytag.torch.training.estimate import check_network
from anytag.torch.training.fit import prepare_with
from anytag.torch.training.photo_dataset import PhotoDataset, Photos
from anytag.torch.training.recipes import RECIPES, Recipe, find
from anytag.torch.training.report import Reporter
from anytag.torch.training.run import Run
from anytag.torch.training.texts import read_wordpieces, vocabulary_of
from anytag.torch.training.trainer import Trainer
from anytag.vocabulary import Tag, Vocabulary
from tests.command import run
from tests.families import enliven
from tests.runs import RUN_OPTIONS, write_photos

CROSS = ["network.cross.hidden=16", "network.cross.mlp=24", "network.heads=2"]
SWIN = [f"network.backbone.{one}" for one in ("width=4", "depths=2,2", "heads=1,2", "window=2")]
CAPTIONS = [
    f"network.captions.{one}"
    for one in ("width=16", "layers=3", "shared=1", "heads=2", "mlp=24", "positions=40", "tag_length=16")
]
ALIGNMENT = [f"network.alignment.{one}" for one in ("width=16", "layers=2", "heads=2", "mlp=24", "space=6")]
FOLDED = ["network.width=16", "network.heads=2", "network.text_hidden=16", "backbone=resnet10t"]
SHORT = ["network.size=32", "batch_size=4", "epochs=3", "rate=1e-3", "warmup=2"]
TINY = {
    "tag2text": [*SHORT, *SWIN, *CROSS, *CAPTIONS],
    "tag2text-retrieval": [*SHORT, *SWIN, *CROSS, *CAPTIONS, *ALIGNMENT, "objective.matching.queue=10"],
    "ram": [*SHORT, *SWIN, *CROSS, *CAPTIONS],
    "ram-plus": [*SHORT, *SWIN, *CROSS],
    "small": ["network.size=64", *SHORT[1:], *FOLDED],
}
ANOTHER = {
    "network.backbone.depths": "2,4", "network.backbone.heads": "2,2", "network.mean": "0.1,0.2,0.3",
    "network.std": "0.1,0.2,0.3", "network.size": "96", "network.heads": "4", "network.captions.heads": "4",
    "network.alignment.heads": "4", "network.captions.layers": "4", "network.captions.shared": "2",
    "network.backbone.window": "4", "ema": "0.1", "objective.matching.trust": "0.9", "sampled_tags": "2",
    "objective.matching.unguided": "1", "objective.matching.decay": "0.5", "schedule.decay": "0.5",
    "schedule.least": "9e-4", "schedule.warmup_rate": "1e-5", "warmup": "3", "weight_decay": "5",
    "objective.gamma_neg": "0", "objective.alignment_gamma_neg": "0", "backbone_rate": "1e-2",
    "objective.clip": "0.5",
}  # fmt: skip
"""Values of fields that make a difference in such a small run; others are doubled or incremented."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Photos:
    data = write_photos(tmp_path_factory.mktemp("photos"))
    rows = read_rows(data)
    rare = Tag("unicorn", "unicorn", "object")  # in no photo: there is always a negative to sample
    return Photos(rows, data.parent, Vocabulary([*vocabulary_of(rows), rare]))


def numbers_of(recipe: Recipe) -> dict[str, Any]:
    """Every value by its key."""
    kinds = (int, float, tuple)
    return {
        key: value
        for key, value in flatten(asdict(recipe)).items()
        if isinstance(value, kinds) and not isinstance(value, bool)
    }


def kind_of(name: str) -> str:
    return (
        name.removesuffix("-14m").removesuffix("-384").removesuffix("-14m").replace("flickr8k-tiny", "small")
    )


def another(key: str, value: Any) -> str:
    if key in ANOTHER:
        return ANOTHER[key]
    return str(value + 1 if isinstance(value, int) else value * 2 or 0.5)


def trainer_of(recipe: Recipe, photos: Photos, out: Path) -> Trainer:
    out.mkdir(exist_ok=True)
    pieces = read_wordpieces(recipe, [*photos.train], photos.vocabulary, out)
    return prepare_with(Run(recipe, "rows.jsonl", out, RUN_OPTIONS), photos, Reporter(), pieces=pieces)


def built(recipe: Recipe, photos: Photos, out: Path) -> tuple[Any, ...]:
    """Properties of a run that are known without running it."""
    trainer = trainer_of(recipe, photos, out)
    rates = [trainer.rate(step) * recipe.rate for step in range(trainer.total)]
    shapes = [tuple(p.shape) for p in trainer.plain.parameters()]
    decay = trainer.optimizer.param_groups[0]["weight_decay"]
    assert isinstance(trainer.dataset, PhotoDataset)
    queue = trainer.plain.momentum.pair_ids.shape if trainer.plain.momentum else None
    return rates, shapes, decay, queue, trainer.dataset.size


def learned(recipe: Recipe, photos: Photos, out: Path) -> tuple[Any, ...]:
    """The result of three steps."""
    torch.manual_seed(0)
    trainer = trainer_of(recipe, photos, out)
    enliven(trainer.plain.network.decoder)  # initially nearly all logits are in the flat part of the losses
    terms = []
    for batch in trainer.dataset.stream(0, 3):
        trainer.student.train()
        terms.append({name: value.item() for name, value in trainer._step(batch).items()})
    return terms, sum(p.double().sum().item() for p in trainer.ema.shadow.values())


FROM_PHOTOS = [name for name in RECIPES if find(name).features is None]
KINDS = ("ram-plus", "small", "tag2text-retrieval")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_number_has_an_effect_or_is_refused(kind: str, photos: Photos, tmp_path: Path) -> None:
    name = kind if kind in RECIPES else f"{kind}-14m"
    recipe = parse_train(find(name), TINY[kind])
    before = cache(lambda measure: measure(recipe, photos, tmp_path))
    silent = []
    keys = list(numbers_of(find(name)))
    if kind == "tag2text-retrieval":  # the others are those of ram-plus
        keys = [
            key for key in keys if key.startswith(("network.captions", "network.al", "objective.matching"))
        ]
    for key in keys:
        pair = f"{key}={another(key, flatten(asdict(recipe))[key])}"
        given = [one for one in TINY[kind] if not one.startswith(f"{key}=")]
        try:
            changed = parse_train(find(name), [*given, pair])
        except AnytagError as error:
            assert "has no effect here: " in str(error), error
            continue
        try:
            if all(measure(changed, photos, tmp_path) == before(measure) for measure in (built, learned)):
                silent.append(pair)
        except AnytagError as error:  # incompatible with other values, which is an effect
            assert any(word in str(error) for word in ("network", "batch", "width")), error
    assert silent == []


@pytest.mark.parametrize("name", FROM_PHOTOS)
def test_rates_are_what_the_recipe_says(name: str) -> None:
    """In every recipe, each value of the schedule changes the curve, and the warmup ends at `rate`."""
    recipe = find(name)

    def curve(pairs: Sequence[str]) -> list[float]:
        made = parse_train(recipe, pairs)
        total = made.steps or made.epochs * 10
        return [
            made.schedule.learning_rate(step, rate=made.rate, warmup=made.warmup, total=total, per_epoch=10)
            for step in range(total)
        ]

    plain = curve(["warmup=5"])
    assert max(plain) == pytest.approx(recipe.rate, rel=0.1)  # a cosine falls meanwhile
    assert max(curve(["rate=1e-2", "warmup=5"])) == pytest.approx(1e-2, rel=0.1)
    for pair in ("rate=1e-2", "warmup=9", f"epochs={recipe.epochs + 1}",
                 f"schedule.least={0.9 * recipe.rate}",
                 "schedule.warmup_rate=1e-6", "schedule.decay=0.5", "steps=7"):  # fmt: skip
        given = ["warmup=5"] if not pair.startswith("warmup") else []
        try:
            assert curve([*given, pair]) != plain, pair
        except AnytagError as error:
            assert pair.startswith("schedule.decay") and "has no effect here: schedule.fall=" in str(error)
    falling = curve(["epochs=5", "warmup=0"])
    assert falling == sorted(falling, reverse=True)  # whatever the epochs: none rises again


@pytest.mark.parametrize("name", FROM_PHOTOS)
def test_what_is_printed_has_an_effect(name: str) -> None:
    recipe = find(name)
    shown, idle = flatten(effective_fields(recipe)), without_effect(recipe)
    assert not shown.keys() & idle.keys()
    assert all(why for why in idle.values())
    done = run("train", name, "--dry-run", *TINY[kind_of(name)])
    assert done.exit_code == 0, done.stderr
    printed = flatten(json.loads(done.stdout[: done.stdout.rindex("}") + 1]))
    assert printed["rate"] == 1e-3 and "schedule.rate" not in printed


@pytest.mark.parametrize(
    ("recipe", "pairs", "said"),
    [
        ("ram-14m", ["steps=5", "epochs=2"], "epochs has no effect here: steps=5 sets the length of the run"),
        (
            "ram-14m",
            ["objective.weights.distillation=2"],
            "distillation has no effect here: there is no distillation",
        ),
        ("ram-14m", ["backbone=resnet18", "network.backbone.width=8"], "backbone=resnet18 sets the backbone"),
        ("ram-14m", ["objective.captions=false", "network.captions.layers=3"], "there is no caption head"),
        ("tag2text-14m", ["clip=X"], "learns its queries without text"),
        ("small", ["teacher=X"], "objective.distils=false"),
        ("tag2text-14m", ["objective.aligns=true"], "this recipe learns its queries: use ram-plus-14m"),
        ("ram-plus-14m", ["objective.captions=true"], "this network has no caption head"),
        ("small", ["network.queries=learned"], "needs the decoder of a published family"),
        ("tag2text-retrieval", ["objective.captions=false"], "alignment heads need the tags"),
        ("ram-14m", ["schedule.least=1"], "schedule.least=1 is above rate=0.0001: give schedule.least=0"),
        ("ram-14m", ["network.captions.positions=8"], "give at least as many positions"),
    ],
)
def test_what_does_not_fit_is_said_with_its_reason(recipe: str, pairs: list[str], said: str) -> None:
    with pytest.raises(AnytagError) as caught:
        parse_train(find(recipe), pairs)
    assert said in str(caught.value)


_ENCODER = StaticTextEncoder.from_folder(EMBEDDED / "text")


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([*TINY]), st.data())
def test_numbers_that_make_no_network_are_an_error_before_the_work(kind: str, data: st.DataObject) -> None:
    name = kind if kind in RECIPES else f"{kind}-14m"
    recipe = parse_train(find(name), TINY[kind])
    keys = [
        key for key in numbers_of(recipe) if key.startswith("network.") and key not in without_effect(recipe)
    ]
    key = data.draw(st.sampled_from(keys))
    value = data.draw(st.sampled_from(["1", "3", "5", "7", "30", "1,1", "3,3", "2,2,2", "0.1,0.1,0.1"]))
    given = [pair for pair in TINY[kind] if not pair.startswith(f"{key}=")]
    try:
        made = parse_train(find(name), [*given, f"{key}={value}"])
        check_network(resolve_network(made, width=_ENCODER.dim), text_width=_ENCODER.dim)
    except AnytagError as error:
        assert len(str(error)) > 20
