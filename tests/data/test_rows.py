"""`anytag.data.rows`: reading and writing rows.jsonl."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anytag.data.rows import Row, by_photo, parse_lines, read_rows, row_of, select, write_rows
from anytag.errors import AnytagError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
PATHS = st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=12).filter(str.strip)
PLAIN = TEXT.map(lambda text: " ".join(text.split()))
CAPTIONS = st.lists(PLAIN, max_size=3).map(tuple)
TAGS = st.lists(PLAIN.filter(bool), max_size=3, unique=True).map(tuple)
SPLITS = st.sampled_from(["train", "val", "dev", "test", ""])
ROWS = st.lists(st.builds(Row, PATHS, TEXT, SPLITS, CAPTIONS, TAGS, TAGS), max_size=5)


@settings(max_examples=50, deadline=None)
@given(rows=ROWS)
def test_what_is_written_is_read(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    write_rows(path, rows)
    assert read_rows(path) == rows


def test_captions_and_tags_may_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"image": "a.jpg", "source": "made", "split": "train"}\n')
    assert read_rows(path) == [Row("a.jpg", "made", "train")]


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[1]",
        "[" * 100_000,
        '{"image": " ", "source": "s", "split": ""}',
        '"a"',
        '{"image": "a.jpg"}',
        '{"photo": "a.jpg"}',
    ],
)
def test_wrong_line_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"image": "a.jpg", "source": "made", "split": "train"}\n' + line + "\n")
    with pytest.raises(AnytagError, match=re.escape(f"{path}, line 2: not a row")):
        read_rows(path)


@pytest.mark.parametrize(
    ("given", "split"),
    [
        ("Validation", "val"), ("valid", "val"), ("eval", "val"), ("val2017", "val"), ("VAL", "val"),
        ("test-1", "test"), ("testing", "test"), (" train ", "train"), ("restval", "train"), ("dev", "dev"),
        ("development", "dev"), ("", "own"), (None, "own"),
    ],
)  # fmt: skip
def test_splits_by_other_names(given: str | None, split: str) -> None:
    assert row_of({"image": "a.jpg", "split": given}, source="s", split="own").split == split


@pytest.mark.parametrize("given", ["held out", "validaton", "2017", "fold1"])
def test_an_unknown_split_is_no_training(given: str) -> None:
    with pytest.raises(ValueError, match=f"split '{given}' is unknown"):
        row_of({"image": "a.jpg", "split": given}, source="s", split="train")


def test_names_have_no_spaces_around_them_and_each_counts_once(tmp_path: Path) -> None:
    tags, origins = ["dog ", "red  car", "", "dog"], ["text", "label", "text", "model"]
    given = {
        "image": "a.jpg",
        "tags": tags,
        "origins": origins,
        "captions": [" A  dog\n"],
        "absent": ["cat ", " "],
    }
    row = row_of(given, source="s", split="")
    assert row.origins_by_tag == (("dog", "text"), ("red car", "label"))
    assert (row.captions, row.absent) == (("A dog",), ("cat",))


def test_empty_lines_are_no_rows_and_wrong_ones_do_not_stop_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    good = b'{"image": "a.jpg"}\n'
    odd = b'{"image": "x", "tags": ["\\ud83d"]}'
    path.write_bytes(b"\xef\xbb\xbf" + good + b"\n  \n\xff\xfe\n{\n" + good + odd)
    errors: list[str] = []
    with path.open("rb") as lines:
        rows = list(parse_lines(lines, "rows.jsonl", source="s", split="", on_error=errors.append))
    assert [row.image for row in rows] == ["a.jpg", "a.jpg"]
    assert [error.split(":")[0] for error in errors] == [f"rows.jsonl, line {number}" for number in (4, 5, 7)]
    with pytest.raises(AnytagError, match="is UTF-16"):
        list(parse_lines(['{"image": "a.jpg"}'.encode("utf-16")], "rows.jsonl"))


def test_select() -> None:
    rows = [Row("a", "x", "train"), Row("b", "y", "train"), Row("c", "x", "test")]
    assert [row.image for row in select(rows, split="train")] == ["a", "b"]
    assert [row.image for row in select(rows, split="train", source="x")] == ["a"]


def test_rows_of_a_photo_become_one_with_all_that_they_say() -> None:
    rows = [
        Row("a.jpg", "own", "", captions=("A dog.",), absent=("cat", "bird")),
        Row("b.jpg", "own", "", tags=("dog",)),
        Row("a.jpg", "own", "", captions=("A cat.",), tags=("cat", "dog"), origins=("label", "model")),
        Row("a.jpg", "own", "test"),
    ]
    one, other, held = by_photo(rows)
    assert one.captions == ("A dog.", "A cat.") and one.absent == ("bird",)
    assert one.origins_by_tag == (("cat", "label"), ("dog", "model"))
    assert (other, held) == (rows[1], rows[3])
