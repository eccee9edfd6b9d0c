"""Photos on a Ray cluster, over an S3 server of this machine: nothing lost or doubled, speed, memory.

    PYTHONPATH=. python benchmarks/scale.py kills [--rows 100000]
    PYTHONPATH=. python benchmarks/scale.py speed [--rows 6000]
    PYTHONPATH=. python benchmarks/scale.py memory [--gigabytes 2]

`kills` puts synthetic JPEGs of 64×64 into Parquet, 100 a row group, 1 % broken in one of ten ways.
A cluster of two nodes with a core each tags them; a node is killed twice (and replaced), the driver once (and
started again). Then ids of input and output are held against each other, photos that were looked at are
counted, and `retry_failed` is run. `speed` tags the same rows with one worker and with two. `memory` reads
Parquet with one row group of photos of 1.5 MB from disk; the figure is the peak of the worker's resident
memory (VmHWM).
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
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import ray
from PIL import Image
from ray.cluster_utils import Cluster

from anytag.scale import Options, Task, estimate, photos, runs, worker
from tests.s3_server import s3_bucket  # with the project's folder on PYTHONPATH

GROUP, FILE = 100, 2000  # rows of a row group and of a file
LOOKS = "ANYTAG_BENCHMARK_LOOKS"
SMALL: dict[str, Any] = {"object_store_memory": 100_000_000, "include_dashboard": False}


class CountingMaker(worker.Maker):
    """As the product's, but every photo that is looked at is counted in a file of the process."""

    def __call__(self) -> worker.Worker:
        made = super().__call__()
        folder, plain = os.environ[LOOKS], made._pixels
        file = os.open(f"{folder}/{os.getpid()}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

        def counted(photo: photos.Photo) -> Any:
            os.write(file, b".")
            return plain(photo)

        made._pixels = counted  # type: ignore[method-assign]
        return made


def looks(folder: str) -> int:
    """Photos that were looked at so far."""
    return sum(path.stat().st_size for path in Path(folder).iterdir())


def broken(jpeg: bytes, way: int) -> bytes | None:
    """A photo broken in one of ten ways."""
    ways: list[bytes | None] = [
        None, b"", b"not a photo", jpeg[: len(jpeg) // 2], jpeg[:3], b"\x89PNG\r\n\x1a\n" + jpeg[:40],
        b"GIF89a", b"<html>503 Slow Down</html>", b"PK\x03\x04" + jpeg, b"\0\0\0\x18ftypmp42" + jpeg[:99],
    ]  # fmt: skip
    return ways[way]


def jpegs(count: int, *, seed: int = 0) -> Iterator[bytes]:
    """Synthetic photos of 64×64, none like another."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        pixels = random.integers(0, 256, (8, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG")
        yield file.getvalue()


def write_rows(bucket: str, rows: int) -> set[str]:
    """Parquet files of rows in a bucket; the ids of those that are broken."""
    bad: set[str] = set()
    made = enumerate(jpegs(rows))
    for number in range(0, rows, FILE):
        ids, cells = [], []
        for at, jpeg in [next(made) for _ in range(min(FILE, rows - number))]:
            is_bad = at % 100 == 37
            ids.append(f"photo-{at:07d}")
            cells.append(broken(jpeg, at // 100 % 10) if is_bad else jpeg)
            bad |= {ids[-1]} if is_bad else set()
        with fsspec.open(f"{bucket}/rows/part {number:07d}+%20.parquet", "wb") as file:
            table = pyarrow.table({"id": ids, "jpg": pyarrow.array(cells, pyarrow.binary())})
            parquet.write_table(table, file, row_group_size=GROUP)
    return bad


@contextmanager
def two_nodes() -> Iterator[Cluster]:
    """A cluster of a head without cores and two nodes of one."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **SMALL})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1, **SMALL)
        yield cluster
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]


def drive(address: str, source: str, output: str, *flags: str) -> subprocess.Popen[str]:
    """A driver as a process of its own."""
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
    """The claim of this file's first sentence."""
    with s3_bucket() as bucket, tempfile.TemporaryDirectory() as counts:
        os.environ[LOOKS] = counts
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
            looked = looks(counts)
            print(f"looked at {looked:,}: {looked / rows - 1:.2%} again", flush=True)
            compare(source, output, bad)
            before = looks(counts)
            print(drive(cluster.address, source, output, "--retry-failed").communicate()[0], flush=True)
            print(f"--retry-failed looked at {looks(counts) - before} of {len(bad)} broken", flush=True)
            compare(source, output, bad)


def column(folder: str, name: str) -> list[Any]:
    system, inner = fsspec.url_to_fs(folder)
    system.invalidate_cache()
    files = [file for file in system.find(inner) if file.endswith(".parquet") and "/_" not in file]
    tables = [parquet.read_table(system.open(file), columns=[name]) for file in files]
    return [cell for table in tables for cell in table[name].to_pylist()]


def compare(source: str, output: str, bad: set[str]) -> None:
    """Rows in and out, by id."""
    given, found, errors = column(source, "id"), column(output, "id"), column(output, "error")
    failed = {name for name, error in zip(found, errors, strict=True) if error}
    kinds = {error["message"][:50] for error in errors if error}
    print(
        f"in {len(given):,}, out {len(found):,}, missing {len(set(given) - set(found))}, "
        f"double {len(found) - len(set(found))}, failed {len(failed):,} (the broken: {failed == bad}), "
        f"{len(kinds)} reasons",
        flush=True,
    )


def speed(rows: int) -> None:
    """One worker and two, on the same rows."""
    with s3_bucket() as bucket, tempfile.TemporaryDirectory() as counts, ExitStack() as stack:
        os.environ[LOOKS] = counts  # before the nodes, which hand it on
        cluster = stack.enter_context(two_nodes())
        write_rows(bucket, rows)
        guess = estimate([f"{bucket}/rows"], Task(device="cpu"))
        print(f"estimate: {guess.hours(1) * 3600:.0f} s with one", flush=True)
        seconds: dict[int, float] = {}
        for actors in (1, 2, 1, 2):
            output = f"{bucket}/out-{actors}-{len(seconds)}"
            driver = drive(cluster.address, f"{bucket}/rows", output, "--actors", str(actors))
            said = json.loads(driver.communicate()[0].splitlines()[-1])
            took = said["seconds"]
            seconds[actors] = min(seconds.get(actors, took), took)
            print(f"{actors} workers: {took:.1f} s, {rows / took:.0f} photos a second", flush=True)
        print(f"two are {seconds[1] / seconds[2]:.2f} times one", flush=True)


def memory(gigabytes: float) -> None:
    """The peak of a worker that reads a large row group."""
    random = np.random.default_rng(0)
    file = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (1000, 1500, 3), np.uint8)).save(file, "JPEG", quality=92)
    photo = file.getvalue()
    with tempfile.TemporaryDirectory() as folder:
        os.environ[LOOKS], path = str(Path(folder, "looks")), Path(folder, "large.parquet")
        Path(folder, "looks").mkdir()
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
            said = json.loads(driver.communicate()[0].splitlines()[-1])
            print(f"{peak / 2**20:.0f} MB at most, {said['rows']} rows", flush=True)


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


def driver(source: str, output: str, *, address: str, actors: int | None, retry_failed: bool) -> None:
    """A run, as JSON on stdout."""
    vars(runs)["Maker"] = CountingMaker
    logging.disable(logging.INFO)
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    start = time.perf_counter()
    options = Options(actors=actors, retry_failed=retry_failed)
    summary = runs.run([source], output, Task(device="cpu"), options)
    print(json.dumps({**asdict(summary), "seconds": time.perf_counter() - start}))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("kills").add_argument("--rows", type=int, default=100_000)
    commands.add_parser("speed").add_argument("--rows", type=int, default=6_000)
    commands.add_parser("memory").add_argument("--gigabytes", type=float, default=2)
    drives = commands.add_parser("drive")
    drives.add_argument("source")
    drives.add_argument("output")
    drives.add_argument("--address", required=True)
    drives.add_argument("--actors", type=int)
    drives.add_argument("--retry-failed", action="store_true")
    given = vars(parser.parse_args())
    known: dict[str, Any] = {"kills": kills, "speed": speed, "memory": memory, "drive": driver}
    known[given.pop("command")](**given)


if __name__ == "__main__":
    main()
