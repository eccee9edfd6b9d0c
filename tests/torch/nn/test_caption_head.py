"""`anytag.torch.nn.caption_head`: the KV cache does not change results."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from anytag.torch.nn.bert_layers import Attention, CrossLayer
from anytag.torch.nn.caption_head import CaptionHead
from tests.families import CAPTIONS, enliven

TOKEN_WIDTH = 8


@pytest.fixture(scope="module")
def head() -> CaptionHead:
    torch.manual_seed(0)
    made = CaptionHead(CAPTIONS, TOKEN_WIDTH).eval().requires_grad_(False)
    enliven(made)
    return made


def random_ids(count: int, length: int, *, seed: int = 0) -> Tensor:
    return torch.randint(1, CAPTIONS.words, (count, length), generator=torch.Generator().manual_seed(seed))


def frozen(head: CaptionHead, count: int) -> Tensor:
    random = torch.Generator().manual_seed(count)
    return head.project_kv(torch.randn(count, 6, CAPTIONS.width, generator=random))


def close(given: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(1, 4), min_size=1, max_size=6), count=st.integers(1, 3))
def test_a_text_in_parts_is_the_text(head: CaptionHead, cuts: list[int], count: int) -> None:
    ids, memory = random_ids(count, sum(cuts)), frozen(head, count)
    whole, whole_past = head.decode(ids, memory)
    past, parts = None, []
    for part in ids.split(cuts, dim=1):  # type: ignore[no-untyped-call]
        logits, past = head.decode(part, memory, past)
        parts.append(logits)
    close(torch.cat(parts, 1), whole)
    assert past is not None
    close(past, whole_past)


def test_later_words_do_not_touch_earlier_ones(head: CaptionHead) -> None:
    ids, memory = random_ids(2, 7), frozen(head, 2)
    whole, _ = head.decode(ids, memory)
    changed = ids.clone()
    changed[:, 4:] = 1
    close(head.decode(changed, memory)[0][:, :4], whole[:, :4])
    assert (head.decode(changed, memory)[0][:, 4:] - whole[:, 4:]).abs().max() > 1e-2


def test_texts_do_not_touch_each_other(head: CaptionHead) -> None:
    ids, memory = random_ids(3, 5), frozen(head, 3)
    whole, past = head.decode(ids, memory)
    order = torch.tensor([2, 0, 0])
    close(head.decode(ids[order], memory[:, :, order])[0], whole[order])
    following = random_ids(3, 1, seed=1)
    expected = head.decode(torch.cat([ids, following], 1)[order], memory[:, :, order])[0][:, -1:]
    close(head.decode(following[order], memory[:, :, order], past[:, :, order])[0], expected)


def test_padding_after_a_text_changes_nothing_before_it(head: CaptionHead) -> None:
    ids, memory = random_ids(1, 5), frozen(head, 1)
    padded = torch.cat([ids, torch.zeros(1, 3, dtype=torch.long)], 1)
    close(head.decode(padded, memory, mask=padded != 0)[0][:, :5], head.decode(ids, memory)[0])


def test_masked_words_are_not_seen(head: CaptionHead) -> None:
    ids, memory = random_ids(1, 6), frozen(head, 1)
    mask = torch.tensor([[1, 0, 1, 1, 1, 1]])
    other = ids.clone()
    other[0, 1] = (ids[0, 1] + 1) % CAPTIONS.words
    kept = [0, 2, 3, 4, 5]
    close(head.decode(other, memory, mask=mask)[0][:, kept], head.decode(ids, memory, mask=mask)[0][:, kept])


def test_tags_are_read_in_the_light_of_the_photo(head: CaptionHead) -> None:
    ids = random_ids(2, 6)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
    photos = torch.randn(2, 5, TOKEN_WIDTH, generator=torch.Generator().manual_seed(0))
    encoded = head.encode_tags(ids, mask, photos)
    assert encoded.shape == (2, 6, CAPTIONS.width)
    assert (head.encode_tags(ids, mask, photos.flip(0)) - encoded).abs().max() > 1e-2
    other = ids.clone()
    other[0, 4:] = 1  # masked
    close(head.encode_tags(other, mask, photos)[:, :4], encoded[:, :4])
    close(head.encode_tags(ids[1:], mask[1:], photos[1:]), encoded[1:])


def test_shared_layers_are_trained_by_both() -> None:
    torch.manual_seed(0)
    shared = CrossLayer(CAPTIONS.width, TOKEN_WIDTH, CAPTIONS.mlp)
    head = CaptionHead(CAPTIONS, TOKEN_WIDTH, shared=[shared])
    photos = torch.randn(1, 5, TOKEN_WIDTH)
    ids = random_ids(1, 3)
    torch.autograd.backward(head.encode_tags(ids, torch.ones_like(ids), photos).square().sum())
    assert all(parameter.grad is not None for parameter in shared.parameters())


def test_heads_are_the_callers() -> None:
    """The same weights are run with 2 and with 4 heads, and are correct in both."""
    torch.manual_seed(0)
    attention = Attention(8, 6).eval()
    x, tokens = torch.randn(1, 3, 8), torch.randn(1, 4, 6)
    for heads in (2, 4):
        width = 8 // heads
        found = torch.zeros(1, 3, 8)
        q, k, v = attention.query(x), attention.key(tokens), attention.value(tokens)
        for head in range(heads):
            mine = slice(head * width, (head + 1) * width)
            weights = (q[..., mine] @ k[..., mine].transpose(1, 2) / width**0.5).softmax(-1)
            found[..., mine] = weights @ v[..., mine]
        expected = attention.norm(x + attention.dense(found))
        close(attention(x, attention.project_kv(tokens, heads=heads)), expected)
