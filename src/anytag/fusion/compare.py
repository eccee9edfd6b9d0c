"""Vectors of photos against a few columns: every one, exactly, in blocks as they lie on the disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from anytag._typing import Floats, Ints
from anytag.records import Records

_BLOCK = 4096  # vectors at once: 8 MB of 512 floats


def blocks(vectors: Records, slots: Ints) -> Iterator[tuple[Ints, Floats]]:
    """The vectors of N photos in the order in which they lie, some at a time.

    Args:
        vectors: S×E.
        slots: N, where a photo's vector lies; below 0 or from S on where there is none.

    Yields:
        int64 n and float32 n×E: which of the N photos, each once, and their vectors.
    """
    seen = np.flatnonzero((slots >= 0) & (slots < len(vectors)))
    order = seen[np.argsort(slots[seen], kind="stable")]
    for start in range(0, len(order), _BLOCK):
        part = order[start : start + _BLOCK]
        yield part, _at(vectors, slots[part])


def products(vectors: Records, slots: Ints, columns: Sequence[Floats]) -> Floats:
    """What N photos' vectors say: float32 N×C, NaN where there is no vector.

    Args:
        vectors, slots: as for `blocks`.
        columns: C of E+1 floats each, weights and bias.

    Raises:
        AnytagError: the vectors cannot be read.
    """
    found = np.full((len(slots), len(columns)), np.nan, np.float32)
    if len(columns):
        stacked = np.stack(columns)
        with np.errstate(invalid="ignore", over="ignore"):
            for part, some in blocks(vectors, slots):
                found[part] = at_once(some, stacked)
    return found


def at_once(vectors: Floats, columns: Floats) -> Floats:
    """The same of n vectors that are in memory: float32 n×C."""
    return np.asarray(vectors @ np.ascontiguousarray(columns[:, :-1].T) + columns[:, -1])


def cosines(vectors: Records, slots: Ints, vector: Floats) -> Floats:
    """How alike N photos are to one, in [-1, 1]: float32 N, NaN where there is no vector. As `products`."""
    found = np.full(len(slots), np.nan, np.float32)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        unit = vector / np.linalg.norm(vector)
        for part, some in blocks(vectors, slots):
            found[part] = some @ unit / np.sqrt(np.einsum("ne,ne->n", some, some))
    return found


def _at(vectors: Records, slots: Ints) -> Floats:
    """Rows by rising number; those of an array are not copied where they follow each other."""
    first, last = int(slots[0]), int(slots[-1]) + 1
    found: Floats = vectors[first:last] if last - first == len(slots) else vectors[slots]
    return found
