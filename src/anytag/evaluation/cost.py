"""Cost of a model: time per photo, and peak memory of a separate process.

echo '{"photos": [...], "tags": [...]}' | python -m anytag.evaluation.cost SPEC DEVICE
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from anytag.errors import AnytagError
from anytag.evaluation.adapters import adapter
from anytag.evaluation.evaluate import Cost
from anytag.evaluation.tasks import TagTask
from anytag.queries.requests import CustomTag

PHOTOS = 32


def cost(spec: str | None, task: TagTask, *, device: str = "auto") -> Cost:
    """Measure one model on some photos of a task, in a separate process.

    Raises:
        AnytagError: the process failed.
    """
    job = {
        "photos": [str(path) for path in task.photos[:PHOTOS]],
        "tags": [[tag.name, *tag.descriptions] for tag in task.tags],
        "ids": task.ids,
    }
    command = [sys.executable, "-m", __name__, spec or "", device]
    process = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, check=False)
    if process.returncode:
        raise AnytagError(f"the cost of {spec} could not be measured: {process.stderr.strip()[-400:]}")
    return Cost(**json.loads(process.stdout.splitlines()[-1]))


def peak_megabytes() -> float:
    """Peak memory of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux: unlike ru_maxrss, it does not include the parent's memory
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        1 << 20 if sys.platform == "darwin" else 1024
    )


def main() -> None:
    spec, device = sys.argv[1:]
    job = json.load(sys.stdin)
    photos = tuple(map(Path, job["photos"]))
    tags = tuple(CustomTag(name, tuple(rest)) for name, *rest in job["tags"])
    ids = None if job["ids"] is None else tuple(job["ids"])
    task = TagTask("cost", photos, tags, np.zeros((len(photos), len(tags)), dtype=bool), ids=ids)
    one = adapter(spec or None, device="cuda" if device == "cuda" else "cpu" if device == "cpu" else "auto")
    one.predict(task.part(photos=range(min(2, len(photos)))))  # triggers lazy loading
    start = time.perf_counter()
    one.predict(task)
    seconds = time.perf_counter() - start
    result = {"milliseconds": 1000 * seconds / len(photos), "megabytes": peak_megabytes()}
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
