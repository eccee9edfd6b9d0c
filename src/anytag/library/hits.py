"""What of a ranking is shown: files that are there, near copies folded into the best of them."""

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


SAME = 0.92
"""Cosine of two vectors from which photos count as copies; 3 % of 5,000 photos of many kinds have one."""
_FLATTEST = NEAR_BITS  # set or unset bits of a hash that tells something: two plain walls are no copies
_NEIGHBOURS = 256  # results before a photo that it may be a copy of: copies score nearly alike
BATCH = 64
"""Photos that are read from the database at once."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A photo that was found.

    Attributes:
        photo: of the library.
        score: of a sentence, the probability that it fits; of likeness, the cosine.
        copies: paths of near copies that score no better and are not shown on their own.
    """

    photo: Photo
    score: float
    copies: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain: the row that `anytag search --format jsonl` writes."""
        copies, tags = list(self.copies), list(self.photo.tags)
        return {"path": self.photo.path, "score": self.score, "copies": copies, "tags": tags}


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found.

    Attributes:
        hits: photos that fit, best first; empty where nothing fits.
        nearest: where nothing fits, the best of those that do not.
        photos: so many were looked through.
        unseen: so many of them have no vector of this model, and are found by words alone; those that
            cannot be read as photos do not count.
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
    """N photos that may be found: their ids, rising, and their slots, below 0 where they have no vector."""

    ids: Ints
    slots: Ints

    def places(self, ids: Sequence[int] | Ints) -> Ints:
        """Where those of `ids` that are here stand."""
        wanted = np.asarray(ids, np.int64)
        places = np.searchsorted(self.ids, wanted)
        there = places < len(self.ids)
        there[there] = self.ids[places[there]] == wanted[there]
        return places[there]


class Shelf:
    """Takes photos of a ranking from a library.

    Args:
        library: the database.
        vectors: its vector file.
        fold: near copies are folded.
    """

    def __init__(self, library: Library, vectors: RecordFile, *, fold: bool) -> None:
        self._library, self._vectors, self._fold = library, vectors, fold

    def first(
        self, rows: Rows, order: Ints, shown: Floats, *, top_k: int | None, likeness: bool
    ) -> tuple[Hit, ...]:
        """The first `top_k` of some photos: what is there still, near copies folded into the first."""
        hits: list[Hit] = []
        copies = _Copies(self._vectors.shape[0])
        for place, photo, unit, bits in self._there(rows, order):
            number = copies.of(unit, bits) if self._fold else None
            if number is not None:
                one = hits[number]
                hits[number] = Hit(one.photo, one.score, (*one.copies, photo.path))
                continue
            if top_k is not None and len(hits) == top_k:
                break
            copies.add(unit, bits)
            hits.append(Hit(photo, _score(float(shown[place]), likeness=likeness)))
        return tuple(hits)

    def _there(self, rows: Rows, order: Ints) -> Iterator[tuple[int, Photo, Floats, Bools]]:
        """Those of some photos whose files are there, in this order: place, photo, unit vector, hash."""
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
    """Tells whether a photo is nearly the same as one of the last results."""

    def __init__(self, width: int) -> None:
        self._units = np.zeros((_NEIGHBOURS, width), np.float32)
        self._bits = np.zeros((_NEIGHBOURS, 8 * HASH_BYTES), np.bool_)
        self._count = 0

    def add(self, unit: Floats, bits: Bools) -> None:
        place = self._count % _NEIGHBOURS
        self._units[place], self._bits[place] = unit, bits
        self._count += 1

    def of(self, unit: Floats, bits: Bools) -> int | None:
        """The number of the result that a photo is a copy of."""
        likeness = alike(self._units, self._bits, unit, bits)
        place = int(likeness.argmax())
        if likeness[place] < SAME:
            return None
        last = self._count - 1
        return last - (last - place) % _NEIGHBOURS


_NO_HASH: Bools = np.zeros(8 * HASH_BYTES, np.bool_)


def bits_of(hash_: bytes) -> Bools:
    """The 256 bits of a difference hash; none is set where it tells nothing, as that of a plain wall."""
    bits = np.unpackbits(np.frombuffer(hash_, np.uint8)).astype(np.bool_)
    return bits if _FLATTEST <= bits.sum() <= len(bits) - _FLATTEST else _NO_HASH


def alike(units: Floats, hashes: Bools, unit: Floats, bits: Bools) -> Floats:
    """How alike N photos are to one, at least `SAME` where their hashes are near: float32 N.

    Args:
        units: N×E, and the one's E.
        hashes: N×256, and the one's 256; without a bit where there is none.
    """
    found: Floats = units @ unit
    if bits.any():
        is_near = hashes.any(1) & ((hashes ^ bits).sum(1) <= NEAR_BITS)
        found[is_near] = np.fmax(found[is_near], np.float32(SAME))
    return found


def _units(file: RecordFile, slots: Ints) -> Floats:
    """Unit vectors of some slots; zero where there is none."""
    units = np.zeros((len(slots), *file.shape), np.float32)
    seen = np.flatnonzero((slots >= 0) & (slots < len(file)))
    some = np.nan_to_num(file.map()[slots[seen]], posinf=0, neginf=0)
    units[seen] = some / np.maximum(np.linalg.norm(some, axis=1, keepdims=True), 1e-12)
    return units


def _score(key: float, *, likeness: bool) -> float:
    """What is shown of a key, to six digits."""
    value = key if likeness else float(sigmoid(np.asarray(key)))
    return float(f"{value:.6g}")
