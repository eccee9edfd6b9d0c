"""`anytag.training.alignment` and `anytag.nn.alignment`: who fits whom."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from anytag.nn.alignment import AlignmentHead
from anytag.nn.families import AlignmentConfig
from anytag.training.alignment import (
    Aligner,
    AlignmentBatch,
    Momentum,
    Read,
    alignment_losses,
    hard_negatives,
)
from tests.families import CAPTIONS, enliven, family_network

CONFIG = AlignmentConfig(words=30, layers=2, heads=2, width=16, mlp=24, space=6, positions=12)


@pytest.fixture
def model() -> Aligner:
    network = family_network("tag2text")
    head = AlignmentHead(CONFIG, network.config.width).eval()
    enliven(head)
    torch.nn.init.constant_(head.sharpness, 1.0)
    return Aligner(network.encoder, head, network.captions).requires_grad_(True)


def batch(count: int, *, guided: bool = True) -> AlignmentBatch:
    random = torch.Generator().manual_seed(count)
    ids = torch.randint(1, CAPTIONS.words, (count, 5), generator=random)
    tags = torch.randint(1, CAPTIONS.words, (count, 4), generator=random) if guided else None
    pixels = torch.randn(count, 3, 4, 4, generator=random).repeat_interleave(8, 2).repeat_interleave(8, 3)
    return AlignmentBatch(
        pixels, ids, torch.arange(count), tags, torch.ones_like(tags) if tags is not None else None
    )


def test_vectors_are_of_length_one(model: Aligner) -> None:
    read = model(batch(3))
    for vectors in (read.photos, read.texts):
        assert vectors.shape == (3, CONFIG.space)
        torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(3))


def test_padding_of_a_text_changes_nothing(model: Aligner) -> None:
    ids, seen = batch(2).text_ids, model(batch(2)).seen
    padded = torch.cat([ids, torch.zeros(2, 3, dtype=torch.long)], 1)
    torch.testing.assert_close(model.head.embed_texts(padded), model.head.embed_texts(ids))
    torch.testing.assert_close(model.head.match(padded, seen), model.head.match(ids, seen))


def test_tags_guide_both_heads(model: Aligner) -> None:
    guided, alone = model(batch(2)), model(batch(2, guided=False))
    ids = batch(2).text_ids
    assert (guided.photos - alone.photos).abs().max() > 1e-2
    assert guided.seen.shape[1] == alone.seen.shape[1] + 4
    assert (model.head.match(ids, guided.seen) - model.head.match(ids, alone.seen)).abs().max() > 1e-3
    torch.testing.assert_close(guided.texts, alone.texts)


def test_pairs_do_not_touch_each_other(model: Aligner) -> None:
    given = batch(3)
    seen = model(given).seen
    whole = model.head.match(given.text_ids, seen)
    torch.testing.assert_close(model.head.match(given.text_ids[1:2], seen[1:2]), whole[1:2])


def test_the_copy_follows_slowly(model: Aligner) -> None:
    momentum = Momentum(model, length=4, decay=0.75)
    before = copy.deepcopy(dict(momentum.copy.named_parameters()))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    momentum.follow(model)
    for name, parameter in momentum.copy.named_parameters():
        torch.testing.assert_close(parameter, before[name] + 0.25)
        assert not parameter.requires_grad


def some_read(values: list[int]) -> tuple[Read, Tensor]:
    vectors = torch.tensor(values, dtype=torch.float32)[:, None].expand(-1, CONFIG.space)
    return Read(vectors, -vectors, torch.empty(0)), torch.tensor(values)


def test_the_queue_forgets_the_oldest(model: Aligner) -> None:
    momentum = Momentum(model, length=5)
    momentum.remember(*some_read([1, 2, 3]))
    assert momentum.whose.tolist() == [1, 2, 3, -1, -1]
    momentum.remember(*some_read([4, 5, 6]))
    assert momentum.whose.tolist() == [6, 2, 3, 4, 5]
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
    assert hard_negatives(alike[:0], other[:0]).shape == (0,)


def test_a_batch_without_negatives_is_learned_from_too(model: Aligner) -> None:
    for given in (batch(1), batch(3)):
        given.whose[:] = 7
        losses = alignment_losses(model, Momentum(model, length=4), given)
        assert all(value.isfinite() for value in losses.values())


def test_contrast_is_the_cross_entropy_of_what_belongs_together(model: Aligner) -> None:
    """With no trust and an empty queue: photos to texts and texts to photos, in loops."""
    given = batch(3)
    loss = alignment_losses(model, Momentum(model, length=4), given, trust=0.0)["contrast"]
    read, scale = model(given), model.head.sharpness.exp()
    logits = scale * read.photos @ read.texts.T
    pairs = range(3)
    slow = sum(-logits.log_softmax(1)[n, n] - logits.T.log_softmax(1)[n, n] for n in pairs) / 6
    torch.testing.assert_close(loss, slow)


def test_it_learns_who_belongs_together(model: Aligner) -> None:
    torch.manual_seed(0)
    given, momentum = batch(4), Momentum(model, length=8, decay=0.9)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        losses = alignment_losses(model, momentum, given)
        optimizer.zero_grad()
        torch.autograd.backward(losses["contrast"] + losses["match"])
        optimizer.step()
        momentum.follow(model)
    with torch.no_grad():
        read = model(given)
        assert (read.photos @ read.texts.T).argmax(1).tolist() == [0, 1, 2, 3]
        fits = torch.stack([model.head.match(given.text_ids, read.seen.roll(-n, 0)) for n in range(4)])
    assert fits.argmax(0).tolist() == [0, 0, 0, 0]
