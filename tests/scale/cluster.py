"""`anytag tag --ray` on a cluster that loses a driver and a node, and then has a GPU; see test_runs.py.

python -m tests.scale.cluster SOURCE MORE OUTPUT MODEL
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any

os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # by Ray's 15 they wait on a busy machine for minutes

import fsspec
import ray
import ray.data
from ray.cluster_utils import Cluster

from anytag import scale

SMALL: dict[str, Any] = {"object_store_memory": 80_000_000, "include_dashboard": False}


def parts(output: str) -> int:
    system, inner = fsspec.url_to_fs(output)
    system.invalidate_cache()
    return sum("/part-" in name for name in system.find(inner))


def wait_for(count: int, output: str) -> None:
    while parts(output) < count:
        time.sleep(0.05)


def start(address: str, source: str, output: str, model: str) -> subprocess.Popen[str]:
    command = [
        sys.executable, "-m", "anytag", "tag", source, "--ray", address, "--output", output,
        "--model", model, "--embed",
    ]  # fmt: skip
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def end(driver: subprocess.Popen[str]) -> None:
    said = driver.communicate()[1]
    print(f"exit {driver.returncode}:", " ".join(said.split()), flush=True)


def main(source: str, more: str, output: str, model: str) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **SMALL})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1, **SMALL)
        driver = start(cluster.address, source, output, model)
        wait_for(4, output)
        driver.send_signal(signal.SIGKILL)
        print(f"killed the driver after {parts(output)}", flush=True)
        driver = start(cluster.address, source, output, model)
        wait_for(parts(output) + 4, output)
        cluster.remove_node(cluster.worker_nodes.copy().pop(), allow_graceful=False)
        print(f"lost a node after {parts(output)}", flush=True)
        end(driver)
        fsspec.filesystem("s3").copy(more, f"{source}/later.parquet")
        end(start(cluster.address, source, output, model))
        cluster.add_node(num_cpus=1, num_gpus=1, **SMALL)
        end(start(cluster.address, f"{source}/later.parquet", f"{output}-gpu", model))
        ray.init(address=cluster.address, log_to_driver=False)
        dataset = ray.data.from_items([{"jpg": b"none"}, {"jpg": b""}])
        rows = scale.tag(dataset, task=scale.Task(model=model)).take_all()
        print("dataset:", sorted(row["error"]["type"] for row in rows), flush=True)
    finally:
        ray.shutdown()
        cluster.shutdown()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main(*sys.argv[1:])
