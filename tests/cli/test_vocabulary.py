"""`anytag vocabulary`: from captions to a table, through an editor, to a vocabulary."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from anytag.data.vocabulary.review import read_review
from anytag.vocabulary import Vocabulary
from tests.command import run

CAPTIONS = ["A dog on a hoverbord.", "Two dogs chase a bike", "The dog rides bikes in the park", "no cats"]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    rows = [{"image": f"{n}.jpg", "captions": [caption]} for n, caption in enumerate(CAPTIONS)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "captions.txt").write_text("\n".join(CAPTIONS))
    return tmp_path


@pytest.mark.parametrize("name", ["rows.jsonl", "captions.txt"])
def test_from_captions_to_a_vocabulary(corpus: Path, name: str) -> None:
    table, report, out = corpus / "c.tsv", corpus / "c.html", corpus / "v.jsonl"
    done = run(
        "vocabulary", "candidates", corpus / name, "--output", table, "--report", report,
        "--min-count", "1", "--new",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert "4 captions" in done.stderr
    rows = {row.name: row for row in read_review(table)}
    assert (rows["dog"].count, rows["bicycle"].synonyms) == (3, ("bike",))
    assert rows["hoverbord"].action == "drop" and "cat" not in rows
    assert "<svg" in report.read_text("utf-8")
    table.write_text(
        table.read_text("utf-8").replace("keep\tdog\tobject\t\t", "keep\tdog\tobject\t\thound"), "utf-8"
    )
    done = run("vocabulary", "build", table, "--output", out, "--size", "2")
    assert done.exit_code == 0, done.stderr
    assert Vocabulary.read(out).ids == ("hound", "bicycle")


def test_lists_top_and_limit(corpus: Path) -> None:
    (corpus / "in.txt").write_text("# wanted\nyak\n")
    (corpus / "out.txt").write_text("dog\n")
    table = corpus / "c.csv"
    done = run(
        "vocabulary", "candidates", corpus / "rows.jsonl", "--output", table, "--min-count", "1",
        "--top", "2", "--limit", "2", "--include", corpus / "in.txt", "--exclude", corpus / "out.txt",
        "--similar", "1",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert [(row.name, row.action) for row in read_review(table)] == [
        ("dog", "drop"), ("bicycle", "keep"), ("yak", "keep"),
    ]  # fmt: skip


def test_listed_names_that_few_captions_have(corpus: Path) -> None:
    (corpus / "in.txt").write_text("bike\npark\nyak\n")
    for number, arguments in enumerate((("--min-count", "3"), ("--min-count", "1", "--top", "1"))):
        table = corpus / f"{number}.tsv"
        lists = "--include", corpus / "in.txt", "--similar", "1"
        done = run("vocabulary", "candidates", corpus / "rows.jsonl", "--output", table, *lists, *arguments)
        assert done.exit_code == 0, done.stderr
        found = [(row.name, row.kind, row.count, row.synonyms) for row in read_review(table)]
        assert found == [
            ("dog", "object", 3, ()),
            ("bicycle", "object", 2, ("bike",)),
            ("park", "scene", 1, ()),
            ("yak", "object", 0, ()),
        ]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([("drop", "cat", "")], "no row keeps a tag"),
        ([("keep", "cat", "dog"), ("keep", "dog", "cat")], "'cat' and 'dog' are broader tags of each other"),
    ],
)
def test_a_table_without_a_vocabulary(tmp_path: Path, rows: list[tuple[str, str, str]], says: str) -> None:
    table = tmp_path / "t.csv"
    lines = ["action,name,kind,parents", *(f"{what},{name},object,{above}" for what, name, above in rows)]
    table.write_text("\n".join(lines))
    done = run("vocabulary", "build", table, "--output", tmp_path / "v.jsonl")
    assert done.exit_code == 2 and says in done.stderr
    assert not (tmp_path / "v.jsonl").exists()


def test_recipes_are_sizes(corpus: Path) -> None:
    table = corpus / "c.tsv"
    assert run(
        "vocabulary", "candidates", corpus / "rows.jsonl", "--output", table,
        "--min-count", "1", "--recipe", "ram",
    ).exit_code == 0  # fmt: skip
    done = run("vocabulary", "build", table, "--output", corpus / "v.jsonl", "--recipe", "ram")
    assert done.exit_code == 0 and "tags in" in done.stderr


def test_no_output_replaces_an_input_or_something_else(corpus: Path) -> None:
    letter, captions, rows = corpus / "letter.txt", corpus / "captions2.txt", corpus / "rows.jsonl"
    letter.write_text("dear\n")
    captions.write_text("a dog on a beach\n")
    before = {path: path.read_bytes() for path in (letter, captions, rows)}
    for output in (captions, rows, letter, corpus / "a.png", corpus, corpus / "no" / "table.tsv"):
        done = run("vocabulary", "candidates", captions, rows, "--output", output)
        assert done.exit_code == 2, done.stderr
    table, page = corpus / "t.tsv", corpus / "t.html"
    for report in (captions, letter, table):
        done = run("vocabulary", "candidates", captions, "--output", table, "--report", report)
        assert done.exit_code == 2, done.stderr
    command = ("vocabulary", "candidates", captions, "--min-count", "1", "--output", table, "--report", page)
    assert run(*command).exit_code == 0
    edited = run(*command)
    assert edited.exit_code == 2 and f"{table} exists already: give another file" in edited.stderr
    table.unlink()
    assert run(*command).exit_code == 0, "an earlier page is replaced"
    page.write_text("<!doctype html><title>My home page</title>")
    table.rename(corpus / "edited.tsv")
    assert run(*command).exit_code == 2 and "My home page" in page.read_text()
    (corpus / "edited.tsv").rename(table)
    for output in (table, letter, corpus / "v.png"):
        assert run("vocabulary", "build", table, "--output", output).exit_code == 2
    for code in (0, 2):
        assert run("vocabulary", "build", table, "--output", corpus / "v.jsonl").exit_code == code
    assert {path: path.read_bytes() for path in before} == before


def test_texts_in_another_encoding_are_named(corpus: Path) -> None:
    odd, table = corpus / "odd.txt", corpus / "t.tsv"
    odd.write_bytes(b"a caf\xe9\n")
    for arguments in (
        (odd,),
        (corpus / "rows.jsonl", "--include", odd),
        (corpus / "rows.jsonl", "--exclude", odd),
    ):
        done = run("vocabulary", "candidates", *arguments, "--output", table)
        assert done.exit_code == 2 and "odd.txt is not in UTF-8" in done.stderr
    assert not table.exists()
    odd.write_bytes("a dog on a beach\n".encode("utf-16"))
    assert run("vocabulary", "candidates", odd, "--min-count", "1", "--output", table).exit_code == 0
    assert "dog" in table.read_text()


def test_wrong_use(corpus: Path) -> None:
    (corpus / "bad.tsv").write_text("action\tname\tkind\nburn\tdog\tobject\n")
    done = run("vocabulary", "build", corpus / "bad.tsv", "--output", corpus / "v.jsonl")
    assert done.exit_code == 2 and "burn" in done.stderr
    assert not (corpus / "v.jsonl").exists()
    assert run("vocabulary", "candidates", corpus / "missing.jsonl").exit_code == 2
