"""`anytag.scale.worker`: one unit from end to end, in this process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anytag import Captioner, Tagger
from anytag.data.units import Unit, units
from anytag.scale.photos import Photo, photos
from anytag.scale.stages import Task
from anytag.scale.worker import LocalModel, Worker
from tests.command import ENVIRONMENT
from tests.scale.inputs import jpeg, parts_in, rows_in, write_parquet, write_tar
from tests.tiny import make_tiny_model

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))


def done(source: object, output: Path, task: Task) -> Worker:
    """A worker that has done all units of a source."""
    parts = parts_in(output, task)
    worker = Worker(task, parts, LocalModel(task))
    for unit in units([str(source)], listings=parts.notes).units:
        worker.do(unit)
    return worker


def counting(worker: Worker) -> list[str]:
    """The ids of photos that a worker looks at from now on."""
    seen: list[str] = []
    plain = worker._pixels

    def look(photo: Photo) -> Any:
        seen.append(photo.id)
        return plain(photo)

    worker._pixels = look  # type: ignore[method-assign]
    return seen


def breakages() -> list[bytes | None]:
    good = jpeg(0)
    return [
        None, b"", b"no photo", good[: len(good) // 2], good[:3], b"\x89PNG\r\n\x1a\n" + good[:40], b"GIF89a",
        b"<html>503 Slow Down</html>", b"PK\x03\x04" + good, b"\0\0\0\x18ftypmp42" + good[:99],
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["mini", "tiny"])
def test_scores_are_those_of_tag_whatever_stands_beside(name: str, model: str, tmp_path: Path) -> None:
    given = None if name == "mini" else model
    cells: list[bytes | None] = [jpeg(number, size=300) for number in range(21)]
    cells[1:8] = breakages()[1:8]  # the first eight hold one good photo
    write_parquet(f"{tmp_path}/rows.parquet", {"id": range(21), "jpg": cells}, group=20)  # and so has a unit
    worker = done(tmp_path / "rows.parquet", tmp_path / "out", Task(model=given, embed=True))
    rows = {row["id"]: row for row in rows_in(worker.parts)}
    tagger = Tagger.load(given)
    good = [number for number, cell in enumerate(cells) if number not in range(1, 8) and cell]
    alone = [next(tagger.tag_many([cells[number]])) for number in good]  # type: ignore[list-item]
    together = list(tagger.tag_many([cells[number] for number in good], workers=1))  # type: ignore[misc]
    assert [one.tags for one in alone] == [one.tags for one in together]
    for number, tags in zip(good, together, strict=True):
        row = rows[str(number)]
        assert (row["tags"], row["scores"]) == (list(tags.names), [tag.score for tag in tags.tags])
        assert len(row["vector"]) == tagger.card.width
    bad = [row for row in rows.values() if row["error"]]
    assert sorted(int(row["id"]) for row in bad) == list(range(1, 8))
    assert all(row["tags"] is None and row["vector"] is None for row in bad)


def test_each_of_ten_breakages_is_a_row_and_done_again_alone(model: str, tmp_path: Path) -> None:
    bad = breakages()
    cells = [bad[number // 4] if number % 4 == 1 else jpeg(number) for number in range(40)]
    write_parquet(f"{tmp_path}/rows.parquet", {"key": [f"n{k}" for k in range(40)], "data": cells})
    worker = done(tmp_path / "rows.parquet", tmp_path / "out", Task(model=model))
    rows = rows_in(worker.parts)
    failed = {row["id"] for row in rows if row["error"]}
    assert sorted(row["id"] for row in rows) == sorted(f"n{k}" for k in range(40))
    assert failed == {f"n{k}" for k in range(1, 40, 4)}
    assert all(
        row["error"]["type"] == "ImageError" and row["error"]["message"] for row in rows if row["error"]
    )
    seen = counting(worker)
    for unit in units([f"{tmp_path}/rows.parquet"]).units:
        worker.again(unit, worker.parts.fact(worker.parts.file(unit)))
    assert sorted(seen) == sorted(failed)
    assert rows_in(worker.parts) == rows


def test_a_photo_that_came_back_takes_the_place_of_its_failure(model: str, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "list.txt").write_text("".join(f"{number}.jpg\n" for number in range(12)))
    for number in range(12):
        if number % 5:
            (source / f"{number}.jpg").write_bytes(jpeg(number))
    worker = done(source / "list.txt", tmp_path / "out", Task(model=model))
    before = {row["id"]: row for row in rows_in(worker.parts)}
    (source / "5.jpg").write_bytes(jpeg(5))
    (unit,) = units([str(source / "list.txt")], listings=worker.parts.notes).units
    (name,) = worker.parts.there()
    again = worker.again(unit, worker.parts.fact(name))
    after = {row["id"]: row for row in rows_in(worker.parts)}
    assert (again.file, again.rows, again.failed) == (name, 12, 2)
    assert list(after) == list(before)
    assert {name for name in after if after[name] != before[name]} == {str(source / "5.jpg")}


def test_a_shard_that_breaks_off_is_completed_when_it_is_whole(model: str, tmp_path: Path) -> None:
    shard = tmp_path / "shard.tar"
    members = {f"{number}.jpg": jpeg(number) for number in range(6)} | {"7.txt": b"no photo"}
    write_tar(str(shard), members)
    whole = shard.read_bytes()
    unit = Unit(str(shard), str(shard), "tar", stamp="1")
    task = Task(model=model)
    worker = Worker(task, parts_in(tmp_path / "out", task), LocalModel(task))
    shard.write_bytes(whole[: len(whole) // 3])
    short = worker.do(unit)
    assert short.failed == 1
    assert "not a readable tar file" in rows_in(worker.parts)[-1]["error"]["message"]
    shard.write_bytes(whole)
    seen = counting(worker)
    again = worker.again(unit, short)
    assert (again.rows, again.failed) == (7, 1)
    assert len(seen) == 7 - (short.rows - 1)
    ids = [row["id"] for row in rows_in(worker.parts)]
    assert ids == [f"tar://{number}.jpg::{shard}" for number in range(6)] + [f"tar://7::{shard}"]


def test_a_row_group_that_breaks_off_has_a_row_for_each_row(model: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    random = np.random.default_rng(0)
    cells = [jpeg(number) + random.bytes(50_000) for number in range(120)]
    table = pyarrow.table({"id": [f"n{k}" for k in range(120)], "jpg": cells})
    options = {
        "compression": "zstd",
        "use_dictionary": False,
        "data_page_size": 200_000,
        "write_batch_size": 2,
    }
    parquet.write_table(table, path, **options)
    whole = bytearray(path.read_bytes())
    whole[3_000_000:3_100_000] = bytes(100_000)
    path.write_bytes(whole)
    worker = done(path, tmp_path / "out", Task(model=model))
    rows = rows_in(worker.parts)
    assert len(rows) == 120
    assert rows[0]["error"] is None
    assert rows[-1]["error"]["type"] == "AnytagError"
    assert "cannot be read as Parquet" in rows[-1]["error"]["message"]


def test_cells_may_be_addresses_or_what_datasets_write(model: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(0))
    write_parquet(f"{tmp_path}/urls.parquet", {"url": ["a.jpg", "gone.jpg", None, "memory://no/b.jpg"]})
    both = [{"bytes": jpeg(0), "path": "x.jpg"}, {"bytes": None, "path": "a.jpg"}]
    write_parquet(f"{tmp_path}/hf.parquet", {"image": both})
    task = Task(model=model)
    urls = rows_in(done(tmp_path / "urls.parquet", tmp_path / "one", task).parts)
    assert [row["error"] is None for row in urls] == [True, False, False, False]
    assert urls[0]["id"] == str(tmp_path / "a.jpg")
    assert "no such file" in urls[1]["error"]["message"]
    assert "expected a photo or its URL" in urls[2]["error"]["message"]
    hf = rows_in(done(tmp_path / "hf.parquet", tmp_path / "two", task).parts)
    assert [row["scores"] for row in hf] == [urls[0]["scores"]] * 2


def test_captions_and_vectors_are_those_of_one_machine(tmp_path: Path) -> None:
    write_parquet(f"{tmp_path}/rows.parquet", {"jpg": [jpeg(0, size=200), b"", jpeg(1, size=200)]})
    rows = rows_in(done(tmp_path / "rows.parquet", tmp_path / "out", Task("caption", embed=True)).parts)
    captioner = Captioner.load()
    expected = list(captioner.caption_many([jpeg(0, size=200), jpeg(1, size=200)], workers=1))
    assert [row["caption"] for row in rows] == [expected[0].text, None, expected[1].text]
    encoded = captioner.tagger.encode_many([jpeg(0, size=200)], workers=1)
    assert rows[0]["vector"] == next(encoded).pooled.tolist()


MEASURE = """
import resource, sys
from anytag.data.units import units
from anytag.scale.photos import photos
(unit,) = units([sys.argv[1]]).units
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
count = sum(len(one.source) > 0 for one in photos(unit))
print(count, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_a_large_row_group_is_read_in_a_small_memory(tmp_path: Path) -> None:
    """150 MB in one row group: no more than a few photos and buffers are held."""
    path, photo = tmp_path / "large.parquet", jpeg(0) + bytes(1 << 20)
    cells = [photo + number.to_bytes(2, "big") for number in range(150)]
    table = pyarrow.table({"id": [str(number) for number in range(150)], "jpg": cells})
    parquet.write_table(table, path, compression="none", use_dictionary=False, row_group_size=150)
    del table, cells
    said = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
    )
    count, grown = map(int, said.stdout.split())
    assert count == 150
    assert grown < 60  # MB


def test_columns_that_cannot_be_told_are_asked_for(model: str, tmp_path: Path) -> None:
    write_parquet(f"{tmp_path}/odd.parquet", {"left": [b"x"], "right": [b"y"]})
    (unit,) = units([f"{tmp_path}/odd.parquet"]).units
    with pytest.raises(Exception, match=r"columns left, right has photos.*--column NAME"):
        list(photos(unit))
    with pytest.raises(Exception, match="has no column 'middle'; it has left, right"):
        list(photos(unit, column="middle"))
    assert [one.source for one in photos(unit, column="right")] == [b"y"]
