"""`anytag.scale.runs` and `--ray`: what is refused, and a cluster that loses what it can."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anytag import Tagger
from anytag.data import cluster
from anytag.data.cluster import Worker
from anytag.data.parts import Parts, UnitResult
from anytag.data.units import Unit
from anytag.errors import AnytagError, RefusedOutputError
from anytag.scale import Options, Task, plan, run
from tests.command import ENVIRONMENT
from tests.command import run as command
from tests.s3_server import s3_bucket
from tests.scale.inputs import jpeg, rows_in, write_parquet
from tests.tiny import make_tiny_model

pytest.importorskip("ray")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units are done in this process, one after the other, as the workers of a cluster do them."""

    def do(units: list[Unit], make: Any, *, retry: bool = False, **_: object) -> Iterator[UnitResult]:
        worker = Worker(make, retry=retry)
        yield from map(worker.do, units)

    monkeypatch.setattr(cluster, "run", do)
    monkeypatch.setattr(cluster, "gpus", lambda: 0)
    monkeypatch.setattr(cluster, "connect", lambda address: None)


@pytest.fixture
def source(tmp_path: Path) -> str:
    cells = [b"" if number % 10 == 3 else jpeg(number) for number in range(50)]
    write_parquet(f"{tmp_path}/in/a.parquet", {"id": [f"a{k}" for k in range(50)], "jpg": cells})
    return f"{tmp_path}/in"


@pytest.mark.usefixtures("here")
def test_a_run_does_what_is_new_and_only_what_failed(source: str, model: str, tmp_path: Path) -> None:
    task, output = Task(model=model), f"{tmp_path}/out"
    first = run([source], output, task)
    assert (first.units, first.rows, first.failed, first.done) == (5, 50, 5, 5)
    assert run([source], output, task).done == 0
    write_parquet(
        f"{source}/b.parquet", {"id": [f"b{k}" for k in range(5)], "jpg": [jpeg(k) for k in range(5)]}
    )
    grown = run([source], output, task)
    assert (grown.units, grown.rows, grown.failed, grown.done) == (6, 55, 5, 1)
    again = run([source], output, task, Options(retry_failed=True))
    assert (again.units, again.rows, again.failed, again.done) == (6, 55, 5, 5)
    rows = rows_in(Parts(output, task.work()))
    assert sorted(row["id"] for row in rows) == sorted(
        [*(f"a{k}" for k in range(50)), *(f"b{k}" for k in range(5))]
    )


@pytest.mark.usefixtures("here")
def test_a_run_whose_manifest_is_lost_knows_what_is_done(source: str, model: str, tmp_path: Path) -> None:
    task, output = Task(model=model), f"{tmp_path}/out"
    parts = Parts(output, task.work())
    run([source], output, task)
    lines = parts.manifest()
    Path(parts.notes, "units.jsonl").unlink()
    sorted(Path(output).glob("part-*"))[0].unlink()
    Path(output, ".part-x.parquet.a1.new").write_bytes(b"of a process that was killed")
    assert run([source], output, task).done == 1
    assert parts.manifest() == lines
    assert not list(Path(output).glob(".*.new"))


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "nobody.invalid:{}"])
def test_a_cluster_that_does_not_answer_is_said_at_once(address: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = address.format(free.getsockname()[1])
        with pytest.raises(AnytagError, match="no Ray cluster is reachable"):
            cluster.connect(place)


def test_ray_that_does_not_start_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: object) -> None:
        raise Exception("the node timed out")  # as Ray does

    monkeypatch.setattr("ray.init", init)
    with pytest.raises(AnytagError, match=r"Ray did not start \(the node timed out\)"):
        cluster.connect("local")


@pytest.mark.usefixtures("here")
def test_another_model_other_options_and_changed_input_are_refused(
    source: str, model: str, tmp_path: Path
) -> None:
    task, output = Task(model=model), f"{tmp_path}/out"
    run([source], output, task)
    for other in (Task(), Task(model=model, options={"top_k": 3}), Task(model=model, embed=True)):
        with pytest.raises(RefusedOutputError, match="contains rows of another run"):
            run([source], output, other)
    write_parquet(f"{source}/a.parquet", {"jpg": [jpeg(1)] * 50})
    with pytest.raises(RefusedOutputError, match=r"a\.parquet#0 has changed since"):
        run([source], output, task)
    with pytest.raises(RefusedOutputError, match="contain each other"):
        run([source], f"{source}/out", task)
    Path(tmp_path, "full").mkdir()
    Path(tmp_path, "full", "mine.txt").write_text("mine")
    with pytest.raises(RefusedOutputError, match="is not empty and has no rows"):
        run([source], f"{tmp_path}/full", task)
    with (
        plan([source], f"{tmp_path}/new", task),
        pytest.raises(RefusedOutputError, match="another process"),
    ):
        run([source], f"{tmp_path}/new", task)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("kind", ["gone", "empty", "odd", "broken", "address"])
def test_an_output_is_not_claimed_for_what_cannot_be_done(
    kind: str, source: str, model: str, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    write_parquet(f"{tmp_path}/odd/odd.parquet", {"left": [b"x"], "right": [b"y"]})
    Path(tmp_path, "broken").mkdir()
    Path(tmp_path, "broken", "bad.parquet").write_bytes(b"PAR1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = ("--ray", f"127.0.0.1:{free.getsockname()[1]}") if kind == "address" else ("--ray",)
        given = source if kind == "address" else f"{tmp_path}/{kind}"
        done = command("tag", given, *where, "--output", f"{tmp_path}/out", "--model", model)
    assert done.exit_code == 2
    says = {
        "gone": "no such file", "empty": "has nothing to process", "odd": "--column NAME",
        "broken": "cannot be read as Parquet", "address": "no Ray cluster is reachable",
    }  # fmt: skip
    assert says[kind] in done.stderr
    assert not Path(tmp_path, "out").exists()
    assert run([source], f"{tmp_path}/out", Task(model=model)).rows == 50  # nor is it anybody's


@pytest.mark.usefixtures("here")
def test_a_unit_that_cannot_be_read_leaves_the_others(source: str, model: str, tmp_path: Path) -> None:
    write_parquet(f"{source}/odd.parquet", {"left": [b"x"], "right": [b"y"]})
    Path(source, "bad.parquet").write_bytes(b"PAR1")
    summary = run([source], f"{tmp_path}/out", Task(model=model))
    assert (summary.rows, summary.done, len(summary.unread)) == (50, 5, 2)
    assert "--column NAME" in summary.unread[1]


@pytest.mark.usefixtures("here")
def test_the_command_says_what_it_did(source: str, model: str, tmp_path: Path) -> None:
    output, how = f"{tmp_path}/out", ("--model", model, "--also", "checker board")
    done = command("tag", source, "--ray", "--output", output, *how)
    assert done.exit_code == 1
    assert "5 units processed now, 5 in total: 50 rows, 5 failed." in done.stderr
    again = command("tag", source, "--ray", "auto", "--output", output, *how, "--retry-failed")
    assert "5 units processed now" in again.stderr
    other = command("tag", source, "--ray", "--output", output, "--model", model)
    assert other.exit_code == 2
    assert "options was {'also': ['checker board']} and is {}" in other.stderr
    dry = command(
        "tag", source, "--ray", "--model", model, "--dry-run", "--workers", "4", "--price-per-hour", "2"
    )
    assert "5 units, 50 rows" in dry.stdout
    assert re.search(r"with 4 workers, 0\.\d\d at 2 per hour", dry.stdout)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--ray", "photos", "--output", "out"], "photos is not the address of a Ray cluster"),
        (["photos", "--ray"], "--ray needs --output"),
        (["photos", "--ray", "--output", "out", "--where"], "--where cannot be used with --ray"),
        (["photos", "--ray", "--output", "out", "--format", "csv"], "--format cannot be used with --ray"),
        (["photos", "--embed"], "--embed needs --ray"),
        (["photos", "--ray", "--output", "out", "--price-per-hour", "1"], "--price-per-hour needs --dry-run"),
        (["photos", "--ray", "--output", "https://host/out"], "cannot write to an HTTP URL"),
        (
            ["photos", "--ray", "--output", "out", "--top-k", "3", "--tags", "a", "--also", "b"],
            "--tags scores exactly",
        ),
    ],
)
def test_wrong_use_of_ray_is_said(arguments: list[str], says: str, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as here:
        here.chdir(tmp_path)
        done = command("tag", *arguments)
    assert done.exit_code == 2
    assert says in " ".join(done.stderr.split())
    assert not list(tmp_path.iterdir())


def test_a_gpu_that_is_wanted_must_be_there(source: str, model: str, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "gpus", lambda: 0)
        with pytest.raises(AnytagError, match="the Ray cluster has no GPU"):
            run([source], f"{tmp_path}/out", Task(model=model, device="cuda"))


@pytest.mark.slow
def test_a_cluster_that_loses_a_driver_and_a_node_does_all_rows_once(model: str) -> None:
    pytest.importorskip("s3fs")
    photos = [jpeg(number, size=3000) for number in range(6)]
    cells = [b"" if number % 20 == 7 else photos[number % 6] for number in range(160)]
    with s3_bucket() as bucket:
        for start in range(0, 160, 40):
            ids = [f"n{number}" for number in range(start, start + 40)]
            path = f"{bucket}/in/r o+w%20s {start}.parquet"
            write_parquet(path, {"id": ids, "jpg": cells[start : start + 40]}, group=5)
        write_parquet(f"{bucket}/more.parquet", {"id": [f"m{k}" for k in range(6)], "jpg": photos})
        where = [f"{bucket}/in", f"{bucket}/more.parquet", f"{bucket}/out", model]
        keys = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        done = subprocess.run(
            [sys.executable, "-m", "tests.scale.cluster", *where], cwd=Path(__file__).parents[2],
            env={**ENVIRONMENT, **keys}, capture_output=True, text=True, timeout=500, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        work = Task(model=model, embed=True).work()
        rows, on_gpu = rows_in(Parts(f"{bucket}/out", work)), rows_in(Parts(f"{bucket}/out-gpu", work))
    assert "killed the driver after" in done.stdout
    assert "lost a node after" in done.stdout
    assert done.stdout.count("exit 1: ") == 2  # of rows that failed
    assert "32 in total: 160 rows, 8 failed." in done.stdout
    assert "1 unit processed now, 33 in total: 166 rows, 8 failed." in done.stdout
    assert "dataset: ['ImageError', 'ImageError']" in done.stdout
    assert sorted(row["id"] for row in rows) == sorted(
        [*(f"n{k}" for k in range(160)), *(f"m{k}" for k in range(6))]
    )
    tags = [(list(one.names), [tag.score for tag in one.tags]) for one in Tagger.load(model).tag_many(photos)]
    for row in rows:
        number = int(row["id"][1:])
        is_bad = row["id"].startswith("n") and number % 20 == 7
        assert (row["error"] is None) != is_bad
        assert is_bad or (row["tags"], row["scores"]) == tags[number % 6]
    assert on_gpu == [row for row in rows if row["id"].startswith("m")]
