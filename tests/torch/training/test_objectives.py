"""`anytag.torch.training.objectives` and `schedules`: what the golden cases do not cover."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from anytag.errors import ModelError
from anytag.torch.nn.configs import FAMILIES
from anytag.torch.nn.network import TagNetwork
from anytag.torch.training.batch import Batch
from anytag.torch.training.objectives import OBJECTIVES, Objective, Weights
from anytag.torch.training.recipes import Recipe, find
from anytag.torch.training.schedules import Schedule
from anytag.torch.training.student import FixedQueries, Student, weighted_sum
from anytag.torch.training.terms import terms_of
from tests.families import family_network, family_rows

COUNT, TAGS = 2, 3


def batch() -> Batch:
    torch.manual_seed(0)
    ids = torch.randint(1, 30, (COUNT, 8))
    return Batch(
        pixels=torch.randint(0, 256, (COUNT, 3, 32, 32), dtype=torch.uint8),
        tags=torch.tensor([[1.0, 0, 1], [0, 0, 1]]),
        tag_ids=ids,
        tag_mask=torch.ones_like(ids),
        caption_ids=ids,
        teacher=torch.randn(COUNT, 8),
        texts=torch.nn.functional.normalize(torch.randn(COUNT, 8), dim=-1),
    )


def student_of(family: str, objective: Objective | None = None) -> Student:
    network = family_network(family)
    rows = family_rows(network, (1, TAGS, 2))
    objective = objective or OBJECTIVES[family]
    return Student(network, FixedQueries(rows[0]), objective, terms_of(objective)).eval()


def losses(family: str, given: Batch) -> dict[str, torch.Tensor]:
    return student_of(family)(given)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("family", "terms"),
    [
        ("tag2text", {"tag", "caption"}),
        ("ram", {"tag", "caption", "distillation"}),
        ("ram-plus", {"tag", "distillation", "alignment"}),
    ],
)
def test_each_family_has_its_terms(family: str, terms: set[str]) -> None:
    found = losses(family, batch())
    assert set(found) == terms | {"loss"}
    assert all(value.isfinite() and value > 0 for value in found.values())


def test_captions_need_wordpieces_and_a_head() -> None:
    given = batch()
    given.tag_ids = None
    with pytest.raises(ModelError, match="needs a caption head and wordpieces"):
        losses("tag2text", given)
    with pytest.raises(ModelError, match="needs a caption head and wordpieces"):
        student_of("ram-plus", OBJECTIVES["ram"])(batch())


def test_the_tag_term_is_scaled_to_the_captions() -> None:
    """Twice the caption's value; the tags' gradient is the caption's size whatever their loss was."""
    caption, tag = torch.tensor(2.0, requires_grad=True), torch.tensor(50.0, requires_grad=True)
    total = weighted_sum({"tag": tag, "caption": caption}, Weights())
    slopes = torch.autograd.grad(total, [tag, caption])
    assert total.item() == pytest.approx(4.0)
    assert [slope.item() for slope in slopes] == pytest.approx([2 / 50, 1.0])
    assert weighted_sum({"tag": tag, "distillation": caption}, Weights()).item() == pytest.approx(52.0)
    assert weighted_sum(
        {"tag": tag, "distillation": caption}, Weights(2.0, distillation=0.5)
    ).item() == pytest.approx(101)


def test_without_captions_tags_are_learned_in_full() -> None:
    tag = torch.tensor(50.0, requires_grad=True)
    total = weighted_sum({"tag": tag, "caption": torch.tensor(0.0)}, Weights())
    assert total.item() == 50.0
    assert torch.autograd.grad(total, tag)[0].item() == 1.0
    none = weighted_sum({"tag": tag * 0, "caption": torch.tensor(3.0)}, Weights())
    assert none.item() == 3.0


def test_unknown_tags_are_no_negatives() -> None:
    given = batch()
    given.weight = torch.tensor([[True, False, True], [True, True, True]])
    student = student_of("ram-plus")
    with torch.no_grad():
        before = student(given)["tag"]
        given.require("tags")[0, 1] = 1  # whatever its label
        assert student(given)["tag"] == before
        given.weight[0, 1] = True
        assert student(given)["tag"] != before


def test_sums_and_equal_captions_are_as_published_where_that_is_wished() -> None:
    given = batch()
    given.texts = torch.stack([given.texts[0]] * 2)  # type: ignore[index]
    means, sums, apart = (
        student_of("ram-plus", replace(OBJECTIVES["ram-plus"], sums=sums, same_captions_match=same))(given)
        for sums, same in ((False, True), (True, True), (False, False))
    )
    for name in ("tag", "alignment"):
        assert sums[name].item() == pytest.approx(COUNT * means[name].item())
    assert apart["alignment"] != means["alignment"]  # the other's caption is a negative


@pytest.mark.parametrize("family", ["tag2text", "ram", "ram-plus"])
def test_recipes_are_the_published_ones(family: str) -> None:
    first, second = find(f"{family}-14m"), find(f"{family}-14m-384")
    assert second.network.size == FAMILIES[family].size
    assert rate(first, 0) == pytest.approx(5e-7)
    assert rate(first, 3000) == pytest.approx(1e-4)
    assert rate(first, 40_000) == pytest.approx(1e-4 * 0.9**4)
    assert rate(first, 2_000_000) == first.schedule.least
    assert [rate(second, epoch * 10_000 + 99) for epoch in (0, 1)] == pytest.approx([5e-6, 2.5e-6])


def rate(published: Recipe, step: int, *, epochs: int | None = None) -> float:
    """With epochs of 10,000 steps."""
    total = (epochs or published.epochs) * 10_000
    return published.schedule.learning_rate(
        step, rate=published.rate, warmup=published.warmup, total=total, per_epoch=10_000
    )


def test_the_cosine_by_epochs_falls_once_whatever_the_epochs() -> None:
    rates = [rate(find("ram-14m-384"), epoch * 10_000, epochs=4) for epoch in range(4)]
    assert rates[0] == 5e-6 and rates == sorted(rates, reverse=True) and rates[-1] > 0


def test_the_rise_goes_on_over_short_epochs() -> None:
    schedule = Schedule(fall="epoch-decay", warmup_rate=0.1, decay=0.5)
    rates = [schedule.learning_rate(n, rate=1.0, warmup=8, total=12, per_epoch=2) for n in range(12)]
    assert rates[:3] == pytest.approx([0.1, 0.1 + 0.9 / 8, 0.1 + 1.8 / 8])
    assert rates[4] == 0.25 < rates[3]  # the third epoch's
    plain = Schedule(least=0.2, warmup_rate=0.4)
    rates = [plain.learning_rate(n, rate=1.0, warmup=2, total=10, per_epoch=5) for n in range(11)]
    assert rates[0] == pytest.approx(0.7) and rates[-1] == pytest.approx(0.2)


def test_released_networks_have_the_published_number_of_parameters() -> None:
    """Parameter counts of tests/manifest without the tables of tags, on the meta device."""
    counts = {}
    with torch.device("meta"):
        for family in ("tag2text", "ram", "ram-plus"):
            network = TagNetwork(FAMILIES[family])
            counts[family] = sum(parameter.numel() for parameter in network.parameters())
    assert counts["tag2text"] == 372007193 - 3429 * (2 * 768 + 1)
    assert counts["ram-plus"] == 329493046 - 4585 * 51 * 512
    assert counts["ram"] > counts["ram-plus"] + 250_000_000
