from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anytag.data.rows import Row
from anytag.errors import AnytagError
from anytag.torch.training.dataset import conflicts, find_copies, read_data, split_rows
from anytag.torch.training.labels import UNLABELLED, label_rows
from anytag.vocabulary import Tag, Vocabulary

BASE = Vocabulary([Tag("dog", "dog", "object", synonyms=("hound",), parents=("animal",))])


def row(*tags: str, captions: tuple[str, ...] = (), absent: tuple[str, ...] = (), split: str = "") -> Row:
    return Row("1.jpg", "own", split, captions, tags, absent)


def test_one_tag_each_is_a_class() -> None:
    labels = label_rows([row("dog"), row("my cup"), row("my cup")], BASE)
    assert labels.kind == "classes"
    assert [tag.id for tag in labels.vocabulary] == ["dog", "my cup"]
    assert labels.vocabulary["dog"].synonyms == ("hound",)
    assert labels.present.tolist() == [[1, 0], [0, 1], [0, 1]]
    assert labels.weight.min() == 1


def test_only_positives_leave_silence_uncertain() -> None:
    labels = label_rows([row("a"), row("b", absent=("a",))], BASE, positives_only=True)
    assert labels.weight.tolist() == [[1, np.float32(UNLABELLED)], [1, 1]]


def test_rare_tags_weigh_more() -> None:
    labels = label_rows([row("a"), *[row("b")] * 9], BASE)
    assert labels.class_weights().tolist() == pytest.approx([3, 1])


def test_captions_make_a_vocabulary() -> None:
    rows = [row(captions=("A dog on a beach.",)), row(captions=("A dog.", "A hound."))] * 3
    labels = label_rows(rows, BASE)
    assert labels.kind == "captions"
    assert [tag.id for tag in labels.vocabulary] == ["dog"]
    assert labels.present.min() == 1


def test_names_that_differ_in_case_are_one_tag() -> None:
    assert len(label_rows([row("Cup"), row("cup")], BASE).vocabulary) == 1


def test_rows_that_say_nothing() -> None:
    with pytest.raises(AnytagError, match="none of the 1 rows has a tag"):
        label_rows([row()], BASE)


def test_a_table_with_and_without_header(tmp_path: Path) -> None:
    plain, named = tmp_path / "a.csv", tmp_path / "b.tsv"
    plain.write_text('1.jpg,dog; my  cup\n"2,5.jpg",\n')
    named.write_text("tags\timage\tcaptions\tsplit\ndog\t1.jpg\tA dog.|A hound.\ttest\n")
    assert read_data(plain) == [
        Row("1.jpg", "own", "", tags=("dog", "my cup")),
        Row("2,5.jpg", "own", ""),
    ]
    assert read_data(named) == [Row("1.jpg", "own", "test", ("A dog.", "A hound."), ("dog",))]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image,colour\n1.jpg,dog\n", "unknown column 'colour'"),
        ("1.jpg,dog,cat\n", "line 1: 3 cells, expected 2"),
        ("image,tags\n,dog\n", "line 2: 2 cells"),
        ("", "holds no rows"),
    ],
)
def test_tables_that_are_wrong(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(AnytagError, match=said):
        read_data(tmp_path / "a.csv")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(AnytagError, match=r"give a \.csv of image,tags"):
        read_data(tmp_path / "a.csv")


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=60), st.floats(0, 0.9))
def test_every_tag_keeps_a_photo_to_learn_from(tags: list[str], part: float) -> None:
    rows = [row(tag) for tag in tags]
    taught, held = split_rows(rows, part)
    assert sorted([*taught, *held]) == list(range(len(rows)))
    assert {tags[n] for n in taught} == set(tags)
    assert len(held) <= part * len(rows) + 1e-9


def test_named_splits_are_obeyed() -> None:
    taught, held = split_rows([row("a", split="train"), row("a", split="val"), row("b")], 0.5)
    assert (taught.tolist(), held.tolist()) == ([0, 2], [1])


def test_copies_come_into_one_part_and_are_told(tmp_path: Path) -> None:
    for name, body in {"a.jpg": b"1", "b.jpg": b"1", "c.jpg": b"2", "d.jpg": b"33"}.items():
        (tmp_path / name).write_bytes(body)
    (tmp_path / "link.jpg").symlink_to("d.jpg")
    named = [
        "a.jpg",
        "b.jpg",
        "c.jpg",
        "d.jpg",
        "link.jpg",
        "./a.jpg",
        "gone.jpg",
        "gone.jpg",
        "s3://b/x.jpg",
    ]
    tags = ["x", "x", "x", "x", "y", "x", "x", "x", "x"]
    rows = [Row(name, "own", "", tags=(tag,)) for name, tag in zip(named, tags, strict=True)]
    same = find_copies(rows, str(tmp_path))
    assert same.tolist() == [0, 0, 2, 3, 3, 0, 6, 6, 8]
    assert conflicts(rows, same) == [("d.jpg", "link.jpg")]
    for seed in range(20):
        taught, held = split_rows(rows, 0.5, seed=seed, same=same)
        assert len(held) and not set(same[taught]) & set(same[held])
        assert sorted([*taught, *held]) == list(range(len(rows)))
    marked = [replace(one, split="test" if number == 1 else "train") for number, one in enumerate(rows)]
    taught, held = split_rows(marked, 0.5, same=same)
    assert held.tolist() == [1]
    assert taught.tolist() == [2, 3, 4, 6, 7, 8], "copies of what is held out are not learned from"
