"""A random order of any number of photos that is computed where it is looked at, and never stored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Indexes = npt.NDArray[np.int64]
_Words = npt.NDArray[np.uint64]

_ROUNDS = 8


def shuffled(positions: Indexes, count: int, *, seed: Sequence[int]) -> Indexes:
    """The photos at some positions of a random order of `count` photos: a pseudo-random permutation.

    A Feistel network over the next power of four; what falls outside is sent through it again
    (cycle walking). Time and memory follow from the positions asked, not from `count`.

    Args:
        positions: int64, in [0, count).
        seed: which order; the same numbers give the same.

    Returns:
        int64 of the same shape, in [0, count); all positions together give every number once.
    """
    half = np.uint64(max(1, ((count - 1).bit_length() + 1) // 2))
    keys = np.random.default_rng(list(seed)).integers(0, 2**64, _ROUNDS, dtype=np.uint64)
    found = _walk(positions.astype(np.uint64).ravel(), keys, half)
    while (outside := found >= count).any():
        found[outside] = _walk(found[outside], keys, half)
    return found.astype(np.int64).reshape(positions.shape)


def _walk(numbers: _Words, keys: _Words, half: np.uint64) -> _Words:
    """Through all rounds: a permutation of the numbers of 2·half bits."""
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = numbers >> half, numbers & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right ^ key) & mask)
    return (left << half) | right


def _mixed(numbers: _Words) -> _Words:
    """The last step of SplitMix64: every bit of the result depends on all of the number's."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
