"""A pseudo-random permutation of any size that is computed on access and never stored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from anytag._typing import Ints

_Words = npt.NDArray[np.uint64]

_ROUNDS = 8


def shuffled(positions: Ints, count: int, *, seed: Sequence[int]) -> Ints:
    """Values of a pseudo-random permutation of [0, count) at some positions.

    A Feistel network permutes the next power of four; values outside the range are permuted again (cycle
    walking). Time and memory depend on the number of positions, not on `count`.

    Args:
        positions: int64, in [0, count).
        seed: seed of the permutation.

    Returns:
        int64 of the same shape, in [0, count); distinct positions have distinct values.
    """
    half = np.uint64(max(1, ((count - 1).bit_length() + 1) // 2))
    keys = np.random.default_rng(list(seed)).integers(0, 2**64, _ROUNDS, dtype=np.uint64)
    found = _walk(positions.astype(np.uint64).ravel(), keys, half)
    while (outside := found >= count).any():
        found[outside] = _walk(found[outside], keys, half)
    return found.astype(np.int64).reshape(positions.shape)


def _walk(numbers: _Words, keys: _Words, half: np.uint64) -> _Words:
    """All rounds of the Feistel network: a permutation of the integers with 2·half bits."""
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = numbers >> half, numbers & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right ^ key) & mask)
    return (left << half) | right


def _mixed(numbers: _Words) -> _Words:
    """The finalizer of SplitMix64: every bit of the result depends on all bits of the number."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
