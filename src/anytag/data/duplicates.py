"""Find near-duplicate photos with a 256-bit difference hash."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from anytag._typing import Bools, Bytes, Ints
from anytag.images.likeness import HASH_BYTES

NEAR_BITS = 24
"""Maximum number of differing bits of near-duplicates: rescaled, recompressed or slightly cropped photos."""
_BLOCK = 500


def near(hashes: Bytes, originals: Bytes, *, bits: int = NEAR_BITS) -> Bools:
    """Whether each of `hashes` N×32 is within `bits` of one of `originals` M×32: N."""
    is_near = np.zeros(len(hashes), bool)
    for at, close in _close(hashes, originals, bits):
        is_near[at : at + len(close)] = close.any(1)
    return is_near


def groups(hashes: Bytes, *, bits: int = NEAR_BITS) -> Ints:
    """For each of `hashes` N×32 the index of the first near-duplicate, directly or transitively: N.

    Compares all pairs: 50,000 photos take a minute on one core.
    """
    first = np.arange(len(hashes))
    for at, close in _close(hashes, hashes, bits):
        for one, other in np.argwhere(close):
            _join(first, at + int(one), int(other))
    return np.array([_first(first, number) for number in range(len(first))], np.int64)


def _close(hashes: Bytes, originals: Bytes, bits: int) -> Iterator[tuple[int, Bools]]:
    """Yield the start of each block of `hashes`, and a mask of the `originals` near each of them: B×M."""
    if not len(originals):
        return
    signs, others = (np.unpackbits(one, axis=1).astype(np.float32) * 2 - 1 for one in (hashes, originals))
    # The dot product of 256 signs is 256 - 2·d if d of them differ.
    limit = 8 * HASH_BYTES - 2 * bits
    for at in range(0, len(signs), _BLOCK):
        yield at, signs[at : at + _BLOCK] @ others.T >= limit


def _first(first: Ints, number: int) -> int:
    while first[number] != number:
        first[number] = first[first[number]]
        number = int(first[number])
    return number


def _join(first: Ints, one: int, other: int) -> None:
    low, high = sorted((_first(first, one), _first(first, other)))
    first[high] = low
