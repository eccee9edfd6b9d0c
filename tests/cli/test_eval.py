"""`anytag eval`: the summary on stdout, the report in a folder, wrong use said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anytag.data.rows import Row, write_rows
from tests.command import run
from tests.tiny import make_tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models and four photos with captions and tags."""
    folder = tmp_path_factory.mktemp("eval")
    random = np.random.default_rng(0)
    for number in range(4):
        Image.fromarray(random.integers(0, 256, (20, 20, 3), np.uint8)).save(folder / f"{number}.png")
    said = ("A dog .", "A cat on a beach .", "A dog and a cat .", "Two cats .")
    rows = [
        Row(f"{number}.png", "mine", "test", captions=(text,), tags=("dog",) if "dog" in text else ("cat",))
        for number, text in enumerate(said)
    ]
    write_rows(folder / "rows.jsonl", rows)
    make_tiny_model(folder / "one")
    make_tiny_model(folder / "two", seed=5)
    return folder


def test_the_summary_is_printed_and_the_report_written(folder: Path, tmp_path: Path) -> None:
    done = run(
        "eval", folder / "one", "--data", folder / "rows.jsonl", "--against", folder / "two",
        "--at-least", "1", "--resamples", "10", "--no-cost", "--output", tmp_path / "out",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "rows.jsonl test: tagging, 4 photos." in done.stdout
    assert "| mAP |" in done.stdout
    table = done.stdout[done.stdout.index("| mAP |") :]
    assert table.strip() in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    read = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert [one["name"] for one in read["measured"]] == [f"tiny ({folder / name})" for name in ("one", "two")]
    assert "Wrote" in done.stderr


@pytest.mark.parametrize(
    ("task", "figure"), [("open-set", "| top-1 |"), ("retrieval", "| text to photo R@5 |")]
)
def test_other_tasks(folder: Path, task: str, figure: str) -> None:
    done = run(
        "eval", folder / "one", "--data", folder / "rows.jsonl", "--task", task, "--at-least", "1",
        "--no-cost", "--limit", "3",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert figure in done.stdout
    assert "3 photos" in done.stdout


def test_a_photo_that_is_missing_is_left_out(folder: Path, tmp_path: Path) -> None:
    data = folder / "missing.jsonl"
    write_rows(data, [Row(f"{number}.png", "mine", "test", tags=("dog",)) for number in (0, 9)])
    done = run("eval", folder / "one", "--data", data, "--at-least", "1", "--no-cost")
    assert done.exit_code == 1
    assert "1 photo could not be read" in done.stdout and "9.png" in done.stdout


def test_photos_at_urls_are_refused(folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    write_rows(data, [Row("https://host/a.jpg", "mine", "test", captions=("A dog.",), tags=("dog",))])
    for task in ("tagging", "open-set", "retrieval"):
        done = run("eval", folder / "one", "--data", data, "--task", task)
        assert done.exit_code == 2
        assert "https://host/a.jpg is at a URL or in a shard" in done.stderr


def test_an_output_that_cannot_be_is_told_before_the_work(folder: Path, tmp_path: Path) -> None:
    """The model does not exist either, which would be told once the work begins."""
    (tmp_path / "file").write_text("mine")
    done = run("eval", "nonesuch", "--data", folder / "rows.jsonl", "--output", tmp_path / "file" / "out")
    assert done.exit_code == 2
    assert "is not a folder" in done.stderr


def test_a_failed_evaluation_leaves_no_folder(folder: Path, tmp_path: Path) -> None:
    done = run("eval", "nonesuch", "--data", folder / "rows.jsonl", "--output", tmp_path / "new" / "out")
    assert done.exit_code == 2
    assert not list(tmp_path.iterdir())


def test_a_report_replaces_no_input(folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "report.json"
    data.write_bytes((folder / "rows.jsonl").read_bytes())
    done = run("eval", folder / "one", "--data", data, "--output", tmp_path)
    assert done.exit_code == 2
    assert "is an input of this run" in done.stderr
    assert data.read_bytes() == (folder / "rows.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--data", "nowhere"), "neither a file of rows nor a benchmark"),
        (("--data", "hico-600"), "get the 9,658 test images"),
        ((), "--data"),
    ],
)
def test_wrong_use_is_said(arguments: tuple[str, ...], told: str) -> None:
    done = run("eval", *arguments)
    assert done.exit_code == 2
    assert told in done.stderr
