"""`anytag.training.objectives` and `schedules`: what the golden cases do not say."""

from __future__ import annotations

import pytest
import torch

from anytag.errors import ModelError
from anytag.nn.families import FAMILIES
from anytag.nn.network import TagNetwork
from anytag.training.objectives import OBJECTIVES, FamilyBatch, aligned_loss, family_losses, total_loss
from anytag.training.schedules import FINETUNE, PRETRAIN
from tests.families import family_network, family_rows

COUNT, TAGS = 2, 3


def batch() -> FamilyBatch:
    torch.manual_seed(0)
    ids = torch.randint(1, 30, (COUNT, 8))
    return FamilyBatch(
        pixels=torch.randn(COUNT, 3, 32, 32),
        tags=torch.tensor([[1.0, 0, 1], [0, 0, 1]]),
        tag_ids=ids,
        tag_mask=torch.ones_like(ids),
        caption_ids=ids,
        teacher=torch.randn(COUNT, 8),
        captions=torch.randn(COUNT, 8),
    )


def losses(family: str, given: FamilyBatch) -> dict[str, torch.Tensor]:
    network = family_network(family)
    return family_losses(network, family_rows(network, (1, TAGS, 2)), given, OBJECTIVES[family])


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


@pytest.mark.parametrize(
    ("family", "missing"),
    [
        ("tag2text", "caption_ids"),
        ("tag2text", "tag_ids"),
        ("ram", "tag_mask"),
        ("ram", "teacher"),
        ("ram-plus", "captions"),
    ],
)
def test_what_a_batch_lacks_is_named(family: str, missing: str) -> None:
    given = batch()
    setattr(given, missing, None)
    with pytest.raises(ModelError, match=f"lacks {missing}"):
        losses(family, given)


def test_a_network_without_captions_cannot_learn_them() -> None:
    network = family_network("ram-plus")
    with pytest.raises(ModelError, match="no caption head"):
        family_losses(network, family_rows(network, (1, TAGS, 2)), batch(), OBJECTIVES["ram"])


def test_the_tag_term_is_scaled_to_the_captions() -> None:
    """Twice the caption's value; the tags' gradient is the caption's size whatever their loss was."""
    caption, tag = torch.tensor(2.0, requires_grad=True), torch.tensor(50.0, requires_grad=True)
    total = total_loss({"tag": tag, "caption": caption})
    slopes = torch.autograd.grad(total, [tag, caption])
    assert total.item() == pytest.approx(4.0)
    assert [slope.item() for slope in slopes] == pytest.approx([2 / 50, 1.0])
    assert total_loss({"tag": tag, "distillation": caption}).item() == pytest.approx(52.0)


def test_alignment_is_least_when_each_photo_has_its_own_caption() -> None:
    own = torch.eye(3) * 20 - 10
    assert aligned_loss(own, gamma_neg=4.0) < 1e-3 < aligned_loss(-own, gamma_neg=4.0)


@pytest.mark.parametrize("family", ["tag2text", "ram", "ram-plus"])
def test_recipes_are_the_published_ones(family: str) -> None:
    first, second = PRETRAIN[family], FINETUNE[family]
    assert second.size == FAMILIES[family].size
    assert first.learning_rate(0, 0) == pytest.approx(5e-7)
    assert first.learning_rate(0, 3000) == pytest.approx(1e-4)
    assert first.learning_rate(4, 0) == pytest.approx(1e-4 * 0.9**4)
    assert first.learning_rate(200, 0) == first.least
    assert [second.learning_rate(epoch, 99) for epoch in (0, 1)] == pytest.approx([5e-6, 2.5e-6])


def test_released_networks_have_the_published_number_of_parameters() -> None:
    """Numbers of tests/manifest, without the tables of tags; nothing is allocated."""
    counts = {}
    with torch.device("meta"):
        for family in ("tag2text", "ram", "ram-plus"):
            network = TagNetwork(FAMILIES[family])
            counts[family] = sum(parameter.numel() for parameter in network.parameters())
    assert counts["tag2text"] == 372007193 - 3429 * (2 * 768 + 1)
    assert counts["ram-plus"] == 329493046 - 4585 * 51 * 512
    assert counts["ram"] > counts["ram-plus"] + 250_000_000
