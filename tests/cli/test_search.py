"""`anytag search` on a library that `anytag library sync` made of the example photos."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from PIL import Image

from tests.command import run

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"
COUNT = len(list(PHOTOS.glob("*.jpg")))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("library")
    for photo in PHOTOS.glob("*.jpg"):
        (folder / photo.name).write_bytes(photo.read_bytes())
    done = run("library", "sync", folder, "--database", folder / "library.db")
    assert done.exit_code == 0, done.stderr
    return "--database", folder / "library.db"


def names(stdout: str) -> list[str]:
    return [Path(line.split("\t")[0]).name for line in stdout.splitlines()]


@pytest.mark.parametrize(
    ("text", "name"), [("a cat", "cat.jpg"), ("a raccoon", "raccoon.jpg"), ("Blume", "flower.jpg")]
)
def test_a_photo_is_found_by_words(library: tuple[str, Path], text: str, name: str) -> None:
    done = run("search", text, *library)
    assert (done.exit_code, done.stderr) == (0, "")
    assert names(done.stdout)[0] == name


@pytest.mark.parametrize("text", ["a submarine reactor", "a pizza", "the tax of a logarithm", "blorf wizzet"])
def test_nothing_fits_is_said(library: tuple[str, Path], text: str) -> None:
    done = run("search", text, *library)
    assert (done.exit_code, done.stdout) == (0, "")
    assert f"None of {COUNT} photos fits {text!r}; the nearest: " in done.stderr


def test_rows_of_json_lines(library: tuple[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "found.jsonl"
    for _ in range(2):  # the second replaces the first
        done = run("search", "a cat", *library, "--top-k", "1", "--output", file)
        assert (done.exit_code, done.stdout, done.stderr) == (0, "", "")
    (row,) = [json.loads(line) for line in file.read_text().splitlines()]
    assert Path(row["path"]).name == "cat.jpg" and "cat" in row["tags"]
    assert row["score"] > 0.5 and row["copies"] == []


def test_filters(library: tuple[str, Path]) -> None:
    cats = run("search", "--tag", "cat", *library)
    assert names(cats.stdout) == ["cat.jpg"]
    rest = run("search", "--not", "cat", "--top-k", "99", *library)
    assert len(names(rest.stdout)) == COUNT - 1 and "cat.jpg" not in rest.stdout
    (library[1].parent / "empty").mkdir(exist_ok=True)
    empty = run("search", "a cat", "--in", library[1].parent / "empty", *library)
    assert (empty.exit_code, empty.stdout) == (0, "")
    assert "No photo of the library matches" in empty.stderr
    above = run("search", "a cat", "--in", library[1].parents[1], *library)
    assert names(above.stdout) == ["cat.jpg"]


def test_likeness_to_a_copy_from_outside(library: tuple[str, Path], tmp_path: Path) -> None:
    with Image.open(PHOTOS / "raccoon.jpg") as photo:
        photo.resize((photo.width * 2 // 3, photo.height * 2 // 3)).save(tmp_path / "small.jpg", quality=70)
    outside = run("search", "--like", tmp_path / "small.jpg", *library)
    assert names(outside.stdout)[0] == "raccoon.jpg"
    inside = run("search", "--like", library[1].parent / "raccoon.jpg", "--top-k", "99", *library)
    assert len(names(inside.stdout)) == COUNT - 1 and "raccoon.jpg" not in inside.stdout


def test_the_best_is_opened(library: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(click, "launch", opened.append)
    run("search", "a cat", "--open", *library)
    assert [Path(path).name for path in opened] == ["cat.jpg"]
    run("search", "a submarine reactor", "--open", *library)
    assert len(opened) == 1


def test_wrong_use_is_said_in_a_sentence(library: tuple[str, Path], tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    wrong: list[tuple[str, tuple[str | Path, ...]]] = [
        ("Give a text", library),
        ("There is no library", ("a cat", "--database", tmp_path / "none.db")),
        (f"the folder {tmp_path / 'away'} does not exist", ("a cat", "--in", tmp_path / "away", *library)),
        (f"the folder {tmp_path} is not in the library", ("a cat", "--in", tmp_path, *library)),
        ("broken.jpg is a file", ("a cat", "--in", tmp_path / "broken.jpg", *library)),
        ("'blorf' is neither a tag", ("a cat", "--tag", "blorf", *library)),
        ("'wizzet' is neither a tag", ("--tag", "cat", "--not", "wizzet", *library)),
        ("is not a date", ("a cat", "--after", "soon", *library)),
        ("expected words", (" ", *library)),
        ("broken.jpg", ("--like", tmp_path / "broken.jpg", *library)),
        ("missing.jpg", ("--like", tmp_path / "missing.jpg", *library)),
        ("suffix of a photo", ("a cat", "--output", tmp_path / "broken.jpg", *library)),
    ]
    for said, arguments in wrong:
        done = run("search", *arguments)
        assert (done.exit_code, done.stdout) == (2, ""), done.stderr
        assert said in done.stderr
    assert not (tmp_path / "none.db").exists()
    assert (tmp_path / "broken.jpg").read_bytes() == b"no photo"


def test_a_smaller_copy_of_worse_quality_is_folded(tmp_path: Path) -> None:
    database = ("--database", tmp_path / "library.db")
    for name in ("cat.jpg", "flower.jpg"):
        with Image.open(PHOTOS / name) as photo:
            photo.save(tmp_path / name)
            photo.resize((photo.width // 4, photo.height // 4)).save(tmp_path / f"small {name}", quality=30)
    assert run("library", "sync", tmp_path, *database).exit_code == 0
    done = run("search", "a cat", *database)
    assert len(names(done.stdout)) == 1 and done.stdout.endswith("\t1 near copy\n")
    assert len(names(run("search", "a cat", "--all", *database).stdout)) == 2
