"""Vectors of photos against a few columns: every one, exactly, from a mapped file in blocks."""

from __future__ import annotations

import numpy as np

from anytag._typing import Floats, Ints
from anytag.records import RecordFile

_BLOCK = 16_384  # vectors at once: 32 MB of 512 floats


def products(file: RecordFile, slots: Ints, columns: Floats) -> Floats:
    """What N photos' vectors say: float32 N×C, NaN where there is no vector.

    Args:
        file: of vectors, E floats each.
        slots: N, -1 where a photo has none.
        columns: C×(E+1), weights and bias.

    Raises:
        AnytagError: the file cannot be read.
    """
    found = np.full((len(slots), len(columns)), np.nan, np.float32)
    vectors = file.map()
    seen = np.flatnonzero((slots >= 0) & (slots < len(vectors)))
    if not len(columns):
        return found
    order = seen[np.argsort(slots[seen], kind="stable")]  # as they lie on the disk
    weights, bias = np.ascontiguousarray(columns[:, :-1].T), columns[:, -1]
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, len(order), _BLOCK):
            part = order[start : start + _BLOCK]
            found[part] = _at(vectors, slots[part]) @ weights + bias
    return found


def cosines(file: RecordFile, slots: Ints, vector: Floats) -> Floats:
    """How alike N photos are to one, in [-1, 1]: float32 N, NaN where there is no vector. As `products`."""
    found = np.full(len(slots), np.nan, np.float32)
    vectors = file.map()
    seen = np.flatnonzero((slots >= 0) & (slots < len(vectors)))
    order = seen[np.argsort(slots[seen], kind="stable")]
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        unit = vector / np.linalg.norm(vector)
        for start in range(0, len(order), _BLOCK):
            part = order[start : start + _BLOCK]
            some = _at(vectors, slots[part])
            found[part] = some @ unit / np.sqrt(np.einsum("ne,ne->n", some, some))
    return found


def _at(vectors: Floats, slots: Ints) -> Floats:
    """Rows of a mapped array by rising number; not copied where they follow each other."""
    first, last = int(slots[0]), int(slots[-1]) + 1
    return vectors[first:last] if last - first == len(slots) else vectors[slots]
