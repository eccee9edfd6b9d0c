"""`anytag.torch.training.feature_cache`: complete shards, computed once, with one key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anytag.errors import AnytagError, OutputError
from anytag.torch.training.feature_cache import Compute, FeatureCache, build, open_cache
from anytag.torch.training.report import Reporter


def doubles() -> Compute:
    return lambda numbers: {
        "double": 2 * np.arange(numbers.start, numbers.stop),
        "two": np.ones((2 * len(numbers), 3), np.float16),
    }


def made(
    folder: Path, begin: Callable[[], Compute] = doubles, *, count: int = 600, key: Mapping[str, Any]
) -> FeatureCache:
    return build(folder, count, begin, key=key, what="read photos", report=Reporter())


def test_arrays_lie_behind_each_other(tmp_path: Path) -> None:
    cache = made(tmp_path / "x", key={"model": "a"})
    assert len(cache.shards) == 3
    assert np.array_equal(cache.array("double"), 2 * np.arange(600))
    assert cache.take("double", np.array([599, 0, 255, 256])).tolist() == [1198, 0, 510, 512]
    assert cache.take("two", np.array([0, 1199])).shape == (2, 3)
    assert np.array_equal(open_cache(tmp_path / "x").array("double"), cache.array("double"))


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    made(tmp_path / "x", key={"model": "a"})

    def begin() -> Compute:
        raise AssertionError("nothing is missing")

    made(tmp_path / "x", begin, key={"model": "a"})
    with pytest.raises(AnytagError, match="of other photos, other views or another model"):
        made(tmp_path / "x", begin, key={"model": "b"})


def test_what_fails_goes_on_with_the_first_missing_shard(tmp_path: Path) -> None:
    def begin() -> Compute:
        def compute(numbers: range) -> dict[str, np.ndarray]:
            if numbers.start >= 256:
                raise AnytagError("300.jpg: no such file")
            return dict(doubles()(numbers))

        return compute

    with pytest.raises(AnytagError, match=r"300\.jpg"):
        made(tmp_path / "x", begin, key={})
    assert {file.name for file in (tmp_path / "x").iterdir()} == {"cache.json", "shard-0000"}
    assert np.array_equal(made(tmp_path / "x", key={}).array("double"), 2 * np.arange(600))


def test_a_damaged_shard_says_how_to_go_on(tmp_path: Path) -> None:
    made(tmp_path / "x", key={})
    (tmp_path / "x" / "shard-0001" / "two.npy").write_bytes(b"\x93NUM")
    with pytest.raises(AnytagError, match=r"shard-0001 is damaged: remove it and run the same command"):
        made(tmp_path / "x", key={})


def test_no_folder_can_be_made_where_a_file_is(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("mine")
    with pytest.raises(OutputError, match="x cannot be written"):
        made(tmp_path / "x", key={})
    assert (tmp_path / "x").read_text() == "mine"
