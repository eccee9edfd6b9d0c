"""Tagging on a Ray cluster, with an S3 server on this machine: no row lost or duplicated, speed, memory.

    PYTHONPATH=. python benchmarks/scale.py kills [--rows 100000]
    PYTHONPATH=. python benchmarks/scale.py speed [--rows 6000]
    PYTHONPATH=. python benchmarks/scale.py units [--count 300]
    PYTHONPATH=. python benchmarks/scale.py dry-run [--rows 10000]
    PYTHONPATH=. python benchmarks/scale.py memory [--gigabytes 2]

`kills` writes synthetic JPEGs of 64×64 to Parquet, 100 per row group, 1 % broken in one of ten ways. A
cluster of two nodes with one core each tags them; a node is killed twice (and replaced), the driver once (and
restarted). Then the ids of input and output are compared, the photos that were processed are counted, and
`retry_failed` is run. `speed` tags the same rows with one worker and with two, on disk and over S3, and
measures from the unit that completes a fifth of the rows to the last, without Ray's start. On a busy machine
only the CPU time of the workers and of everything else is reliable; `units` measures it for many small units.
`dry-run` compares the estimate with the run. `memory` reads Parquet with one row group of photos of 1.5 MB
from disk; the figure is the peak resident memory of the worker (VmHWM).
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import psutil
import pyarrow
import pyarrow.parquet as parquet
from PIL import Image
from ray.cluster_utils import Cluster

from anytag.data.cluster import connect
from anytag.data.io import open_write
from anytag.scale import Options, Task, estimate, photos, runs, worker
from tests.s3_server import s3_bucket  # with the project's folder on PYTHONPATH

GROUP, FILE = 100, 2000  # rows of a row group and of a file
COUNTS_VARIABLE = "ANYTAG_BENCHMARK_COUNTS"  # the folder of the counts
os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's default is 15: on a busy machine its workers starve
SMALL: dict[str, Any] = {"object_store_memory": 100_000_000, "include_dashboard": False}


class CountingMaker(worker.WorkerFactory):
    """Counts every photo that is processed, in a file per process."""

    def __call__(self) -> worker.Worker:
        made = super().__call__()
        folder, plain = os.environ[COUNTS_VARIABLE], made._pixels
        file = os.open(f"{folder}/{os.getpid()}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

        def counted(photo: photos.Photo) -> Any:
            os.write(file, b".")
            return plain(photo)

        made._pixels = counted  # type: ignore[method-assign]
        return made


def processed(folder: str) -> int:
    """Return the number of photos processed so far."""
    return sum(path.stat().st_size for path in Path(folder).iterdir())


def broken(jpeg: bytes, way: int) -> bytes | None:
    """Return the photo broken in one of ten ways."""
    ways: list[bytes | None] = [
        None, b"", b"not a photo", jpeg[: len(jpeg) // 2], jpeg[:3], b"\x89PNG\r\n\x1a\n" + jpeg[:40],
        b"GIF89a", b"<html>503 Slow Down</html>", b"PK\x03\x04" + jpeg, b"\0\0\0\x18ftypmp42" + jpeg[:99],
    ]  # fmt: skip
    return ways[way]


def jpegs(count: int, *, seed: int = 0) -> Iterator[bytes]:
    """Yield synthetic photos of 64×64 that all differ."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        pixels = random.integers(0, 256, (8, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG")
        yield file.getvalue()


def write_rows(bucket: str, rows: int, *, group: int = GROUP) -> set[str]:
    """Write Parquet files of rows to a bucket; return the ids of the broken ones."""
    bad: set[str] = set()
    made = enumerate(jpegs(rows))
    for number in range(0, rows, FILE):
        ids, cells = [], []
        for at, jpeg in [next(made) for _ in range(min(FILE, rows - number))]:
            is_bad = at % 100 == 37
            ids.append(f"photo-{at:07d}")
            cells.append(broken(jpeg, at // 100 % 10) if is_bad else jpeg)
            bad |= {ids[-1]} if is_bad else set()
        with open_write(f"{bucket}/rows/part {number:07d}+%20.parquet") as file:
            table = pyarrow.table({"id": ids, "jpg": pyarrow.array(cells, pyarrow.binary())})
            parquet.write_table(table, file, row_group_size=group)
    return bad


@contextmanager
def two_nodes() -> Iterator[Cluster]:
    """Start a cluster of a head without cores and two nodes of one core."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **SMALL})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1, **SMALL)
        yield cluster
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]


def drive(address: str, source: str, output: str, *flags: str) -> subprocess.Popen[str]:
    """Start a driver in a subprocess."""
    command = [sys.executable, __file__, "drive", source, output, "--address", address, *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def done_parts(output: str) -> int:
    system, inner = fsspec.url_to_fs(output)
    system.invalidate_cache()
    return sum("/part-" in name for name in system.find(inner))


def wait_for(output: str, parts: int, driver: subprocess.Popen[str]) -> None:
    while done_parts(output) < parts:
        if driver.poll() is not None:
            raise SystemExit(f"the driver ended with {driver.returncode}")
        time.sleep(0.2)


def kills(rows: int) -> None:
    """Tag rows while nodes and the driver are killed, and compare input and output."""
    with s3_bucket() as bucket, tempfile.TemporaryDirectory() as counts:
        os.environ[COUNTS_VARIABLE] = counts
        bad = write_rows(bucket, rows)
        source, output, units = f"{bucket}/rows", f"{bucket}/out", rows // GROUP
        print(f"{rows:,} rows, {units:,} units, {len(bad):,} broken", flush=True)
        with two_nodes() as cluster:
            start, driver = time.perf_counter(), drive(cluster.address, source, output)
            for share in (0.2, 0.6):
                wait_for(output, round(units * share), driver)
                cluster.remove_node(cluster.worker_nodes.copy().pop(), allow_graceful=False)
                cluster.add_node(num_cpus=1, **SMALL)
                print(f"killed a node and its worker after {done_parts(output)} units", flush=True)
                if share < 0.5:
                    wait_for(output, round(units * 0.4), driver)
                    driver.send_signal(signal.SIGKILL)
                    driver.wait()
                    print(f"killed the driver after {done_parts(output)} units", flush=True)
                    driver = drive(cluster.address, source, output)
            print(driver.communicate()[0], f"in {time.perf_counter() - start:.0f} s", flush=True)
            count = processed(counts)
            print(f"processed {count:,}: {count / rows - 1:.2%} again", flush=True)
            compare(source, output, bad)
            before = processed(counts)
            print(drive(cluster.address, source, output, "--retry-failed").communicate()[0], flush=True)
            print(f"--retry-failed processed {processed(counts) - before} of {len(bad)} broken", flush=True)
            compare(source, output, bad)


def column(folder: str, name: str) -> list[Any]:
    system, inner = fsspec.url_to_fs(folder)
    system.invalidate_cache()
    files = [file for file in system.find(inner) if file.endswith(".parquet") and "/_" not in file]
    tables = [parquet.read_table(system.open(file), columns=[name]) for file in files]
    return [cell for table in tables for cell in table[name].to_pylist()]


def compare(source: str, output: str, bad: set[str]) -> None:
    """Print a comparison of the rows in and out, by id."""
    given, found, errors = column(source, "id"), column(output, "id"), column(output, "error")
    failed = {name for name, error in zip(found, errors, strict=True) if error}
    kinds = {error["message"][:50] for error in errors if error}
    print(
        f"in {len(given):,}, out {len(found):,}, missing {len(set(given) - set(found))}, "
        f"duplicated {len(found) - len(set(found))}, failed {len(failed):,} "
        f"(equal to the broken ones: {failed == bad}), {len(kinds)} different messages",
        flush=True,
    )


@dataclass(frozen=True)
class Cost:
    """The costs of photos once all workers are running.

    Attributes:
        rate: photos per second.
        worker, rest: CPU ms per photo, of the workers and of all else: driver, Ray, S3 server.
    """

    rate: float
    worker: float
    rest: float


def speed(rows: int) -> None:
    """Compare one worker with two on the same rows, from and to a disk and an S3 server."""
    with s3_bucket() as bucket, tempfile.TemporaryDirectory() as disk, two_nodes() as cluster:
        for place in (disk, bucket):
            write_rows(place, rows)
            pairs = [[steady(cluster, place, actors, rows) for actors in (1, 2)] for _ in range(2)]
            one, two = (max(pair[at].rate for pair in pairs) for at in (0, 1))
            print(f"{name_of(place)}: two are {two / one:.2f} times one", flush=True)


def steady(cluster: Cluster, place: str, actors: int, rows: int) -> Cost:
    """Measure a run from the unit that completes a fifth of the rows to the last."""
    output = f"{place}/out-{actors}-{time.monotonic_ns()}"
    start = time.perf_counter()
    driver = drive(cluster.address, f"{place}/rows", output, "--actors", str(actors), "--watch")
    done, marks = 0, list[tuple[float, int, tuple[float, float]]]()
    for line in driver.stdout or ():
        done += json.loads(line).get("rows_of_unit", 0)
        if (not marks and done >= rows / 5) or done == rows:
            marks.append((time.perf_counter(), done, cpu_seconds()))
    (began, first, before), (ended, last, after) = marks[0], marks[1]
    driver.wait()
    per = 1000 / (last - first)
    cost = Cost(
        (last - first) / (ended - began), *(per * (b - a) for a, b in zip(before, after, strict=True))
    )
    print(
        f"{name_of(place)}, {actors} workers: {cost.rate:.0f} photos/s, {cost.worker:.2f} CPU ms per photo "
        f"of workers and {cost.rest:.2f} of all else; {began - start:.1f} s until a fifth was done, "
        f"{time.perf_counter() - start:.1f} s in all, load {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    return cost


def units(count: int) -> None:
    """Measure what the driver and Ray cost per unit of two photos, with which workers have little to do."""
    with tempfile.TemporaryDirectory() as disk, two_nodes() as cluster:
        write_rows(disk, 2 * count, group=2)
        cost = steady(cluster, disk, 2, 2 * count)
        print(f"{2 * cost.rest:.1f} CPU ms per unit outside the workers", flush=True)


def dry_run(rows: int) -> None:
    """Compare the estimate of `--dry-run` with the time of the run."""
    with tempfile.TemporaryDirectory() as disk, two_nodes() as cluster:
        write_rows(disk, rows)
        for actors in (1, 2):
            estimated = estimate([f"{disk}/rows"], Task(device="cpu")).hours(actors) * 3600
            start = time.perf_counter()
            drive(cluster.address, f"{disk}/rows", f"{disk}/out-{actors}", "--actors", str(actors)).wait()
            took = time.perf_counter() - start
            print(
                f"{actors} workers: estimated {estimated:.0f} s, took {took:.0f} s: "
                f"{estimated / took - 1:+.0%}, load {os.getloadavg()[0]:.1f}",
                flush=True,
            )


def name_of(place: str) -> str:
    return "S3" if place.startswith("s3:") else "disk"


def cpu_seconds() -> tuple[float, float]:
    """Return the CPU seconds of the workers, and of all other processes started here, this one included."""
    me, worker, rest = psutil.Process(), 0.0, 0.0
    for process in [me, *me.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            is_worker = "MapWorker" in " ".join(process.cmdline())
            worker, rest = (worker + sum(times[:2]), rest) if is_worker else (worker, rest + sum(times[:2]))
    return worker, rest


def memory(gigabytes: float) -> None:
    """Measure the peak memory of a worker that reads a large row group."""
    random = np.random.default_rng(0)
    file = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (1000, 1500, 3), np.uint8)).save(file, "JPEG", quality=92)
    photo = file.getvalue()
    with tempfile.TemporaryDirectory() as folder:
        os.environ[COUNTS_VARIABLE], path = str(Path(folder, "counts")), Path(folder, "large.parquet")
        Path(folder, "counts").mkdir()
        chunk = pyarrow.array([photo + random.bytes(8) for _ in range(50)], pyarrow.binary())
        chunks = [chunk] * round(gigabytes * 2**30 / len(photo) / 50)  # of the same memory
        ids = [f"photo-{number}" for number in range(50 * len(chunks))]
        table = pyarrow.table({"id": ids, "jpg": pyarrow.chunked_array(chunks)})
        how = {"compression": "none", "use_dictionary": False, "write_batch_size": 5}  # pages of five photos
        parquet.write_table(table, path, row_group_size=len(ids), **how)
        facts, size = parquet.ParquetFile(path).metadata, path.stat().st_size
        print(f"{size:,} bytes, {facts.num_rows} rows, {facts.num_row_groups} row group", flush=True)
        with two_nodes() as cluster:
            driver = drive(cluster.address, str(path), f"{folder}/out", "--actors", "1")
            peak = 0
            while driver.poll() is None:
                peak = max([peak, *map(_peak, _workers())])
                time.sleep(0.5)
            summary = json.loads(driver.communicate()[0].splitlines()[-1])
            print(f"{peak / 2**20:.0f} MB at most, {summary['rows']} rows", flush=True)


def _workers() -> list[Path]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"MapWorker" in (folder / "cmdline").read_bytes():
                found.append(folder)
        except OSError:
            continue
    return found


def _peak(folder: Path) -> int:
    try:
        lines = (folder / "status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def driver(
    source: str, output: str, *, address: str, actors: int | None, retry_failed: bool, watch: bool
) -> None:
    """Run, and print the summary as JSON."""
    if COUNTS_VARIABLE in os.environ:
        vars(runs)["WorkerFactory"] = CountingMaker
    logging.disable(logging.INFO)
    connect(address)
    start = time.perf_counter()
    options = Options(actors=actors, retry_failed=retry_failed)
    with runs.plan([source], output, Task(device="cpu"), options) as run:
        for unit in run.do():
            if watch:
                print(json.dumps({"rows_of_unit": unit.rows}), flush=True)
        print(json.dumps({**asdict(run.summary), "seconds": time.perf_counter() - start}))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("kills").add_argument("--rows", type=int, default=100_000)
    commands.add_parser("speed").add_argument("--rows", type=int, default=6_000)
    commands.add_parser("dry-run").add_argument("--rows", type=int, default=10_000)
    commands.add_parser("units").add_argument("--count", type=int, default=300)
    commands.add_parser("memory").add_argument("--gigabytes", type=float, default=2)
    drives = commands.add_parser("drive")
    drives.add_argument("source")
    drives.add_argument("output")
    drives.add_argument("--address", required=True)
    drives.add_argument("--actors", type=int)
    drives.add_argument("--retry-failed", action="store_true")
    drives.add_argument("--watch", action="store_true")
    given = vars(parser.parse_args())
    known: dict[str, Any] = {
        "kills": kills, "speed": speed, "units": units, "dry-run": dry_run, "memory": memory, "drive": driver,
    }  # fmt: skip
    known[given.pop("command")](**given)


if __name__ == "__main__":
    main()
