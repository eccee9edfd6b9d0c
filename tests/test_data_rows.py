"""`anytag.data.rows`: reading and writing rows.jsonl."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anytag.data.rows import Row, read_rows, select, write_rows
from anytag.errors import AnytagError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
TEXTS = st.lists(TEXT, max_size=3).map(tuple)
ROWS = st.lists(st.builds(Row, TEXT, TEXT, TEXT, TEXTS, TEXTS, TEXTS), max_size=5)


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


@pytest.mark.parametrize("line", ["", "{", "[1]", '"a"', '{"image": "a.jpg"}', '{"photo": "a.jpg"}'])
def test_wrong_line_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"image": "a.jpg", "source": "made", "split": "train"}\n' + line + "\n")
    with pytest.raises(AnytagError, match=re.escape(f"{path}, line 2: not a row")):
        read_rows(path)


def test_select() -> None:
    rows = [Row("a", "x", "train"), Row("b", "y", "train"), Row("c", "x", "test")]
    assert [row.image for row in select(rows, split="train")] == ["a", "b"]
    assert [row.image for row in select(rows, split="train", source="x")] == ["a"]
