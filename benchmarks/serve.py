"""The server under load, beside `anytag tag` on the same photos in the same run.

    python benchmarks/serve.py examples/photos

Prints the photos per second of 16 clients and of the command, the latency when idle and at half the load,
what is refused at ten times the load, the effect of stalled uploads on another client, and memory. Clients
use HTTP/1.1 over persistent connections, from one process on uvloop (50 µs of CPU per request); on two cores
they slow down what they measure.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path

import uvloop
from PIL import Image

SIZE = (500, 375)
STALLING = 2000


@dataclass
class Load:
    """The results of clients: seconds of each answer, by status."""

    seconds: dict[int, list[float]] = field(default_factory=dict)
    wall: float = 0.0

    def add(self, status: int, seconds: float) -> None:
        self.seconds.setdefault(status, []).append(seconds)

    def quantile(self, share: float, status: int = 200) -> float:
        """Return a quantile in milliseconds."""
        return 1000 * statistics.quantiles(self.seconds[status], n=1000)[round(share * 1000) - 1]

    @property
    def rate(self) -> float:
        return len(self.seconds.get(200, ())) / self.wall

    @property
    def counts(self) -> Counter[int]:
        return Counter({status: len(seconds) for status, seconds in self.seconds.items()})


def request(body: bytes) -> bytes:
    head = "POST /v1/tag HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/jpeg\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Client:
    """A persistent connection; it is opened again when the server has closed it."""

    def __init__(self, port: int, bodies: list[bytes]) -> None:
        self._port = port
        self._requests = list(map(request, bodies))
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
    """Run clients that each send the next request as soon as they have an answer."""
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
    """Send requests at a rate, whether they are answered or not."""
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


async def among_stalling(port: int, bodies: list[bytes], *, stalling: int, count: int) -> Load:
    """Run one client while `stalling` uploads stall; a dropped upload is replaced."""

    async def stall() -> None:
        while True:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request(b"x" * 100_000)[:2000])
            await reader.read()
            writer.close()

    tasks = [asyncio.create_task(stall()) for _ in range(stalling)]
    await asyncio.sleep(2)
    load = await closed_loop(port, bodies, clients=1, count=count)
    for task in tasks:
        task.cancel()
    return load


def finished(work: Coroutine[None, None, Load]) -> Load:
    """Run on an event loop with little overhead."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def memory(process: subprocess.Popen[str]) -> float:
    """Return the resident memory in MB."""
    text = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    return int(re.findall(r"VmRSS:\s+(\d+)", text)[0]) / 1024


def command(paths: list[Path]) -> tuple[float, float]:
    """Return the photos per second that `anytag tag` prints, without its start, and its CPU seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    arguments = [sys.executable, "-m", "anytag", "tag", *map(str, paths), "--format", "jsonl"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    rates = re.findall(r"([\d.]+) photos/s", done.stderr)
    return float(rates[0]) if rates else 0.0, used


def refusals(port: int) -> dict[str, float]:
    """Return the number of requests without a route that the server answered, by upper bound in seconds."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    found = re.findall(r'anytag_request_seconds_bucket\{le="([^"]+)",route="none"\} (\S+)', text)
    return {bound: float(count) for bound, count in found}


def within(before: dict[str, float], after: dict[str, float]) -> str:
    """Return the shares of refusals that the server answered within so many seconds, reading included."""
    counts = {bound: count - before.get(bound, 0) for bound, count in after.items()}
    return ", ".join(
        f"{100 * counts[bound] / counts['+Inf']:.2f} % in {bound} s" for bound in ("0.001", "0.01", "0.05")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--count", type=int, default=1600, help="photos per measurement")
    parser.add_argument("--seconds", type=float, default=60, help="seconds at ten times the load")
    parser.add_argument("--many", type=int, default=100_000, help="requests for the growth of memory")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{number}.jpg") for number in range(400)]
        sources = sorted(options.photos.glob("*.jpg"))
        for number, path in enumerate(paths):
            source = Image.open(sources[number % len(sources)]).convert("RGB")
            source.resize(SIZE).save(path, quality=88)
        report(Path(folder), [path.read_bytes() for path in paths[:32]], options)


def report(folder: Path, bodies: list[bytes], options: argparse.Namespace) -> None:
    arguments = [sys.executable, "-m", "anytag", "serve", "--port", "0"]
    server = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    port = int(server.stderr.readline().rsplit(":", 1)[1])
    try:
        finished(closed_loop(port, bodies, clients=4, count=200))
        ratios, rates, costs = [], [], []
        paths = sorted(folder.iterdir())
        for _ in range(3):
            command_rate, used = command(paths)
            costs.append(1000 * (used - command(paths[:1])[1]) / (len(paths) - 1))
            load = finished(closed_loop(port, bodies, clients=16, count=options.count))
            rates.append(load.rate)
            ratios.append(load.rate / command_rate)
            print(
                f"16 clients {load.rate:.0f}/s, anytag tag {command_rate:.0f}/s, "
                f"p99 {load.quantile(0.99):.0f} ms"
            )
        print(f"- 16 clients : anytag tag is {statistics.median(ratios):.2f}; target at least 0.8.")
        idle = finished(closed_loop(port, bodies, clients=1, count=400))
        print(
            f"- One client: p50 {idle.quantile(0.5):.1f} ms, p99 {idle.quantile(0.99):.1f} ms; "
            f"CPU per photo of anytag tag {statistics.median(costs):.1f} ms."
        )
        half = finished(open_loop(port, bodies, rate=statistics.median(rates) / 2, seconds=15))
        print(f"- Half of the load: p50 {half.quantile(0.5):.1f} ms, p99 {half.quantile(0.99):.1f} ms.")
        before, quick = memory(server), refusals(port)
        much = finished(open_loop(port, bodies, rate=10 * statistics.median(rates), seconds=options.seconds))
        refused = f", 429 p99 {much.quantile(0.99, 429):.0f} ms" if 429 in much.counts else ""
        print(
            f"- Ten times the load: {dict(much.counts)}, accepted p99 {much.quantile(0.99):.0f} ms{refused}; "
            f"memory {memory(server) - before:+.0f} MB."
        )
        print(f"  Refused requests, as the server counts them: {within(quick, refusals(port))}.")
        again = finished(closed_loop(port, bodies, clients=1, count=400))
        print(f"- One client afterwards: p50 {again.quantile(0.5):.1f} ms.")
        stalled = finished(among_stalling(port, bodies, stalling=STALLING, count=200))
        print(f"- One client among {STALLING} stalled uploads: {dict(stalled.counts)}.")
        before = memory(server)
        finished(closed_loop(port, bodies, clients=16, count=options.many))
        slope = (memory(server) - before) / options.many * 10_000
        print(f"- {options.many:,} requests: {slope:+.2f} MB per 10,000; {memory(server):.0f} MB in total.")
        print(f"- {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}.")
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
