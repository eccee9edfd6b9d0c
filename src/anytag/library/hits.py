"""Build the results of a search from a ranking: skip missing files, fold near duplicates."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from anytag._typing import Bools, Floats, Ints
from anytag.data.duplicates import NEAR_BITS
from anytag.images.likeness import HASH_BYTES
from anytag.records import RecordFile
from anytag.scoring import sigmoid

if TYPE_CHECKING:
    from anytag.library.library import Library
    from anytag.library.photo import Photo


SAME_COSINE = 0.92
"""Minimum cosine similarity of near duplicates; 3 % of 5,000 diverse photos have one."""
_MIN_BITS = NEAR_BITS  # minimum of set and of unset bits of a usable hash: plain surfaces hash alike
_NEIGHBOURS = 256  # preceding results that are compared: near duplicates have similar scores
BATCH = 64
"""Photos read from the database at a time."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A search result.

    Attributes:
        photo: of the library.
        score: the probability that the text fits, or the cosine similarity.
        copies: paths of near duplicates with no better score, which are not listed themselves.
    """

    photo: Photo
    score: float
    copies: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As a dict for JSON: the row of `anytag search --format jsonl`."""
        copies, tags = list(self.copies), list(self.photo.tags)
        return {"path": self.photo.path, "score": self.score, "copies": copies, "tags": tags}


@dataclass(frozen=True, slots=True)
class Found:
    """The results of a search.

    Attributes:
        hits: photos that fit, best first; empty if none fits.
        nearest: the best photos if none fits.
        photos: number of searched photos.
        unseen: number of these without an embedding of this model, which match by words only; unreadable
            photos do not count.
    """

    hits: tuple[Hit, ...]
    nearest: tuple[Hit, ...]
    photos: int
    unseen: int

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)


@dataclass(frozen=True, eq=False)
class Rows:
    """N candidate photos: their ids, ascending, and their slots, negative without an embedding."""

    ids: Ints
    slots: Ints

    def places(self, ids: Sequence[int] | Ints) -> Ints:
        """Indices of those of `ids` that are among the candidates."""
        wanted = np.asarray(ids, np.int64)
        places = np.searchsorted(self.ids, wanted)
        there = places < len(self.ids)
        there[there] = self.ids[places[there]] == wanted[there]
        return places[there]


class HitBuilder:
    """Builds results from a ranking of a library's photos.

    Args:
        library: the database.
        vectors: its vector file.
        fold: whether to fold near duplicates.
    """

    def __init__(self, library: Library, vectors: RecordFile, *, fold: bool) -> None:
        self._library, self._vectors, self._fold = library, vectors, fold

    def top(
        self, rows: Rows, order: Ints, shown: Floats, *, top_k: int | None, likeness: bool
    ) -> tuple[Hit, ...]:
        """The first `top_k` existing photos of a ranking, with near duplicates folded into the best."""
        hits: list[Hit] = []
        copies = _Copies(self._vectors.shape[0])
        for place, photo, unit, bits in self._existing(rows, order):
            number = copies.find(unit, bits) if self._fold else None
            if number is not None:
                one = hits[number]
                hits[number] = Hit(one.photo, one.score, (*one.copies, photo.path))
                continue
            if top_k is not None and len(hits) == top_k:
                break
            copies.add(unit, bits)
            hits.append(Hit(photo, _score(float(shown[place]), likeness=likeness)))
        return tuple(hits)

    def _existing(self, rows: Rows, order: Ints) -> Iterator[tuple[int, Photo, Floats, Bools]]:
        """Index, photo, unit vector and hash of the photos whose files exist, in order."""
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            photos = {photo.id: photo for photo in self._library.get(rows.ids[part].tolist())}
            hashes = self._hashes(rows.ids[part].tolist())
            for place, unit in zip(part.tolist(), _units(self._vectors, rows.slots[part]), strict=True):
                photo, slot = photos.get(int(rows.ids[place])), rows.slots[place]
                if photo is None or photo.state == "gone" or not os.path.lexists(photo.path):
                    continue
                if (
                    slot < 0 or slot == photo.slot
                ):  # else it changed meanwhile: the vector may be another photo's
                    yield place, photo, unit, hashes.get(photo.id, _NO_HASH)

    def _hashes(self, ids: Sequence[int]) -> dict[int, Bools]:
        query = f"SELECT id, hash FROM photos WHERE hash IS NOT NULL AND id IN ({', '.join('?' * len(ids))})"
        return {one: bits_of(found) for one, found in self._library.database.query(query, ids)}


class _Copies:
    """Finds near duplicates among the last results."""

    def __init__(self, width: int) -> None:
        self._units = np.zeros((_NEIGHBOURS, width), np.float32)
        self._bits = np.zeros((_NEIGHBOURS, 8 * HASH_BYTES), np.bool_)
        self._count = 0

    def add(self, unit: Floats, bits: Bools) -> None:
        place = self._count % _NEIGHBOURS
        self._units[place], self._bits[place] = unit, bits
        self._count += 1

    def find(self, unit: Floats, bits: Bools) -> int | None:
        """The index of the result that a photo is a near duplicate of, or None."""
        likeness = similarities(self._units, self._bits, unit, bits)
        place = int(likeness.argmax())
        if likeness[place] < SAME_COSINE:
            return None
        last = self._count - 1
        return last - (last - place) % _NEIGHBOURS


_NO_HASH: Bools = np.zeros(8 * HASH_BYTES, np.bool_)


def bits_of(hash_: bytes) -> Bools:
    """The 256 bits of a difference hash; all zero if it is not distinctive, as of a plain surface."""
    bits = np.unpackbits(np.frombuffer(hash_, np.uint8)).astype(np.bool_)
    return bits if _MIN_BITS <= bits.sum() <= len(bits) - _MIN_BITS else _NO_HASH


def similarities(units: Floats, hashes: Bools, unit: Floats, bits: Bools) -> Floats:
    """Similarities of N photos to one, at least `SAME_COSINE` if their hashes are near: float32 N.

    Args:
        units: unit vectors, float32 N×E.
        hashes: bool N×256; all zero without a hash.
        unit: unit vector of the one, float32 E.
        bits: hash of the one, bool 256.
    """
    found: Floats = units @ unit
    if bits.any():
        is_near = hashes.any(1) & ((hashes ^ bits).sum(1) <= NEAR_BITS)
        found[is_near] = np.fmax(found[is_near], np.float32(SAME_COSINE))
    return found


def _units(file: RecordFile, slots: Ints) -> Floats:
    """Unit vectors of slots; zero if there is none."""
    units = np.zeros((len(slots), *file.shape), np.float32)
    seen = np.flatnonzero((slots >= 0) & (slots < len(file)))
    some = np.nan_to_num(file.map()[slots[seen]], posinf=0, neginf=0)
    units[seen] = some / np.maximum(np.linalg.norm(some, axis=1, keepdims=True), 1e-12)
    return units


def _score(key: float, *, likeness: bool) -> float:
    """The score for a ranking key, rounded to six digits."""
    value = key if likeness else float(sigmoid(np.asarray(key)))
    return float(f"{value:.6g}")
