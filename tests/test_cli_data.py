"""`anytag data`: every command, on real files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anytag.cli.data import FORMATS as NAMED
from anytag.data.formats import FORMATS, read
from anytag.data.rows import Row, write_rows
from tests.command import run
from tests.tiny import make_tiny_model


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Six rows with photos, one without; the last photo is a copy of the first."""
    folder = tmp_path / "data"
    (folder / "photos").mkdir(parents=True)
    random = np.random.default_rng(0)
    rows = []
    for number in range(5):
        pixels = random.integers(0, 256, (6, 6, 3), np.uint8)
        picture = Image.fromarray(pixels).resize((60, 60), Image.Resampling.BICUBIC)
        picture.save(folder / "photos" / f"{number}.png")
        if not number:
            picture.resize((50, 50)).save(folder / "photos" / "copy.png")
        rows.append(Row(f"photos/{number}.png", "made", "train", captions=("a dog on a beach",)))
    rows += [Row("photos/copy.png", "made", "train"), Row("photos/gone.png", "made", "train", tags=("cat",))]
    write_rows(folder / "rows.jsonl", rows)
    return folder / "rows.jsonl"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def test_formats_on_the_command_line_are_the_tables() -> None:
    assert tuple(FORMATS) == NAMED


def test_inspect(data: Path) -> None:
    done = run("data", "inspect", data, "--format", "json")
    assert done.exit_code == 0
    figures = json.loads(done.stdout)
    assert (figures["rows"], figures["captions"]) == (7, 5)
    assert figures["photos"]["unreadable"] == 1
    assert "distinct tags          1" in run("data", "inspect", data).stdout


def test_convert_keeps_photos_found_and_goes_on_after_bad_rows(data: Path, tmp_path: Path) -> None:
    with data.open("a") as file:
        file.write("nonsense\n" * 7)
    out = tmp_path / "elsewhere" / "rows.parquet"
    done = run("data", "convert", data, out)
    assert done.exit_code == 1
    assert done.stdout == f"7 rows -> {out}\n"
    assert done.stderr.count("Left out: ") == 5
    assert "7 were wrong" in done.stderr
    rows = list(read(str(out)))
    assert [row.captions for row in rows] == [
        row.captions for row in read(str(data), on_error=lambda _: None)
    ]
    assert (out.parent / rows[0].image).resolve() == (data.parent / "photos/0.png").resolve()


def test_published_annotations_need_their_tag_list(tmp_path: Path) -> None:
    item = {"image_path": "1.jpg", "caption": ["a dog"], "union_label_id": [1], "parse_label_id": [[1]]}
    (tmp_path / "train.json").write_text(json.dumps([item]))
    (tmp_path / "tags.txt").write_text("cat\ndog\n")
    out = tmp_path / "rows.jsonl"
    assert run("data", "convert", tmp_path / "train.json", out).exit_code == 2
    done = run("data", "convert", tmp_path / "train.json", out, "--tag-list", tmp_path / "tags.txt")
    assert done.exit_code == 0
    assert next(read(str(out))).said == (("dog", "text"),)


def test_split_keeps_copies_together(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "split.jsonl"
    assert run("data", "split", data, out, "--parts", "train=0.5,test=0.5").exit_code == 0
    parts = {Path(row.image).name: row.split for row in read(str(out))}
    assert parts["0.png"] == parts["copy.png"]
    assert set(parts.values()) <= {"train", "test"}
    assert run("data", "split", data, out, "--parts", "train=2").exit_code == 2


def test_check_reports_and_writes_what_is_good(data: Path, tmp_path: Path) -> None:
    report, good = tmp_path / "report.jsonl", tmp_path / "good.csv"
    done = run("data", "check", data, "--report", report, "--output", good)
    assert done.exit_code == 1
    assert "7 photos: 1 missing, 0 unreadable, 1 duplicate" in done.stdout
    assert {json.loads(line)["problem"] for line in report.read_text().splitlines()} == {
        "missing",
        "duplicate",
    }
    assert len(list(read(str(good)))) == 5
    assert run("data", "check", good).exit_code == 0


def test_shards(data: Path, tmp_path: Path) -> None:
    done = run("data", "shard", data, tmp_path / "shards", "--size", "4")
    assert done.exit_code == 1, "a photo is missing"
    assert len(done.stdout.splitlines()) == 2
    rows = list(read(str(tmp_path / "shards")))
    assert [row.captions for row in rows[:5]] == [("a dog on a beach",)] * 5
    assert len(rows) == 6


def test_generate_clean_and_undo(data: Path, model: Path, tmp_path: Path) -> None:
    names = ("generated", "cleaned", "back")
    generated, cleaned, back = (tmp_path / f"{name}.jsonl" for name in names)
    done = run("data", "generate", data, generated, "--model", model, "--probability", "0.1")
    assert done.exit_code == 1
    assert "gone.png" in done.stderr
    rows = list(read(str(generated)))
    assert len(rows) == 7
    origins = {origin for row in rows for _, origin in row.said}
    assert origins == {"label", "text", "model"}
    assert run("data", "clean", generated, cleaned, "--model", model, "--seen", "0.75").exit_code == 0
    gone = list(read(str(cleaned)))
    assert any(row.cleaned for row in gone)
    assert run("data", "undo", cleaned, back, "--step", "clean").exit_code == 0
    assert [set(row.said) for row in read(str(back))] == [set(row.said) for row in rows]
    assert run("data", "undo", back, back, "--step", "generate").exit_code == 0
    assert {origin for row in read(str(back)) for _, origin in row.said} == {"label", "text"}


def test_what_cannot_be_read_or_written_is_wrong_use(data: Path, tmp_path: Path) -> None:
    for arguments in (("inspect", tmp_path / "none"), ("convert", data, tmp_path / "rows.xml")):
        done = run("data", *arguments)
        assert done.exit_code == 2
        assert "Error" in done.stderr
