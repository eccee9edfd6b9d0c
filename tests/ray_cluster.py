"""A corpus goes through a Ray cluster of two workers, one of which is lost; see data/engine/test_ray.py.

python -m tests.ray_cluster SOURCE OUTPUT MODEL
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # by Ray's 15 they wait on a busy machine for minutes

import ray
import ray.data
from ray.cluster_utils import Cluster

from anytag.data.engine.ray import run

SMALL = {"object_store_memory": 80_000_000, "include_dashboard": False}


def lose(cluster: Cluster, output: Path) -> None:
    """Kills a worker once the first results are there."""
    while not list(output.glob("*.parquet")):
        time.sleep(0.05)
    cluster.remove_node(cluster.worker_nodes.copy().pop(), allow_graceful=False)
    print(f"lost a worker after {len(list(output.glob('*.parquet')))} files", flush=True)


def main(source: str, output: str, model: str) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **SMALL})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=2, object_store_memory=80_000_000)
        ray.init(address=cluster.address, log_to_driver=False)
        threading.Thread(target=lose, args=(cluster, Path(output)), daemon=True).start()
        run(source, output, model=model, actors=2)
        print(f"{len(cluster.worker_nodes)} worker left", flush=True)
    finally:
        ray.shutdown()
        cluster.shutdown()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main(*sys.argv[1:])
