"""`anytag.data.check`, `duplicates` and `summary`: what is wrong with photos, splits, figures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from anytag.data.check import check, parse_parts, split
from anytag.data.duplicates import groups, near
from anytag.data.rows import Row
from anytag.data.summary import summarise
from anytag.errors import AnytagError
from anytag.images.likeness import difference_hash


def scene(seed: int) -> Image.Image:
    """A picture with large shapes, unlike those of other seeds."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize((96, 96), Image.Resampling.BICUBIC)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five scenes; of the first also a small copy, a recompressed one and a crop."""
    for number in range(5):
        scene(number).save(tmp_path / f"{number}.png")
    scene(0).resize((64, 64)).save(tmp_path / "small.png")
    scene(0).save(tmp_path / "jpeg.jpg", quality=60)
    scene(0).crop((1, 1, 95, 95)).save(tmp_path / "crop.png")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "jpeg.jpg").read_bytes()[:300])
    (tmp_path / "text.jpg").write_text("no photo")
    return tmp_path


def rows_of(folder: Path, *names: str) -> list[Row]:
    return [Row(name, "made", "train") for name in names or sorted(path.name for path in folder.iterdir())]


def test_hash_knows_copies_and_tells_scenes_apart() -> None:
    one, small, other = (
        difference_hash(picture) for picture in (scene(0), scene(0).resize((50, 60)), scene(1))
    )
    assert one.shape == (32,)
    assert np.unpackbits(one ^ small).sum() < 24 < np.unpackbits(one ^ other).sum()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 12), bits=st.integers(0, 60))
def test_groups_are_what_slow_loops_find(seed: int, count: int, bits: int) -> None:
    random = np.random.default_rng(seed)
    hashes = random.integers(0, 256, (3, 32), np.uint8)[random.integers(0, 3, count)]
    for one in hashes:
        flips = np.unpackbits(one)
        flips[random.integers(0, 256, 15)] ^= 1
        one[:] = np.packbits(flips)
    close = [[np.unpackbits(a ^ b).sum() <= bits for b in hashes] for a in hashes]
    expected = list(range(count))
    for _ in range(count):
        expected = [min(expected[j] for j in range(count) if close[i][j]) for i in range(count)]
    np.testing.assert_array_equal(groups(hashes, bits=bits), expected)
    kept = hashes[: count // 2]
    np.testing.assert_array_equal(near(hashes, kept, bits=bits), [any(row[: count // 2]) for row in close])


def test_check_finds_what_is_missing_unreadable_and_copied(photos: Path) -> None:
    rows = [*rows_of(photos), Row("gone.jpg", "made", "train")]
    report = check(rows, str(photos))
    found = {finding.image: finding.problem for finding in report.findings}
    assert found == {
        "cut.jpg": "unreadable",
        "text.jpg": "unreadable",
        "gone.jpg": "missing",
        "crop.png": "duplicate",
        "jpeg.jpg": "duplicate",
        "small.png": "duplicate",
    }
    assert {finding.says for finding in report.findings if finding.problem == "duplicate"} == {"0.png"}
    assert [row.image for row, good in zip(rows, report.good, strict=True) if good] == [
        f"{number}.png" for number in range(5)
    ]
    assert report.count("duplicate") == 3
    report.write(str(photos / "report.jsonl"))
    assert len((photos / "report.jsonl").read_text().splitlines()) == 6
    assert check(rows, str(photos), bits=-1).count("duplicate") == 0
    assert check([], str(photos)).rows == 0


def test_of_copies_the_one_that_is_tested_stays(photos: Path) -> None:
    rows = rows_of(photos, "0.png", "small.png", "jpeg.jpg")
    rows[1] = replace(rows[1], split="test")
    report = check(rows, str(photos))
    assert report.good == (False, True, False)
    assert [finding.says for finding in report.findings] == ["small.png", "small.png"]


def test_rows_of_one_photo_are_no_copies(photos: Path) -> None:
    rows = rows_of(photos, "0.png", "0.png", "small.png", "small.png", "0.png")
    rows[4] = replace(rows[4], split="dev")
    assert check(rows, str(photos)).good == (False, False, False, False, True)
    rows[4] = replace(rows[4], split=rows[0].split)
    assert check(rows, str(photos)).good == (True, True, False, False, True)


def test_split_depends_on_the_photo_alone(photos: Path) -> None:
    parts = {"train": 0.5, "test": 0.5}
    rows = rows_of(photos)
    first = {row.image: row.split for row in split(rows, str(photos), parts)}
    again = {row.image: row.split for row in split(reversed(rows), str(photos), parts)}
    assert first == again
    assert len({first[name] for name in ("0.png", "small.png", "jpeg.jpg", "crop.png")}) == 1
    (photos / "3.png").rename(photos / "renamed.png")
    (renamed,) = split(rows_of(photos, "renamed.png"), str(photos), parts)
    assert renamed.split == first["3.png"]


def test_shares_are_kept(tmp_path: Path) -> None:
    rows = [Row(f"{number}.jpg", "made", "") for number in range(600)]  # not there: placed by name
    found = [row.split for row in split(rows, str(tmp_path), parse_parts("train=0.7, test=0.3"))]
    assert 0.6 < found.count("train") / 600 < 0.8
    assert set(found) == {"train", "test"}


@pytest.mark.parametrize(
    "text",
    [
        "train",
        "train=x",
        "train=nan,test=1",
        "train=0.5",
        "train=1.5,val=-0.5",
        "=1",
        "train=1,train=0",
        "fold=1",
    ],
)
def test_wrong_parts(text: str) -> None:
    with pytest.raises(AnytagError):
        parse_parts(text)


def test_summary(photos: Path) -> None:
    rows = [
        Row(
            "0.png",
            "made",
            "train",
            captions=("a red dog", "dog"),
            tags=("dog", "red"),
            origins=("label", "text"),
        ),
        Row("1.png", "other", "test", tags=("dog",), absent=("cat",), cleaned=(("cow", "model"),)),
        Row("gone.png", "made", "test"),
    ]
    figures = summarise(rows, str(photos)).to_dict(top=1)
    assert figures["rows"] == 3
    assert figures["sources"] == {"made": 2, "other": 1}
    assert figures["splits"] == {"test": 2, "train": 1}
    assert (figures["captions"], figures["words_a_caption"]) == (2, 2.0)
    assert (figures["tags"], figures["distinct_tags"], figures["absent"]) == (3, 2, 1)
    assert figures["origins"] == {"label": 2, "text": 1, "cleaned": 1}
    assert figures["most_frequent"] == {"dog": 2}
    assert figures["rows_that_say_nothing"] == 1
    assert figures["photos"] == {
        "opened": 2, "unreadable": 1, "smallest": "96×96", "median": "96×96", "largest": "96×96",
    }  # fmt: skip
    assert json.dumps(figures)
    assert summarise([], "").to_dict()["photos"] is None
