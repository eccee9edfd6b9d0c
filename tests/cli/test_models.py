from __future__ import annotations

import json
from pathlib import Path

import pytest

from anytag.models.registry import installed
from tests.command import run
from tests.tiny import make_tiny_model


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ANYTAG_HOME", str(tmp_path))
    return tmp_path / "models"


def test_installed_models_are_listed_with_size_licence_and_metrics(home: Path) -> None:
    folder = make_tiny_model(home / "small")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    done = run("models")
    assert done.exit_code == 0
    shown = done.stdout[done.stdout.index("small\n") :]
    assert f"{size / 1e6:.1f} MB" in shown
    assert "Apache-2.0" in shown
    assert str(folder) in shown
    assert "nothing" in shown  # the tiny model's one metric


def test_the_list_is_short_and_a_name_tells_everything() -> None:
    listed, told = run("models"), run("models", "mini")
    assert (listed.exit_code, told.exit_code) == (0, 0)
    assert len(listed.stdout.splitlines()) <= 8
    assert "see anytag models mini" in listed.stdout
    assert "Flickr8k train" in told.stdout
    assert any("mAP" in line for line in told.stdout.splitlines())


def test_a_folder_is_told_of_too(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "elsewhere" / "other")
    assert str(folder) in run("models", folder).stdout
    (row,) = json.loads(run("models", folder, "--format", "json").stdout)
    assert (row["name"], row["family"]) == ("other", "mini")


def test_an_unknown_or_broken_name_is_wrong_use(home: Path) -> None:
    done = run("models", "nonesuch")
    assert done.exit_code == 2
    assert "no model 'nonesuch'" in done.stderr and "mini" in done.stderr
    (home / "aaa").mkdir(parents=True)
    (home / "aaa" / "card.json").write_text("{")
    assert run("models", "aaa").exit_code == 2


def test_json_is_for_programs(home: Path) -> None:
    make_tiny_model(home / "small")
    rows = json.loads(run("models", "--format", "json").stdout)
    assert [row["path"] for row in rows] == [str(path) for path in installed()]
    row = rows[-1]
    assert (row["name"], row["licence"], row["metrics"], row["error"]) == (
        "small",
        "Apache-2.0",
        {"nothing": 0.0},
        None,
    )


def test_a_broken_model_does_not_hide_the_others(home: Path) -> None:
    make_tiny_model(home / "small")
    (home / "aaa").mkdir()
    (home / "aaa" / "card.json").write_text("{")
    done = run("models")
    assert done.exit_code == 0
    assert "aaa\n  cannot be used: " in done.stdout
    assert "small\n  family" in done.stdout
