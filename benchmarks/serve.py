"""The service under load, beside `anytag tag` on the same photos in the same run.

    python benchmarks/serve.py examples/photos

Prints photos a second of 16 clients against the command's, latency when idle and at half of the load, what is
refused at ten times the load, and memory. Clients speak HTTP/1.1 over connections that are kept, from one
process on uvloop (50 µs of CPU a request); on two cores they take a share of what they measure.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path

import uvloop
from PIL import Image

SIZE = (500, 375)


@dataclass
class Load:
    """What clients saw: seconds of each answer, by status."""

    seconds: dict[int, list[float]] = field(default_factory=dict)
    wall: float = 0.0

    def add(self, status: int, seconds: float) -> None:
        self.seconds.setdefault(status, []).append(seconds)

    def quantile(self, share: float, status: int = 200) -> float:
        """Milliseconds."""
        return 1000 * statistics.quantiles(self.seconds[status], n=1000)[round(share * 1000) - 1]

    @property
    def rate(self) -> float:
        return len(self.seconds.get(200, ())) / self.wall

    @property
    def counts(self) -> Counter[int]:
        return Counter({status: len(seconds) for status, seconds in self.seconds.items()})


class Client:
    """One connection that is kept; opened again when the server closed it."""

    def __init__(self, port: int, bodies: list[bytes]) -> None:
        self._port = port
        self._requests = [
            f"POST /v1/tag HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/jpeg\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
            for body in bodies
        ]
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, number: int, load: Load) -> None:
        start = time.perf_counter()
        if self._streams is None or self._streams[0].at_eof():
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        try:
            writer.write(self._requests[number % len(self._requests)])
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(head.split(b"content-length:")[1].split()[0]))
            status = int(head.split()[1])
        except (OSError, asyncio.IncompleteReadError):
            status, head = 0, b"connection: close"
        load.add(status, time.perf_counter() - start)
        if b"connection: close" in head:
            writer.close()
            self._streams = None


async def closed_loop(port: int, bodies: list[bytes], *, clients: int, count: int) -> Load:
    """Clients that ask again as soon as they are answered."""
    load, numbers = Load(), iter(range(count))

    async def work() -> None:
        client = Client(port, bodies)
        for number in numbers:
            await client.ask(number, load)

    start = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(clients)))
    load.wall = time.perf_counter() - start
    return load


async def open_loop(port: int, bodies: list[bytes], *, rate: float, seconds: float) -> Load:
    """Requests at a rate, whether they are answered or not."""
    load, idle, tasks = Load(), [Client(port, bodies)], []

    async def one(number: int) -> None:
        client = idle.pop() if idle else Client(port, bodies)
        await client.ask(number, load)
        idle.append(client)

    start = time.perf_counter()
    for number in range(round(rate * seconds)):
        await asyncio.sleep(max(0.0, start + number / rate - time.perf_counter()))
        tasks.append(asyncio.create_task(one(number)))
    await asyncio.gather(*tasks)
    load.wall = time.perf_counter() - start
    return load


def finished(work: Coroutine[None, None, Load]) -> Load:
    """On a loop that costs little."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def memory(process: subprocess.Popen[str]) -> float:
    """Resident megabytes."""
    text = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    return int(re.findall(r"VmRSS:\s+(\d+)", text)[0]) / 1024


def command_rate(folder: Path) -> float:
    """Photos a second of `anytag tag`, its start left out, as it says itself."""
    command = [sys.executable, "-m", "anytag", "tag", str(folder), "--format", "jsonl"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(re.findall(r"([\d.]+) photos/s", done.stderr)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--count", type=int, default=1600, help="photos of a measurement")
    parser.add_argument("--seconds", type=float, default=60, help="of ten times the load")
    parser.add_argument("--many", type=int, default=100_000, help="requests for the slope of memory")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{number}.jpg") for number in range(400)]
        sources = sorted(options.photos.glob("*.jpg"))
        for number, path in enumerate(paths):
            source = Image.open(sources[number % len(sources)]).convert("RGB")
            source.resize(SIZE).save(path, quality=88)
        report(Path(folder), [path.read_bytes() for path in paths[:32]], options)


def report(folder: Path, bodies: list[bytes], options: argparse.Namespace) -> None:
    command = [sys.executable, "-m", "anytag", "serve", "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    port = int(server.stderr.readline().rsplit(":", 1)[1])
    try:
        finished(closed_loop(port, bodies, clients=4, count=200))
        ratios, rates = [], []
        for _ in range(3):
            beside = command_rate(folder)
            load = finished(closed_loop(port, bodies, clients=16, count=options.count))
            rates.append(load.rate)
            ratios.append(load.rate / beside)
            print(
                f"16 clients {load.rate:.0f}/s, anytag tag {beside:.0f}/s, p99 {load.quantile(0.99):.0f} ms"
            )
        print(f"- 16 clients : anytag tag is {statistics.median(ratios):.2f}; at least 0.8 is wanted.")
        idle = finished(closed_loop(port, bodies, clients=1, count=400))
        print(f"- One client: p50 {idle.quantile(0.5):.1f} ms, p99 {idle.quantile(0.99):.1f} ms.")
        half = finished(open_loop(port, bodies, rate=statistics.median(rates) / 2, seconds=15))
        print(f"- Half of the load: p50 {half.quantile(0.5):.1f} ms, p99 {half.quantile(0.99):.1f} ms.")
        before = memory(server)
        much = finished(open_loop(port, bodies, rate=10 * statistics.median(rates), seconds=options.seconds))
        refused = f", 429 p99 {much.quantile(0.99, 429):.0f} ms" if 429 in much.counts else ""
        print(
            f"- Ten times the load: {dict(much.counts)}, accepted p99 {much.quantile(0.99):.0f} ms{refused}; "
            f"memory {memory(server) - before:+.0f} MB."
        )
        again = finished(closed_loop(port, bodies, clients=1, count=400))
        print(f"- One client afterwards: p50 {again.quantile(0.5):.1f} ms.")
        before = memory(server)
        finished(closed_loop(port, bodies, clients=16, count=options.many))
        slope = (memory(server) - before) / options.many * 10_000
        print(f"- {options.many:,} requests: {slope:+.2f} MB per 10,000; {memory(server):.0f} MB in all.")
        print(f"- {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}.")
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
