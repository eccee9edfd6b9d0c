"""`anytag.torch.training.alignment` and `anytag.torch.nn.alignment_head`: contrast and matching."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from anytag.errors import ModelError
from anytag.torch.nn.alignment_head import AlignmentHead
from anytag.torch.nn.network import TagNetwork
from anytag.torch.training.alignment import Aligner, Momentum, alignment_losses, hard_negatives
from anytag.torch.training.batch import Batch
from anytag.torch.training.caption_reader import text_numbers
from tests.families import ALIGNMENT, CAPTIONS, TINY_FAMILIES, family_network


@pytest.fixture
def model() -> Aligner:
    network = family_network("tag2text with alignment")
    aligner = Aligner(network).requires_grad_(True)
    torch.nn.init.constant_(aligner.head.sharpness, 1.0)
    return aligner


def batch(count: int, *, guided: bool = True) -> Batch:
    random = torch.Generator().manual_seed(count)
    ids = torch.randint(1, CAPTIONS.words, (count, 5), generator=random)
    tags = torch.randint(1, CAPTIONS.words, (count, 4), generator=random) if guided else None
    coarse = torch.randint(0, 256, (count, 3, 4, 4), dtype=torch.uint8, generator=random)
    pixels = coarse.repeat_interleave(8, 2).repeat_interleave(8, 3)
    mask = torch.ones_like(tags) if tags is not None else None
    return Batch(
        pixels=pixels,
        caption_ids=ids,
        pair_ids=numbers(range(count), range(count)),
        tag_ids=tags,
        tag_mask=mask,
    )  # fmt: skip


def numbers(photos: range | list[int], texts: range | list[int]) -> Tensor:
    return torch.tensor([list(photos), list(texts)]).T


def losses_of(model: Aligner, momentum: Momentum, given: Batch, **more: float) -> dict[str, Tensor]:
    return alignment_losses(model.head, model(given), momentum, given, **more)


def alone(head: AlignmentHead, ids: Tensor, seen: Tensor) -> Tensor:
    """Pairs of each text and its photo."""
    return head.match(ids, head.project_kv(seen))


def test_vectors_are_of_length_one(model: Aligner) -> None:
    read = model(batch(3))
    for vectors in (read.photos, read.texts):
        assert vectors.shape == (3, ALIGNMENT.space)
        torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(3))


def test_padding_of_a_text_changes_nothing(model: Aligner) -> None:
    ids, seen = batch(2).require("caption_ids"), model(batch(2)).memory
    padded = torch.cat([ids, torch.zeros(2, 3, dtype=torch.long)], 1)
    torch.testing.assert_close(model.head.embed_texts(padded), model.head.embed_texts(ids))
    torch.testing.assert_close(alone(model.head, padded, seen), alone(model.head, ids, seen))


def test_tags_guide_both_heads(model: Aligner) -> None:
    guided, unguided = model(batch(2)), model(batch(2, guided=False))
    ids = batch(2).require("caption_ids")
    assert (guided.photos - unguided.photos).abs().max() > 1e-2
    assert guided.memory.shape[1] == unguided.memory.shape[1] + 4
    assert (
        alone(model.head, ids, guided.memory) - alone(model.head, ids, unguided.memory)
    ).abs().max() > 1e-3
    torch.testing.assert_close(guided.texts, unguided.texts)


def test_pairs_do_not_touch_each_other(model: Aligner) -> None:
    given = batch(3)
    seen, ids = model(given).memory, given.require("caption_ids")
    which = torch.tensor([2, 0, 2, 1])
    found = model.head.match(ids[[0, 0, 1, 2]], model.head.project_kv(seen), which)
    for place, (text, photo) in enumerate([(0, 2), (0, 0), (1, 2), (2, 1)]):
        slow = alone(model.head, ids[text : text + 1], seen[photo : photo + 1])
        torch.testing.assert_close(found[place : place + 1], slow)


def test_heads_need_a_caption_head_of_their_width() -> None:
    fits = TINY_FAMILIES["tag2text with alignment"]
    for wrong in (replace(fits, captions=None), replace(fits, alignment=replace(ALIGNMENT, width=8))):
        with pytest.raises(ModelError, match="same width and words"):
            TagNetwork(wrong)
    with pytest.raises(ModelError, match="no alignment heads"):
        Aligner(family_network("tag2text"))


def test_the_copy_follows_slowly(model: Aligner) -> None:
    momentum = Momentum(model, length=4, decay=0.75)
    before = copy.deepcopy(dict(momentum.copy.named_parameters()))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    momentum.update(model)
    for name, parameter in momentum.copy.named_parameters():
        torch.testing.assert_close(parameter, before[name] + 0.25)
        assert not parameter.requires_grad
    assert not momentum.train().copy.training


def some(values: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    vectors = torch.tensor(values, dtype=torch.float32)[:, None].expand(-1, ALIGNMENT.space)
    return vectors, -vectors, numbers(values, values)


def test_the_queue_forgets_the_oldest(model: Aligner) -> None:
    momentum = Momentum(model, length=5)
    momentum.enqueue(*some([1, 2, 3]))
    assert momentum.pair_ids[:, 0].tolist() == [1, 2, 3, -1, -1]
    momentum.enqueue(*some([4, 5, 6]))
    assert momentum.pair_ids[:, 1].tolist() == [6, 2, 3, 4, 5]
    assert momentum.photos[:, 0].tolist() == [6, 2, 3, 4, 5]
    assert momentum.texts[:, 0].tolist() == [-6, -2, -3, -4, -5]


def test_hard_negatives_are_others_and_mostly_the_likely_ones() -> None:
    torch.manual_seed(0)
    alike = torch.tensor([[9.0, 3.0, 0.0], [0.0, 9.0, 0.0], [0.0, 3.0, 9.0]]).repeat(400, 1)
    other = ~torch.eye(3, dtype=torch.bool).repeat(400, 1)
    drawn = hard_negatives(alike, other)
    assert other.gather(1, drawn[:, None]).all()
    share = (drawn[::3] == 1).float().mean().item()
    assert share == pytest.approx(20.1 / 21.1, abs=0.04)  # e³ : 1


def test_equal_texts_share_a_number() -> None:
    one, two, three = text_numbers(["a dog", "a cat", "a dog"])
    assert one == three != two
    assert min(one, two) >= 0
    assert max(one, two) < 2**63


def test_a_batch_without_negatives_is_learned_from_too(model: Aligner) -> None:
    for given in (batch(1), batch(3)):
        given.require("pair_ids")[:, 1] = 7
        losses = losses_of(model, Momentum(model, length=4), given)
        assert all(value.isfinite() for value in losses.values())


def test_contrast_is_the_cross_entropy_of_what_belongs_together(model: Aligner) -> None:
    """Photos to texts and texts to photos, in loops: with a queue that is half full, a photo that was there
    with another caption, a caption that two photos share, and a slow copy with an opinion of its own.
    """
    momentum, given = Momentum(model, length=6), batch(3)
    with torch.no_grad():
        for parameter in momentum.copy.parameters():
            parameter.mul_(1.1)
    before = momentum.copy(batch(2))
    momentum.enqueue(before.photos, before.texts, numbers([1, 9], [50, 2]))
    found = losses_of(model, momentum, given, alpha=0.3)["contrast"]
    read, slow, scale = model(given), momentum.copy(given), model.head.scale
    theirs = [(0, 0), (1, 1), (2, 2), (1, 50), (9, 2)]
    total = torch.tensor(0.0)
    for asks, opinions, answers in (
        (read.photos, slow.photos, torch.cat([slow.texts, before.texts])),
        (read.texts, slow.texts, torch.cat([slow.photos, before.photos])),
    ):
        for n in range(3):
            same = torch.tensor([float(n in pair) for pair in theirs])  # photo n, and text n
            wanted = 0.7 * same / same.sum() + 0.3 * (scale * answers @ opinions[n]).softmax(0)
            total -= (wanted * (scale * answers @ asks[n]).log_softmax(0)).sum()
    torch.testing.assert_close(found, total / 6)
    assert momentum.pair_ids[:, 0].tolist() == [1, 9, 0, 1, 2, -1]


def test_match_asks_each_pair_and_two_that_are_hard(model: Aligner) -> None:
    """Two photos: the hard negatives are each other."""
    given = batch(2)
    found = losses_of(model, Momentum(model, length=4), given)["match"]
    seen, ids = model(given).memory, given.require("caption_ids")
    total = 0.0
    for text, photo, times in ((0, 0, 1), (1, 1, 1), (0, 1, 2), (1, 0, 2)):
        p = alone(model.head, ids[text : text + 1], seen[photo : photo + 1]).sigmoid().item()
        total -= times * torch.tensor(p if text == photo else 1 - p).log().item()
    assert found.item() == pytest.approx(total / 6, rel=1e-4)


def test_it_learns_who_belongs_together(model: Aligner) -> None:
    torch.manual_seed(0)
    given, momentum = batch(4), Momentum(model, length=8, decay=0.9)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        losses = losses_of(model, momentum, given)
        optimizer.zero_grad()
        torch.autograd.backward(losses["contrast"] + losses["match"])
        optimizer.step()
        momentum.update(model)
    with torch.no_grad():
        read = model(given)
        assert (read.photos @ read.texts.T).argmax(1).tolist() == [0, 1, 2, 3]
        fits = torch.stack(
            [alone(model.head, given.require("caption_ids"), read.memory.roll(-n, 0)) for n in range(4)]
        )
    assert fits.argmax(0).tolist() == [0, 0, 0, 0]
