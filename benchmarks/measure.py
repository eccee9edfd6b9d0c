"""Time, CPU time and peak memory of functions and of commands, and Markdown tables of the results.

Small and with the standard library only: run as a script, this file is the launcher of `of_command`.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


@dataclass(frozen=True)
class Use:
    """Resources used: wall and CPU time (user + system, all threads) in seconds, peak memory in bytes."""

    wall: float
    cpu: float
    peak: int = 0

    def each(self, count: int) -> Use:
        """Return the share of one of `count` photos."""
        return Use(self.wall / count, self.cpu / count, self.peak)

    def without(self, start: Use) -> Use:
        """Subtract the start, which was measured separately."""
        return Use(self.wall - start.wall, self.cpu - start.cpu, self.peak)


def of_function(work: Callable[[], object]) -> Use:
    """Measure a call in this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Use(time.perf_counter() - wall, time.process_time() - cpu)


def of_command(*command: str, output: Path) -> Use:
    """Measure a command in a subprocess; its stdout goes to the file `output`.

    A launcher starts it, because Linux counts the parent's memory before exec as memory of the child.

    Raises:
        SystemExit: the command failed.
    """
    program = shutil.which(command[0]) or command[0]
    launcher = [sys.executable, "-I", "-S", __file__, str(output), program, *command[1:]]
    found = subprocess.run(launcher, check=True, stdout=subprocess.PIPE, text=True).stdout
    code, *figures = json.loads(found)
    if code:
        sys.exit(f"{' '.join(command)}: exit code {code}")
    return Use(*figures)


def alternately(
    jobs: Mapping[str, Callable[[], Use]], *, repeats: int, warm: bool = True
) -> dict[str, list[Use]]:
    """Run all jobs `repeats` times in turn, so that slow phases of the machine affect all of them.

    Every other round runs backwards. With `warm` each job runs once before, uncounted.
    """
    found: dict[str, list[Use]] = {name: [] for name in jobs}
    for turn in range(-1 if warm else 0, repeats):
        for name in list(jobs)[:: 1 if turn % 2 else -1]:
            use = jobs[name]()
            if turn >= 0:
                found[name].append(use)
    return found


def middle(values: Sequence[float], form: str = ".2f") -> str:
    """Return median and range, as in `7.41 (7.30–7.62)`."""
    return f"{statistics.median(values):{form}} ({min(values):{form}}–{max(values):{form}})"


def ratio(above: Sequence[Use], below: Sequence[Use]) -> float:
    """Return the median over rounds of CPU time over CPU time of the same round."""
    return statistics.median(a.cpu / b.cpu for a, b in zip(above, below, strict=True))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; all columns but the first are aligned right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def arguments(document: str, parts: Sequence[str], **numbers: int) -> argparse.Namespace:
    """Parse the arguments of a benchmark of several parts: a folder, numbers with defaults, and parts."""
    import argparse  # not needed in the launcher

    parser = argparse.ArgumentParser(
        description=document, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--part", action="append", choices=parts)
    args = parser.parse_args()
    args.part = args.part or parts
    return args


def report(bench: object, parts: Sequence[str]) -> None:
    """Print the lines that each part, a method, yields, with the load of the machine."""
    for part in parts:
        run: Callable[[], Iterator[str]] = getattr(bench, part)
        for line in run():
            print(f"{line} (load {os.getloadavg()[0]:.1f})", flush=True)


def machine() -> str:
    """Return the processor, the number of usable cores, and the load before the run."""
    name = "unknown processor"
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = names[0].partition(":")[2].strip() if names else name
    load = " ".join(f"{one:.2f}" for one in os.getloadavg())
    return f"{name}, {len(os.sched_getaffinity(0))} cores, load averages before the run {load}"


def _launch(output: str, *command: str) -> None:
    """Print exit code, wall, CPU and peak memory of a command as JSON."""
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    # with compiled modules, which an installed package has
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    child = os.posix_spawn(command[0], command, environment, file_actions=[(os.POSIX_SPAWN_DUP2, file, 1)])
    _, status, usage = os.wait4(child, 0)
    wall = time.perf_counter() - start
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    code = os.waitstatus_to_exitcode(status)
    print(json.dumps([code, wall, usage.ru_utime + usage.ru_stime, peak]))


if __name__ == "__main__":
    _launch(*sys.argv[1:])
