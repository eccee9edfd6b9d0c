from __future__ import annotations

import csv
import io
import json
import os
import re
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anytag import Failure, Tags, TagScore
from anytag.cli import writers

ANSI = re.compile(r"\x1b\[[0-9;]*m")
NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1)
TAGS = st.builds(TagScore, NAMES, NAMES, st.floats(0, 1), st.sampled_from(["vocabulary", "own"]))
RESULTS = st.builds(
    Tags,
    path=st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    width=st.integers(1, 9999),
    height=st.integers(1, 9999),
    model=NAMES,
    tags=st.lists(TAGS, max_size=4).map(tuple),
)
PHOTO = Tags(
    "a b.jpg", 4, 3, "tiny", (TagScore("dog", "dog", 0.974, "vocabulary"), TagScore("own:x", "x", 0.5, "own"))
)
FAILED = Tags("gone.jpg", 0, 0, "tiny", (), Failure("ImageError", "gone.jpg: no such file"))


def test_text_is_one_line_a_photo() -> None:
    assert writers.text(PHOTO) == "a b.jpg\tdog 0.97, x 0.50\n"
    assert writers.text(FAILED) == writers.terminal(FAILED) == ""


@given(RESULTS)
def test_text_never_breaks_its_line(tags: Tags) -> None:
    line = writers.text(tags)
    assert line.endswith("\n")
    assert line.count("\n") == line.count("\t") == 1


@given(RESULTS)
def test_jsonl_is_the_dictionary(tags: Tags) -> None:
    line = writers.jsonl(tags)
    assert line.count("\n") == 1
    assert json.loads(line) == tags.to_dict()


def test_jsonl_has_the_fields_of_the_contract() -> None:
    assert json.loads(writers.jsonl(PHOTO)) == {
        "path": "a b.jpg",
        "width": 4,
        "height": 3,
        "model": "tiny",
        "tags": [
            {"id": "dog", "name": "dog", "score": 0.974, "source": "vocabulary"},
            {"id": "own:x", "name": "x", "score": 0.5, "source": "own"},
        ],
        "error": None,
    }
    error = {"type": "ImageError", "message": "gone.jpg: no such file"}
    assert json.loads(writers.jsonl(FAILED)) == {
        "path": "gone.jpg", "width": 0, "height": 0, "model": "tiny", "tags": [], "error": error,
    }  # fmt: skip


@given(st.lists(RESULTS, max_size=4))
def test_csv_reads_back(results: list[Tags]) -> None:
    written = writers.header("csv") + "".join(map(writers.csv_rows, results))
    rows = list(csv.DictReader(io.StringIO(written, newline="")))
    assert len(rows) == sum(max(1, len(tags.tags)) for tags in results)
    wanted = [(tags.path or "", tag.id, tag.name, tag.score) for tags in results for tag in tags.tags]
    found = [(row["path"], row["id"], row["name"], float(row["score"])) for row in rows if row["score"]]
    assert found == wanted


def test_csv_has_a_row_for_a_failure() -> None:
    assert writers.csv_rows(FAILED) == "gone.jpg,0,0,tiny,,,,,ImageError,gone.jpg: no such file\n"
    assert writers.header("text") == writers.header("jsonl") == ""


@given(RESULTS, st.integers(20, 200))
def test_terminal_shows_every_tag_within_its_width(tags: Tags, width: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(width))
        patch.delenv("NO_COLOR", raising=False)
        first, *lines = ANSI.sub("", writers.terminal(tags)).removesuffix("\n").split("\n")
    assert first.isprintable()
    assert first == writers.visible(tags.path or "")
    named = [f"{tag.name} {tag.score:.2f}" for tag in tags.tags] or ["no tags"]
    assert "".join(line.removeprefix("  ").ljust(3) for line in lines).split() == "   ".join(named).split()
    room = max(width, *(len(name) + 2 for name in named))  # a name longer than a line has one of its own
    assert all(len(line.rstrip()) <= room for line in lines)


def test_no_color_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert ANSI.search(writers.terminal(PHOTO))
    monkeypatch.setenv("NO_COLOR", "1")
    assert not ANSI.search(writers.terminal(PHOTO))


def test_file_is_written_beside_and_renamed(tmp_path: Path) -> None:
    target, part = tmp_path / "out.jsonl", tmp_path / "out.jsonl.part"
    target.write_text("earlier")
    with writers.File(target, "jsonl") as file:
        file.write("row\n")
        assert part.read_text() == "row\n"  # whole rows can be read while work goes on
        assert target.read_text() == "earlier"
    assert target.read_text() == "row\n"
    assert not part.exists()


def test_interrupted_file_keeps_what_was_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target, part = tmp_path / "out.jsonl", tmp_path / "out.jsonl.part"
    target.write_text("earlier")
    with pytest.raises(KeyboardInterrupt), writers.File(target, "jsonl") as file:
        file.write("row\n")
        raise KeyboardInterrupt
    assert (target.read_text(), part.read_text()) == ("earlier", "row\n")
    assert str(part) in capsys.readouterr().err


def test_nothing_is_left_where_nothing_was_done(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), writers.File(tmp_path / "out", "text"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_link_stays_a_link_and_a_device_is_written_directly(tmp_path: Path) -> None:
    (tmp_path / "real").touch()
    (tmp_path / "link").symlink_to("real")
    with writers.File(tmp_path / "link", "text") as file:
        file.write("row\n")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "row\n"
    with writers.File(Path(os.devnull), "text") as file:
        file.write("row\n")
    assert not Path(os.devnull).is_file()


def test_a_file_that_cannot_be_written_is_wrong_use(tmp_path: Path) -> None:
    with (
        pytest.raises(click.UsageError, match=r"Cannot write .*part: No such file"),
        writers.File(tmp_path / "no" / "x", "text"),
    ):
        pass


def test_names_that_are_not_unicode_are_kept(tmp_path: Path) -> None:
    path = os.fsdecode(b"caf\xe9.jpg")
    tags = Tags(path, 1, 1, "tiny", ())
    for name in writers.FORMATS:
        with writers.File(tmp_path / name, name) as file:
            file.write(writers.FORMATS[name](tags))
    assert b"caf\xe9.jpg" in (tmp_path / "text").read_bytes()
    assert b"caf\xe9.jpg" in (tmp_path / "csv").read_bytes()
    assert json.loads((tmp_path / "jsonl").read_bytes())["path"] == path
    assert "\\udce9" in writers.terminal(tags)
