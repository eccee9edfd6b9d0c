from __future__ import annotations

from pathlib import Path

import pytest
import torch

from anytag.models.folder import ModelFolder
from tests.command import run
from tests.released import make_tensors, write_checkpoint, write_lists


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_lists(tmp_path_factory.mktemp("published"))
    return write_checkpoint(folder / "ram_plus.pth", make_tensors("ram-plus"), optimizer={"state": {}})


def test_there_and_back(file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    size = ("--image-size", "64")
    result = run("convert", file, "-o", folder, "--lists", file.parent, *size, "--dtype", "float16")
    assert result.exit_code == 0, result.output
    for line in (
        str(folder),
        "family     ram-plus",
        "image      64 pixels (positions resampled from 384)",
        "tags       11, 3 embeddings each",
        "thresholds one for each tag",
        "captions   no",
        "not read   optimizer",
    ):
        assert line in result.output
    assert ModelFolder.open(folder).card.image.size == 64
    result = run("convert", folder, "-o", tmp_path / "back.pth")
    assert result.exit_code == 0, result.output
    assert "back.pth: " in result.output
    assert set(torch.load(tmp_path / "back.pth", weights_only=True)) == {"model"}


def test_options_without_effect(file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    assert run("convert", file, "-o", folder, "--lists", file.parent).exit_code == 0
    for options in (
        ("--image-size", "64"),
        ("--dtype", "float16"),
        ("--threshold", "0.3"),
        ("--no-captions",),
    ):
        result = run("convert", folder, "-o", tmp_path / "back.pth", *options)
        assert result.exit_code == 2 and "is for a checkpoint" in result.output, options
    assert not (tmp_path / "back.pth").exists()


def test_what_is_wrong_is_told(file: Path, tmp_path: Path) -> None:
    asked = ("convert", file, "-o", tmp_path / "model", "--lists", file.parent)
    result = run(*asked, "--family", "ram")
    assert result.exit_code == 2
    assert "is a checkpoint of RAM++" in result.output
    assert run("convert", tmp_path / "none.pth", "-o", tmp_path / "model").exit_code == 2
    assert not (tmp_path / "model").exists()
