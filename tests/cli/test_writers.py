from __future__ import annotations

import csv
import io
import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anytag import Failure, TagResult, TagScore
from anytag.cli import writers

ANSI = re.compile(r"\x1b\[[0-9;]*m")
NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1)
TAGS = st.builds(TagScore, NAMES, NAMES, st.floats(0, 1), st.sampled_from(["vocabulary", "custom"]))
RESULTS = st.builds(
    TagResult,
    path=st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    width=st.integers(1, 9999),
    height=st.integers(1, 9999),
    model=NAMES,
    tags=st.lists(TAGS, max_size=4).map(tuple),
)
PHOTO = TagResult(
    "a b.jpg",
    4,
    3,
    "tiny",
    (TagScore("dog", "dog", 0.974, "vocabulary"), TagScore("custom:x", "x", 0.5, "custom")),
)
FAILED = TagResult("gone.jpg", 0, 0, "tiny", (), Failure("ImageError", "gone.jpg: no such file"))


def test_text_is_one_line_a_photo() -> None:
    assert writers.text(PHOTO) == "a b.jpg\tdog 0.97, x 0.50\n"
    assert writers.text(FAILED) == writers.terminal(FAILED) == ""


def test_what_shows_names_shows_each_once_and_what_has_ids_shows_all() -> None:
    scores = (("orange-object", 0.9), ("orange", 0.7))
    tags = tuple(TagScore(id_, "orange", score, "vocabulary") for id_, score in scores)
    photo = TagResult("a.jpg", 4, 3, "tiny", tags)
    assert writers.text(photo) == "a.jpg\torange 0.90\n"
    assert ANSI.sub("", writers.terminal(photo)) == "a.jpg\n  orange 0.90   \n"
    assert [row[4:7] for row in csv.reader(io.StringIO(writers.csv_rows(photo)))] == [
        [id_, "orange", str(score)] for id_, score in scores
    ]


@given(RESULTS)
def test_text_never_breaks_its_line(tags: TagResult) -> None:
    line = writers.text(tags)
    assert line.endswith("\n")
    assert line.count("\n") == line.count("\t") == 1


@given(RESULTS)
def test_jsonl_is_the_dictionary(tags: TagResult) -> None:
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
            {"id": "custom:x", "name": "x", "score": 0.5, "source": "custom"},
        ],
        "error": None,
    }
    error = {"type": "ImageError", "message": "gone.jpg: no such file"}
    assert json.loads(writers.jsonl(FAILED)) == {
        "path": "gone.jpg", "width": 0, "height": 0, "model": "tiny", "tags": [], "error": error,
    }  # fmt: skip


@given(st.lists(RESULTS, max_size=4))
def test_csv_reads_back(results: list[TagResult]) -> None:
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
def test_terminal_shows_every_tag_within_its_width(tags: TagResult, width: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(width))
        patch.delenv("NO_COLOR", raising=False)
        first, *lines = ANSI.sub("", writers.terminal(tags)).removesuffix("\n").split("\n")
    assert first.isprintable()
    assert first == writers.visible(tags.path or "")
    named = [f"{tag.name} {tag.score:.2f}" for tag in tags.shown] or ["no tags"]
    assert "".join(line.removeprefix("  ").ljust(3) for line in lines).split() == "   ".join(named).split()
    room = max(width, *(len(name) + 2 for name in named))  # a name longer than a line has one of its own
    assert all(len(line.rstrip()) <= room for line in lines)


def test_no_color_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert ANSI.search(writers.terminal(PHOTO))
    monkeypatch.setenv("NO_COLOR", "1")
    assert not ANSI.search(writers.terminal(PHOTO))


def test_a_name_that_is_not_unicode_is_shown(tmp_path: Path) -> None:
    assert "\\udce9" in writers.terminal(TagResult(os.fsdecode(b"caf\xe9.jpg"), 1, 1, "tiny", ()))


def test_low_scores_have_the_terminal_s_own_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    low = TagResult("a.jpg", 1, 1, "tiny", (TagScore("dog", "dog", 0.2, "vocabulary"),))
    assert "\x1b[37m" not in writers.terminal(low)


def test_complaints_obey_no_color(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[str] = []
    monkeypatch.setattr("anytag.cli.writers.click.echo", lambda text, **_: seen.append(text))
    for value in ("", "1"):
        monkeypatch.setenv("NO_COLOR", value)
        writers.echo_error("Failed: a\x1b[2J")
    assert seen == ["\x1b[31mFailed: a\\x1b[2J\x1b[0m", "Failed: a\\x1b[2J"]
