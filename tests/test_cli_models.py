from __future__ import annotations

import json
from pathlib import Path

import pytest

from anytag.models.hub import installed
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
    assert "small\n  size" in done.stdout
