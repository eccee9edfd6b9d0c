"""Exact products of all photo embeddings with a few columns, in blocks in the order of the file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from anytag._typing import Floats, Ints
from anytag.records import Records

_BLOCK = 4096  # embeddings per block: 8 MB at 512 dimensions


def blocks(vectors: Records, slots: Ints) -> Iterator[tuple[Ints, Floats]]:
    """Read the embeddings of N photos in blocks, in the order of the file.

    Args:
        vectors: S×E.
        slots: int N, the row of each photo's embedding; outside [0, S) if it has none.

    Yields:
        int64 n, indices into the N photos, and float32 n×E, their embeddings.
    """
    seen = np.flatnonzero((slots >= 0) & (slots < len(vectors)))
    order = seen[np.argsort(slots[seen], kind="stable")]
    for start in range(0, len(order), _BLOCK):
        part = order[start : start + _BLOCK]
        yield part, _rows_at(vectors, slots[part])


def products(vectors: Records, slots: Ints, columns: Sequence[Floats]) -> Floats:
    """Affine functions of the embeddings of N photos: float32 N×C, NaN for photos without an embedding.

    Args:
        vectors, slots: as for `blocks`.
        columns: C arrays, float32 E+1 each: weights and bias.

    Raises:
        AnytagError: the embeddings cannot be read.
    """
    found = np.full((len(slots), len(columns)), np.nan, np.float32)
    if len(columns):
        stacked = np.stack(columns)
        with np.errstate(invalid="ignore", over="ignore"):
            for part, some in blocks(vectors, slots):
                found[part] = at_once(some, stacked)
    return found


def at_once(vectors: Floats, columns: Floats) -> Floats:
    """Affine functions of n embeddings in memory: float32 n×C, from float32 n×E and C×(E+1)."""
    return np.asarray(vectors @ np.ascontiguousarray(columns[:, :-1].T) + columns[:, -1])


def cosines(vectors: Records, slots: Ints, vector: Floats) -> Floats:
    """Cosine similarities of N photos to one embedding, in [-1, 1]: float32 N, NaN as for `products`."""
    found = np.full(len(slots), np.nan, np.float32)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        unit = vector / np.linalg.norm(vector)
        for part, some in blocks(vectors, slots):
            found[part] = some @ unit / np.sqrt(np.einsum("ne,ne->n", some, some))
    return found


def _rows_at(vectors: Records, slots: Ints) -> Floats:
    """Rows by ascending index; contiguous rows are a view."""
    first, last = int(slots[0]), int(slots[-1]) + 1
    found: Floats = vectors[first:last] if last - first == len(slots) else vectors[slots]
    return found
