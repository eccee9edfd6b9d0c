"""`anytag data`: every command, on real files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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


def test_formats_on_the_command_line_are_the_tables(data: Path) -> None:
    done = run("data", "inspect", data, "--from", "xml")
    assert done.exit_code == 2
    for name in FORMATS:
        assert repr(name) in done.output


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
    assert done.stderr.count("Skipped: ") == 5
    assert "7 rows had problems" in done.stderr
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
    assert next(read(str(out))).origins_by_tag == (("dog", "text"),)


def test_split_keeps_copies_together(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "split.jsonl"
    assert run("data", "split", data, out, "--parts", "train=0.5,test=0.5").exit_code == 0
    parts = {Path(row.image).name: row.split for row in read(str(out))}
    assert parts["0.png"] == parts["copy.png"]
    assert set(parts.values()) <= {"train", "test"}
    for wrong in ("train=2", "train=nan", "train=0.5,train=1", "train=1.5,test=-0.5", "=1", "train"):
        assert run("data", "split", data, out, "--parts", wrong).exit_code == 2


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
    assert "Not changed: photos/gone.png: no such file\n" in done.stderr
    rows = list(read(str(generated)))
    assert len(rows) == 7
    origins = {origin for row in rows for _, origin in row.origins_by_tag}
    assert origins == {"label", "text", "model"}
    wrong = run("data", "clean", generated, cleaned, "--model", model, "--seen", "nan")
    assert wrong.exit_code == 2 and "nan is not a finite number" in wrong.stderr
    assert run("data", "clean", generated, cleaned, "--model", model, "--seen", "0.75").exit_code == 0
    gone = list(read(str(cleaned)))
    assert any(row.cleaned for row in gone)
    assert run("data", "undo", cleaned, back, "--step", "clean").exit_code == 0
    assert [set(row.origins_by_tag) for row in read(str(back))] == [set(row.origins_by_tag) for row in rows]
    again = tmp_path / "again.jsonl"
    assert run("data", "undo", back, again, "--step", "generate").exit_code == 0
    assert {origin for row in read(str(again)) for _, origin in row.origins_by_tag} == {"label", "text"}


def test_what_cannot_be_read_or_written_is_wrong_use(data: Path, tmp_path: Path) -> None:
    for arguments in (("inspect", tmp_path / "none"), ("convert", data, tmp_path / "rows.xml")):
        done = run("data", *arguments)
        assert done.exit_code == 2
        assert "Error" in done.stderr


def test_no_output_replaces_an_input_or_what_is_no_rows(data: Path, model: Path, tmp_path: Path) -> None:
    names = ("same.jsonl", "new.jpg", "letter.csv", "v.jsonl")
    same, photo, letter, other = (tmp_path / name for name in names)
    os.link(data, same)
    letter.write_text("Dear Bob\n")
    other.write_text('{"id": "cat", "name": "cat"}\n')
    (tmp_path / "link.jsonl").symlink_to(data)
    before = {path: path.read_bytes() for path in (data, letter, other)}
    wrong: list[tuple[Path | str, str]] = [
        *((one, "is an input") for one in (data, same, tmp_path / "link.jsonl", f"file://{data}")),
        *((one, "suffix of a photo") for one in (photo, data.parent / "photos" / "0.png")),
        *((one, "exists already: give another file") for one in (letter, other)),
        (tmp_path, "is a folder"),
    ]
    for output, said in wrong:
        done = run("data", "convert", data, output, "--to", "csv" if output == letter else "jsonl")
        assert done.exit_code == 2 and said in done.stderr
    asked = {"generate": ("--model", model), "clean": ("--model", model), "undo": ("--step", "clean")}
    for command in ("split", *asked):
        for output in (same, other):
            done = run("data", command, data, output, *asked.get(command, ()))
            assert done.exit_code == 2 and "give another file" in done.stderr
    for options in (("--report", data), ("--report", other), ("--output", data), ("--report", photo)):
        assert run("data", "check", data, *options).exit_code == 2
    new = tmp_path / "n.jsonl"
    assert run("data", "check", data, "--report", new, "--output", new).exit_code == 2
    assert run("data", "shard", data, data.parent).exit_code == 2
    assert {path: path.read_bytes() for path in before} == before
    assert not photo.exists() and not new.exists()


@pytest.mark.parametrize("format_", ["jsonl", "csv", "parquet", "coco-captions", "published"])
def test_rows_replace_no_others_which_may_have_been_edited(data: Path, tmp_path: Path, format_: str) -> None:
    file, tags = tmp_path / "rows", tmp_path / "tags.txt"
    tags.write_text("\n".join(sorted({tag for row in read(str(data)) for tag in row.tags})))
    command = ("data", "convert", data, file, "--to", format_, "--tag-list", tags)
    assert run(*command).exit_code == 0
    before = file.read_bytes()
    done = run(*command)
    assert done.exit_code == 2 and f"{file} exists already: give another file" in done.stderr
    assert file.read_bytes() == before


def test_photos_are_found_from_a_linked_folder(data: Path, tmp_path: Path) -> None:
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away")
    assert run("data", "convert", data, tmp_path / "link" / "rows.jsonl").exit_code == 0
    row = next(read(str(tmp_path / "far" / "away" / "rows.jsonl")))
    assert (tmp_path / "far" / "away" / row.image).is_file()
    assert (tmp_path / "link" / row.image).is_file()


def test_shards_are_written_into_an_empty_folder(data: Path, tmp_path: Path) -> None:
    assert run("data", "shard", data, tmp_path / "shards", "--size", "2").exit_code == 1
    again = run("data", "shard", data, tmp_path / "shards", "--size", "4")
    assert again.exit_code == 2 and "is not empty" in again.stderr


def test_a_tag_list_in_another_encoding_is_named(data: Path, tmp_path: Path) -> None:
    (tmp_path / "tags.txt").write_bytes(b"caf\xe9\n")
    done = run("data", "inspect", data, "--tag-list", tmp_path / "tags.txt")
    assert done.exit_code == 2 and "tags.txt is not in UTF-8" in done.stderr


def test_what_a_format_cannot_hold_is_counted(data: Path, tmp_path: Path) -> None:
    rows = [
        Row("a.jpg", "mine", "test", ("a dog",), ("dog",), ("cat",), origins=("model",)),
        Row("b.jpg", "mine", "", ("a cat",)),
    ]
    write_rows(tmp_path / "rows.jsonl", rows)
    for format_, lost in (
        ("coco-captions", "split of 1 row, tags of 1 row, absent of 1 row"),
        ("csv", "origins of 1 row"),
        ("jsonl", ""),
    ):
        done = run("data", "convert", tmp_path / "rows.jsonl", tmp_path / f"out.{format_}", "--to", format_)
        assert done.exit_code == 0
        assert sorted(lost.split(", ")) == sorted(
            done.stderr.partition("lacks: ")[2].partition(". JSON")[0].split(", ")
        )


def test_invalid_rows_that_are_not_shown_are_counted(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("nonsense\n" * 8)
    done = run("data", "convert", tmp_path / "rows.jsonl", tmp_path / "out.jsonl")
    assert done.exit_code == 1 and "8 rows had problems, 3 more than the messages above." in done.stderr


def test_photos_whose_names_are_no_unicode_are_sharded(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    Image.new("RGB", (8, 8)).save(tmp_path / name, "PNG")
    write_rows(tmp_path / "rows.jsonl", [Row(name, "mine", "")])
    assert run("data", "shard", tmp_path / "rows.jsonl", tmp_path / "shards").exit_code == 0
    assert next(read(str(tmp_path / "shards"))).image
