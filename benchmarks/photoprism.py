"""Requests per second for PhotoPrism's labels, of one square of 224 pixels and of three.

    python benchmarks/photoprism.py examples/photos

Eight clients in this process send requests to `anytag serve`; on two cores they slow down what they measure.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from PIL import Image

SIDE, CLIENTS, TARGET = 224, 8, 40


def square(path: Path, place: int) -> str:
    """Return the left, middle or right square of a photo (0, 1, 2) as PhotoPrism sends it."""
    photo = Image.open(path).convert("RGB")
    side = min(photo.size)
    left, top = (photo.width - side) * place // 2, (photo.height - side) * place // 2
    file = io.BytesIO()
    photo.crop((left, top, left + side, top + side)).resize((SIDE, SIDE)).save(file, "JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def rate(client: httpx.Client, bodies: Sequence[object], count: int) -> float:
    """Return the requests per second of all clients together."""

    def ask(number: int) -> None:
        client.post("/api/v1/vision/labels", json=bodies[number % len(bodies)]).raise_for_status()

    start = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(ask, range(count)))
    return count / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--count", type=int, default=400, help="requests per measurement")
    options = parser.parse_args()
    photos = sorted(options.photos.glob("*.jpg"))
    command = [sys.executable, "-m", "anytag", "serve", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        address = server.stderr.readline().split()[-1]
        try:
            with httpx.Client(base_url=address, timeout=60, trust_env=False) as client:
                for squares in (1, 3):
                    bodies = [{"images": [square(path, k) for k in range(squares)]} for path in photos]
                    rate(client, bodies, 40)
                    found = statistics.median(rate(client, bodies, options.count) for _ in range(3))
                    print(f"- {squares} squares: {found:.0f} requests/s; target at least {TARGET}.")
        finally:
            server.terminate()
    print(f"- {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}.")


if __name__ == "__main__":
    main()
