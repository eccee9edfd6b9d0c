"""Vectors in blocks: all of them, once each, whatever order the photos have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anytag.fusion import compare
from anytag.fusion.compare import blocks, cosines, products
from anytag.records import RecordFile, Records, RecordsAt

WIDTH = 5
VECTORS = np.random.default_rng(0).normal(size=(300, WIDTH)).astype(np.float32)
SLOTS = np.random.default_rng(1).permutation(300)[:200].astype(np.int64)
SLOTS[[3, 50]] = -1, 1000


@pytest.fixture(params=["array", "mapped", "read"])
def vectors(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Records:
    monkeypatch.setattr(compare, "_BLOCK", 64)
    file = RecordFile(tmp_path / "v.f32", (WIDTH,), np.dtype("<f4"))
    file.write(np.arange(300), VECTORS)
    kinds: dict[str, Records] = {
        "array": VECTORS, "mapped": file.map(), "read": RecordsAt(file, np.arange(300))
    }  # fmt: skip
    return kinds[request.param]


def test_each_photo_comes_once_with_its_vector(vectors: Records) -> None:
    seen: list[int] = []
    for part, some in blocks(vectors, SLOTS):
        assert len(part) <= 64
        np.testing.assert_array_equal(some, VECTORS[SLOTS[part]])
        seen += part.tolist()
    assert sorted(seen) == [place for place in range(200) if place not in (3, 50)]
    assert SLOTS[seen].tolist() == sorted(SLOTS[seen].tolist()), "as they lie"


def test_products_and_cosines_are_exact(vectors: Records) -> None:
    columns = np.random.default_rng(2).normal(size=(3, WIDTH + 1)).astype(np.float32)
    found, alike = products(vectors, SLOTS, list(columns)), cosines(vectors, SLOTS, VECTORS[7])
    for place, slot in enumerate(SLOTS.tolist()):
        if 0 <= slot < 300:
            own = VECTORS[slot]
            slow = [column[:-1] @ own + column[-1] for column in columns]
            assert found[place] == pytest.approx(slow, abs=1e-5)
            lengths = np.linalg.norm(own) * np.linalg.norm(VECTORS[7])
            assert alike[place] == pytest.approx(own @ VECTORS[7] / lengths, abs=1e-5)
        else:
            assert np.isnan(found[place]).all() and np.isnan(alike[place])


def test_nothing_is_asked(vectors: Records) -> None:
    assert products(vectors, SLOTS, []).shape == (200, 0)
    assert products(vectors, np.zeros(0, np.int64), [np.ones(WIDTH + 1, np.float32)]).shape == (0, 1)
