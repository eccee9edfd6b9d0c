"""`anytag describe`: from words to descriptions.jsonl, with a chat model on 127.0.0.1 and without."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anytag.vocabulary import Tag, Vocabulary
from tests.chat_server import Chat, chat_server, status
from tests.command import run


@pytest.fixture
def chat() -> Iterator[Chat]:
    with chat_server() as server:
        yield server


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_with_a_model(chat: Chat, tmp_path: Path) -> None:
    out = tmp_path / "d.jsonl"
    arguments = ("describe", "cat", "Ice cream", "cat", "--llm", chat.url, "--model", "m", "--answers", "1")
    done = run(*arguments, "--output", out, "--yes", "--price", "1", "1000", "--rate", "60000")
    assert done.exit_code == 0, done.stderr
    assert "2 tags: 10 answers to request, 0 stored" in done.stderr
    assert "at most 0.77 at this price" in done.stderr
    assert [(row["id"], len(row["descriptions"])) for row in rows(out)] == [("cat", 6), ("ice-cream", 6)]
    again = run(*arguments, "--output", out)  # nothing left to ask, so nothing to agree to
    assert again.exit_code == 0, again.stderr
    assert len(chat.asked) == 10


def test_a_dry_run_asks_nothing(chat: Chat, tmp_path: Path) -> None:
    out = tmp_path / "d.jsonl"
    done = run("describe", "cat", "--llm", chat.url, "--model", "m", "--output", out, "--dry-run")
    assert done.exit_code == 0
    assert "50 answers to request" in done.stderr
    assert not chat.asked and not list(tmp_path.iterdir())


def test_nothing_begins_without_a_yes(chat: Chat, tmp_path: Path) -> None:
    done = run("describe", "cat", "--llm", chat.url, "--model", "m", "--output", tmp_path / "d.jsonl")
    assert done.exit_code == 2 and "--yes" in done.stderr
    assert not chat.asked


def test_answers_that_are_missing_are_told(chat: Chat, tmp_path: Path) -> None:
    chat.faults = [status(500)]
    arguments = (
        "--model",
        "m",
        "--answers",
        "1",
        "--attempts",
        "1",
        "--yes",
        "--output",
        tmp_path / "d.jsonl",
    )
    done = run("describe", "cat", "--llm", chat.url, *arguments)
    assert done.exit_code == 1
    assert "status 500" in done.stderr and "1 answers are missing" in done.stderr
    assert len(rows(tmp_path / "d.jsonl")[0]["descriptions"]) == 5


def test_a_refusal_is_wrong_use(chat: Chat, tmp_path: Path) -> None:
    chat.faults = [status(404)] * 50
    done = run(
        "describe", "cat", "--llm", chat.url, "--model", "m", "--yes", "--output", tmp_path / "d.jsonl"
    )
    assert done.exit_code == 2 and "status 404" in done.stderr


def test_without_a_model(tmp_path: Path) -> None:
    Vocabulary([Tag("hot-dog", "hot dog", "object")]).write(tmp_path / "v.jsonl")
    (tmp_path / "words.txt").write_text("corgi\n\nespresso: a small cup\n")
    out = tmp_path / "d.jsonl"
    done = run(
        "describe",
        "--vocabulary",
        tmp_path / "v.jsonl",
        "--tags-from",
        tmp_path / "words.txt",
        "--output",
        out,
    )
    assert done.exit_code == 0, done.stderr
    assert [row["id"] for row in rows(out)] == ["corgi", "espresso", "hot-dog"]
    assert rows(out)[0]["descriptions"][0] == "a photo of a corgi."


def test_nobody_listens(tmp_path: Path) -> None:
    out = tmp_path / "d.jsonl"
    done = run("describe", "cat", "--llm", "http://127.0.0.1:9/v1", "--model", "m", "--yes", "--output", out)
    assert done.exit_code == 2 and done.stderr.count("is not reachable") == 1
    assert not out.exists()


def test_no_output_replaces_an_input_or_something_else(tmp_path: Path) -> None:
    vocabulary, letter = tmp_path / "v.jsonl", tmp_path / "letter.txt"
    Vocabulary([Tag("dog", "dog", "object")]).write(vocabulary)
    letter.write_text("dear\n")
    os.link(vocabulary, tmp_path / "same.jsonl")
    before = vocabulary.read_bytes()
    for output in (
        vocabulary,
        tmp_path / "same.jsonl",
        letter,
        tmp_path / "a.png",
        tmp_path,
        tmp_path / "no" / "d",
    ):
        done = run("describe", "--vocabulary", vocabulary, "--tags-from", letter, "--output", output)
        assert done.exit_code == 2, done.stderr
    assert run("describe", "cat", "--output", vocabulary).exit_code == 2, "no input, and no descriptions"
    assert (vocabulary.read_bytes(), letter.read_text()) == (before, "dear\n")
    out = tmp_path / "d.jsonl"
    assert run("describe", "cat", "--output", out).stdout == f"1 row -> {out}\n"
    again = run("describe", "cat", "--output", out)
    assert again.exit_code == 2 and f"{out} exists already: give another file" in again.stderr


def test_descriptions_of_a_model_are_kept(chat: Chat, tmp_path: Path) -> None:
    out = tmp_path / "d.jsonl"
    to = ("--answers", "1", "--yes", "--output", out)
    first = ("describe", "cat", "dog", "--llm", chat.url, "--model", "m", *to)
    assert run(*first).exit_code == 0
    written = out.read_bytes()
    for again in (
        ("describe", "cat", "dog", "--output", out),  # templates
        ("describe", "bird", "--llm", chat.url, "--model", "m", *to),  # other tags
    ):
        done = run(*again)
        assert done.exit_code == 2 and "exists already" in done.stderr, done.output
        assert out.read_bytes() == written
    assert run(*first[:3], "bird", *first[3:]).exit_code == 0, "more tags"
    assert [row["id"] for row in rows(out)] == ["cat", "dog", "bird"]
    out.write_text(out.read_text().replace("answer 1 ", "my own text "))
    done = run(*first[:3], "bird", *first[3:])
    assert done.exit_code == 2 and "my own text" in out.read_text(), "edited by hand"


def test_a_list_with_comments(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_bytes(b"\xef\xbb\xbf# my words\ncorgi\n\n  # more\nC#\n")
    done = run("describe", "--tags-from", tmp_path / "words.txt", "--output", tmp_path / "d.jsonl")
    assert done.exit_code == 0, done.stderr
    assert [row["name"] for row in rows(tmp_path / "d.jsonl")] == ["corgi", "C#"]


def test_a_tag_of_the_vocabulary_keeps_its_kind(tmp_path: Path) -> None:
    Vocabulary([Tag("orange", "orange", "attribute")]).write(tmp_path / "v.jsonl")
    out = tmp_path / "d.jsonl"
    done = run("describe", "orange", "red", "--vocabulary", tmp_path / "v.jsonl", "--output", out)
    assert done.exit_code == 0, done.stderr
    assert [row["descriptions"] for row in rows(out)] == [["a photo of a orange."], ["a photo of a red."]]


def test_names_of_one_id_are_not_dropped(tmp_path: Path) -> None:
    done = run("describe", "C++", "C#", "--output", tmp_path / "d.jsonl")
    assert done.exit_code == 2 and "'C++' and 'C#' would both have the id 'c'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "Name tags"),
        (("cat", "--model", "m"), "--llm"),
        (("cat", "--llm", "http://127.0.0.1:9"), "--model NAME"),
        (("cat", "--dry-run"), "--llm"),
        ((": nothing",), "is not a tag"),
        (("cat", "--rate", "nan"), "nan is not a finite number"),
        (("cat", "--timeout", "inf"), "inf is not a finite number"),
        (("cat", "--price", "0.1", "nan"), "nan is not a finite number"),
        (("cat", "--price", "-1", "0"), "-1.0 is not in the range"),
        (("cat", "--answers", "99999999999999999999"), "not in the range 1<=x<=1000"),
    ],
)
def test_wrong_use(arguments: tuple[str, ...], said: str) -> None:
    done = run("describe", *arguments)
    assert done.exit_code == 2 and said in done.stderr
