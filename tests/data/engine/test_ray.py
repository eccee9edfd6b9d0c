"""`anytag.data.engine.ray`: the stages alone, and on a local cluster that loses a worker."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anytag.data.engine.ray import STAGES, Check, Generate, Parse, _table, columns_in, corpus_units, run
from anytag.data.formats import write
from anytag.data.rows import Row
from anytag.data.tables import columns_of
from anytag.data.units import Unit
from anytag.errors import AnytagError, MissingExtraError, OutputError
from tests.command import ENVIRONMENT
from tests.tiny import make_tiny_model

pyarrow = pytest.importorskip("pyarrow")
PHOTOS = 48


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Photos with captions; every seventh is not there."""
    random = np.random.default_rng(0)
    rows = []
    for number in range(PHOTOS):
        pixels = random.integers(0, 256, (8, 8, 3), np.uint8).repeat(4, 0).repeat(4, 1)
        if number % 7:
            Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        rows.append(Row(f"{number}.png", "made", "train", captions=("a dog on a beach",)))
    for number in range(0, PHOTOS, 4):
        suffix = "parquet" if number % 8 else "jsonl"
        write(str(tmp_path / f"rows-{number:02d}.{suffix}"), rows[number : number + 4])
    return tmp_path


def test_stages_map_batches(corpus: Path, model: Path) -> None:
    rows = [
        {
            **columns_of(Row(f"{number}.png", "made", "train", captions=("a dog",))),
            "error": None,
            "hash": None,
        }
        for number in range(9)
    ]
    batch = pyarrow.Table.from_pylist(rows)
    for stage in (Parse, Generate, Check):
        batch = stage(model=str(model), root=str(corpus))(batch)
    done = batch.to_pylist()
    assert [bool(one["error"]) for one in done] == [number % 7 == 0 for number in range(9)]
    assert done[0]["error"].startswith("missing: ")
    assert {"dog", "animal"} <= set(done[0]["tags"])
    assert [one["hash"] is None for one in done] == [number % 7 == 0 for number in range(9)]
    assert len(done[1]["hash"]) == 64
    assert {origin for one in done for origin in one["origins"]} == {"text", "model"}


def test_wrong_use_is_said_before_the_cluster_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AnytagError, match="stage 'dream' is unknown; expected one of parse, generate, check"):
        run("rows.jsonl", "out", stages=("parse", "dream"))
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(MissingExtraError, match=r"anytag\[ray\]"):
        run("rows.jsonl", "out")
    assert list(STAGES) == ["parse", "generate", "check"]


def test_corpus_is_read_in_pieces(corpus: Path, model: Path) -> None:
    found = corpus_units(str(corpus))
    assert len(found) == 12
    assert [one.kind for one in found] == ["rows", "parquet"] * 6
    assert sorted(_images(found, corpus)) == sorted(f"{number}.png" for number in range(PHOTOS))
    (corpus / "bad.jsonl").write_text("nonsense\n")
    (unit,) = corpus_units(str(corpus / "bad.jsonl"))
    bad = _table(list(columns_in(unit, root=None, output="")))
    for stage in (Parse, Generate, Check):  # which leave it as it is
        bad = stage(model=str(model), root=str(corpus))(bad)
    (one,) = bad.to_pylist()
    assert "line 1: not a row" in one["error"]
    with pytest.raises(OutputError, match="is not empty"):
        run(str(corpus), str(corpus))


def test_photos_are_named_relative_to_the_output(corpus: Path) -> None:
    for output in (corpus / "deep" / "out", corpus.parent / "out"):
        images = _images(corpus_units(str(corpus)), output)
        names = [(output / name).resolve().relative_to(corpus.resolve()) for name in images]
        assert sorted(map(str, names)) == sorted(f"{number}.png" for number in range(PHOTOS))


def _images(units: list[Unit], output: Path) -> list[str]:
    return [row["image"] for unit in units for row in columns_in(unit, root=None, output=str(output))]


@pytest.mark.slow
def test_a_cluster_that_loses_a_worker_does_all_rows_once(corpus: Path, model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    command = [sys.executable, "-m", "tests.ray_cluster", str(corpus), str(output), str(model)]
    where = Path(__file__).parents[3]
    done = subprocess.run(
        command, cwd=where, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "lost a worker" in done.stdout
    assert "1 worker left" in done.stdout
    rows = [one for file in output.glob("*.parquet") for one in _rows(file)]
    names = [os.path.relpath(output / one["image"], corpus) for one in rows]
    assert sorted(names) == sorted(f"{number}.png" for number in range(PHOTOS))
    assert all({"dog", "beach"} <= set(one["tags"]) for one in rows)
    missing = sorted(Path(one["image"]).name for one in rows if one["error"])
    assert missing == sorted(f"{number}.png" for number in range(0, PHOTOS, 7))
    assert all(bool(one["hash"]) != bool(one["error"]) for one in rows)


def _rows(file: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = import_module("pyarrow.parquet").read_table(file).to_pylist()
    return rows
