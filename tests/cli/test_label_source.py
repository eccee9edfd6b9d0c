"""`anytag calibrate` and `finetune` on what people said of a library's photos."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from anytag import Library
from anytag.tagger import Tagger
from tests.command import run
from tests.libraries import write_photo


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Ten photos, five of which have a cat and a word of the user's, five a dog."""
    for number in range(10):
        write_photo(tmp_path / f"photos/{number}.png", number, size=(64, 64))
    with Library.open(tmp_path / "my.db") as library:
        library.sync(tmp_path / "photos")
        for number in range(10):
            library.add(
                tmp_path / f"photos/{number}.png", *(["Katze", "our house"] if number < 5 else ["dog"])
            )
            library.reject(tmp_path / f"photos/{number}.png", "dog" if number < 5 else "cat")
    return tmp_path / "my.db"


def test_a_model_is_calibrated_by_a_library(base: Path, tmp_path: Path) -> None:
    done = run("calibrate", "mini", "--output", tmp_path / "out", "--from-library", base)
    assert done.exit_code == 0, done.stderr
    assert "2 tags fitted on 10 photos" in done.stdout  # cat and dog; an animal is on all
    card = json.loads((tmp_path / "out/card.json").read_text())
    assert "calibration on my.jsonl" in card["metrics"]


def test_custom_tags_are_learned_from_a_library(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANYTAG_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    base.rename(tmp_path / "home/library.db")
    (tmp_path / "my.db.vectors").rename(tmp_path / "home/library.db.vectors")
    done = run("finetune", "--from-library", "--output", tmp_path / "out", "--epochs", "1", "--held-out", "0")
    assert done.exit_code == 0, done.stderr
    assert "other tags count as absent" in done.stdout
    assert "our house" in {tag.name for tag in Tagger.load(tmp_path / "out").vocabulary}


@pytest.mark.parametrize("command", [("calibrate", "mini"), ("finetune",)])
def test_rows_come_from_one_place_and_there_are_some(command: tuple[str, ...], tmp_path: Path) -> None:
    output, data = ("--output", tmp_path / "out"), tmp_path / "rows.csv"
    data.write_text("image,tags\n")
    neither = run(*command, *output)
    both = run(*command, *output, "--data", data, "--from-library", tmp_path / "l.db")
    assert all(one.exit_code == 2 and "Give either --data" in one.stderr for one in (neither, both))
    Library.open(tmp_path / "l.db").close()
    nothing = run(*command, *output, "--from-library", tmp_path / "l.db")
    assert nothing.exit_code == 2 and "anytag library accept" in nothing.stderr
    assert not (tmp_path / "out").exists()


def test_errors_name_the_library(tmp_path: Path) -> None:
    write_photo(tmp_path / "photos/0.png", 0, size=(64, 64))
    with Library.open(tmp_path / "my.db") as library:
        library.sync(tmp_path / "photos")
        library.add(tmp_path / "photos/0.png", "cat")
    done = run("calibrate", "mini", "--output", tmp_path / "out", "--from-library", tmp_path / "my.db")
    assert done.exit_code == 2 and f"{tmp_path / 'my.db'}: no tag" in done.stderr
