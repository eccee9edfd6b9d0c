"""What every runtime of a model folder must do, whatever runs it: use as

    @pytest.mark.parametrize("check", CHECKS)
    def test_contract(check, runtime, folder): check(runtime, folder)

`check_score_is_the_formula` besides, for folders whose decoder is the formula with a known alpha and bias.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file

from anytag._typing import Floats
from anytag.errors import ModelError
from anytag.models.folder import ModelFolder
from anytag.runtime.base import Runtime


def some_pixels(folder: ModelFolder, count: int, *, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Coarse random pictures, N×3×S×S."""
    size = folder.card.image.size
    small = np.random.default_rng(seed).integers(0, 256, (count, 3, 4, 4), dtype=np.uint8)
    return small.repeat(-(-size // 4), axis=2).repeat(-(-size // 4), axis=3)[:, :, :size, :size].copy()


def folder_queries(folder: ModelFolder) -> Floats:
    """The trained queries, 1×K×P×D."""
    stored = load_file(folder.file("queries.safetensors"))
    return (stored["rows"] * stored["scale"].astype(np.float32)[..., None])[None]


def random_queries(folder: ModelFolder, shape: tuple[int, int, int], *, seed: int = 0) -> Floats:
    """Q×K×P×D for a shape of (Q, K, P)."""
    drawn = np.random.default_rng(seed).normal(0, 0.5, (*shape, folder.card.width))
    return drawn.astype(np.float32)


def reference_logits(tokens: Floats, pooled: Floats, queries: Floats, *, alpha: float, bias: float) -> Floats:
    """The decoder as slow, obvious loops in double precision; shapes as in `Runtime.score`."""
    logits = np.zeros((len(tokens), queries.shape[1]))
    for n in range(len(tokens)):
        c = pooled[n].astype(np.float64)
        c = c / math.sqrt(sum(x * x for x in c))
        rows_of = queries[n if len(queries) > 1 else 0].astype(np.float64)
        for k, rows in enumerate(rows_of):
            real = [row for row in rows if any(row != 0)]
            q = np.zeros(len(c))
            for share, row in zip(_softmax([alpha * float(c @ row) for row in real]), real, strict=True):
                q += share * row
            o = np.zeros(len(c))
            looks = _softmax([float(q @ token) / math.sqrt(len(c)) for token in tokens[n]])
            for share, token in zip(looks, tokens[n], strict=True):
                o += share * token
            logits[n, k] = float(o @ q) + bias
    return logits.astype(np.float32)


def _softmax(scores: list[float]) -> list[float]:
    powers = [math.exp(score - max(scores)) for score in scores]
    return [power / sum(powers) for power in powers]


def same(given: Floats, expected: Floats) -> None:
    np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-5)


def check_encode_gives_tokens(runtime: Runtime, folder: ModelFolder) -> None:
    for count in (1, 3):
        tokens, pooled = runtime.encode(some_pixels(folder, count))
        assert tokens.dtype == pooled.dtype == np.float32
        assert tokens.ndim == 3
        assert (len(tokens), tokens.shape[2]) == pooled.shape == (count, folder.card.width)
        assert np.isfinite(tokens).all()
        assert np.isfinite(pooled).all()


def check_photos_do_not_touch_each_other(runtime: Runtime, folder: ModelFolder) -> None:
    pixels, queries = some_pixels(folder, 5), folder_queries(folder)
    tokens, pooled = runtime.encode(pixels)
    whole = runtime.score(tokens, pooled, queries)
    assert whole.dtype == np.float32
    assert whole.shape == (5, queries.shape[1])
    assert np.ptp(whole, axis=0).max() > 1e-3, "the pictures differ, so must their logits"
    for part in (slice(0, 1), slice(1, 3), slice(3, 5)):
        part_tokens, part_pooled = runtime.encode(pixels[part])
        same(part_tokens, tokens[part])
        same(part_pooled, pooled[part])
        same(runtime.score(part_tokens, part_pooled, queries), whole[part])


def check_tags_do_not_touch_each_other(runtime: Runtime, folder: ModelFolder) -> None:
    encoded, queries = runtime.encode(some_pixels(folder, 2)), folder_queries(folder)
    whole = runtime.score(*encoded, queries)
    order = np.random.default_rng(0).permutation(queries.shape[1])
    same(runtime.score(*encoded, queries[:, order]), whole[:, order])
    for kept in (order[:1], order[: len(order) // 2 + 1]):
        same(runtime.score(*encoded, queries[:, kept]), whole[:, kept])


def check_descriptions_have_no_order(runtime: Runtime, folder: ModelFolder) -> None:
    encoded, queries = runtime.encode(some_pixels(folder, 2)), folder_queries(folder)
    same(runtime.score(*encoded, queries[:, :, ::-1]), runtime.score(*encoded, queries))


def check_padding_changes_nothing(runtime: Runtime, folder: ModelFolder) -> None:
    encoded, queries = runtime.encode(some_pixels(folder, 2)), random_queries(folder, (1, 4, 3))
    whole = runtime.score(*encoded, queries)
    padding = np.zeros_like(queries[:, :, :2])
    same(runtime.score(*encoded, np.concatenate([queries, padding], axis=2)), whole)
    same(runtime.score(*encoded, np.concatenate([padding, queries], axis=2)), whole)


def check_a_tag_of_padding_alone_is_finite(runtime: Runtime, folder: ModelFolder) -> None:
    encoded, queries = runtime.encode(some_pixels(folder, 2)), random_queries(folder, (1, 4, 3))
    whole = runtime.score(*encoded, queries)
    queries[:, 2] = 0
    logits = runtime.score(*encoded, queries)
    assert np.isfinite(logits).all()
    same(np.delete(logits, 2, axis=1), np.delete(whole, 2, axis=1))


def check_queries_may_be_each_photos_own(runtime: Runtime, folder: ModelFolder) -> None:
    tokens, pooled = runtime.encode(some_pixels(folder, 3))
    own = random_queries(folder, (3, 5, 2))
    logits = runtime.score(tokens, pooled, own)
    for n in range(3):
        same(runtime.score(tokens[n : n + 1], pooled[n : n + 1], own[n : n + 1]), logits[n : n + 1])
    shared = own[:1]
    same(runtime.score(tokens, pooled, np.repeat(shared, 3, axis=0)), runtime.score(tokens, pooled, shared))


def check_no_tags_no_logits(runtime: Runtime, folder: ModelFolder) -> None:
    encoded = runtime.encode(some_pixels(folder, 2))
    nothing = random_queries(folder, (1, 0, 2))
    assert runtime.score(*encoded, nothing).shape == (2, 0)
    assert runtime.locate(*encoded, nothing).shape == (2, 0, encoded[0].shape[1])


def check_locate_tells_of_every_token(runtime: Runtime, folder: ModelFolder) -> None:
    tokens, pooled = runtime.encode(some_pixels(folder, 3))
    queries = random_queries(folder, (1, 4, 2))
    where = runtime.locate(tokens, pooled, queries)
    assert where.dtype == np.float32
    assert where.shape == (3, 4, tokens.shape[1])
    assert np.isfinite(where).all()
    same(runtime.locate(tokens[1:2], pooled[1:2], queries[:, 2:]), where[1:2, 2:])


def check_a_head_is_there_or_an_error_says_so(runtime: Runtime, folder: ModelFolder) -> None:
    for head in (runtime.captions, runtime.matcher):
        try:
            found: Any = head()
        except ModelError as error:
            assert "lacks `network`" in str(error) or "head" in str(error)
        else:
            assert found is not None


def check_arrays_need_not_be_contiguous_and_stay_as_they_were(runtime: Runtime, folder: ModelFolder) -> None:
    pixels = some_pixels(folder, 4)
    tokens, pooled = runtime.encode(pixels)
    queries = random_queries(folder, (1, 6, 2))
    before = pixels.copy(), tokens.copy(), pooled.copy(), queries.copy()
    strided_tokens, strided_pooled = runtime.encode(pixels[::2])
    same(strided_tokens, tokens[::2])
    same(strided_pooled, pooled[::2])
    logits = runtime.score(tokens[::2], pooled[::2], queries[:, ::-1])
    same(logits, runtime.score(tokens, pooled, queries)[::2, ::-1])
    for now, then in zip((pixels, tokens, pooled, queries), before, strict=True):
        np.testing.assert_array_equal(now, then)


def check_wrong_arrays_are_named(runtime: Runtime, folder: ModelFolder) -> None:
    pixels = some_pixels(folder, 2)
    wrong: Any
    for wrong in (pixels[0], pixels[:0], pixels[:, :, :-1], pixels[:, :1], pixels.astype(np.float32)):
        with pytest.raises(ModelError, match=r"pixels: expected uint8 N×3×"):
            runtime.encode(wrong)
    tokens, pooled = runtime.encode(pixels)
    queries = random_queries(folder, (1, 2, 3))
    for wrong in (tokens[0], tokens[..., :-1], tokens[:, :0], tokens.astype(np.float64)):
        for ask in (runtime.score, runtime.locate):
            with pytest.raises(ModelError, match="tokens: expected"):
                ask(wrong, pooled, queries)
    for wrong in (pooled[:1], pooled[..., :-1], pooled.astype(np.float64)):
        with pytest.raises(ModelError, match="pooled: expected"):
            runtime.score(tokens, wrong, queries)
    three = random_queries(folder, (3, 2, 3))
    for wrong in (three, queries[0], queries[:, :, :0], queries[..., :-1], queries.astype(np.float64)):
        with pytest.raises(ModelError, match="queries: expected"):
            runtime.score(tokens, pooled, wrong)


CHECKS: tuple[Callable[[Runtime, ModelFolder], None], ...] = (
    check_encode_gives_tokens,
    check_photos_do_not_touch_each_other,
    check_tags_do_not_touch_each_other,
    check_descriptions_have_no_order,
    check_padding_changes_nothing,
    check_a_tag_of_padding_alone_is_finite,
    check_queries_may_be_each_photos_own,
    check_no_tags_no_logits,
    check_locate_tells_of_every_token,
    check_a_head_is_there_or_an_error_says_so,
    check_arrays_need_not_be_contiguous_and_stay_as_they_were,
    check_wrong_arrays_are_named,
)


def check_score_is_the_formula(
    runtime: Runtime,
    folder: ModelFolder,
    *,
    alpha: float,
    bias: float,
    shape: tuple[int, int, int],
    own: bool,
) -> None:
    """Compare with `reference_logits` for a shape of (N, K, P); `own` gives each photo its own queries."""
    count, tags, rows = shape
    tokens, pooled = runtime.encode(some_pixels(folder, count, seed=count))
    queries = random_queries(folder, (count if own else 1, tags, rows), seed=rows)
    later = queries[:, :, 1:]  # a view
    later[np.random.default_rng(tags).random(later.shape[:3]) < 0.3] = 0  # padding anywhere
    expected = reference_logits(tokens, pooled, queries, alpha=alpha, bias=bias)
    same(runtime.score(tokens, pooled, queries), expected)
