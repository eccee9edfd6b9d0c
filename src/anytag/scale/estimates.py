"""Estimate the cost of a run from a sample of its input."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from tempfile import TemporaryDirectory
from typing import Any

from anytag.data.io import absolute
from anytag.data.parts import Parts
from anytag.data.units import Unit, evenly, units
from anytag.errors import AnytagError
from anytag.scale.photos import Photo, photos, refuse_unreadable
from anytag.scale.runs import Options
from anytag.scale.stages import BATCH, Task
from anytag.scale.worker import LocalModel, Worker

RAY_START_SECONDS = 8.0
"""Seconds until a worker on a running, idle machine loads the model; see benchmarks/scale.py."""
_UNITS = 20  # sampled units


@dataclass(frozen=True)
class Estimate:
    """The estimated cost of a run.

    Attributes:
        units: number of units to process.
        rows: number of their rows; for shards, estimated from their bytes.
        bytes: size of the photos.
        sample: number of photos in the sample.
        failed: number of failed photos in the sample.
        start: seconds until the first photo is processed: start of Ray, loading the model.
        seconds: seconds per photo on one core of this machine.
        unit_seconds: additional seconds per unit, to open it and to write its part.
    """

    units: int
    rows: int
    bytes: int
    sample: int
    failed: int
    start: float
    seconds: float
    unit_seconds: float

    def hours(self, actors: int) -> float:
        """Hours with this many actors, one per core; in the last round some may be idle."""
        one = self.seconds * self.rows / self.units + self.unit_seconds
        return (self.start + one * -(-self.units // actors)) / 3600


def estimate(
    sources: Iterable[str], task: Task, options: Options | None = None, *, sample: int = 1000
) -> Estimate:
    """Estimate the cost of a run from a sample of photos on one core of this machine; nothing is written.

    Args:
        sources, task, options: as for `run`.
        sample: number of photos, from up to 20 units spread evenly over the input.

    Raises:
        AnytagError: there is nothing to read.
    """
    options = options or Options()
    with TemporaryDirectory() as folder:
        parts = Parts(folder, {})
        work = units([absolute(one) for one in sources], listings=parts.notes)
        refuse_unreadable(work.units, options.column)
        begun = time.perf_counter()
        worker = Worker(task, parts, LocalModel(task), column=options.column)
        some = evenly(work.units, _UNITS)
        _Trial(worker, options.column).do(some[0], BATCH)  # warm-up: loads what is loaded only once
        start = RAY_START_SECONDS + time.perf_counter() - begun
        trial = _Trial(worker, options.column)
        for unit in some:
            trial.do(unit, -(-sample // len(some)))
        return trial.of(work.units, start)


class _Trial:
    """Processes a sample, and times photos and units separately."""

    def __init__(self, worker: Worker, column: str | None) -> None:
        self._worker, self._column = worker, column
        self._units = self._rows = self._failed = self._shard_rows = self._shard_bytes = 0
        self._of_rows = self._of_units = 0.0

    def do(self, unit: Unit, count: int) -> None:
        """Process the first `count` photos of a unit; unreadable units are skipped, as in a run."""
        clock = [time.perf_counter()]
        try:
            with closing(photos(unit, column=self._column)) as found:  # type: ignore[type-var]
                first = list(islice(found, 1))
                some = self._counted(chain(first, islice(found, count - 1)))
                done = self._worker.write(unit, _timed(self._worker.rows(some), clock))
        except AnytagError:
            return
        clock.append(time.perf_counter())
        self._of_rows += clock[2] - clock[1]
        self._of_units += clock[1] - clock[0] + clock[3] - clock[2]
        self._units, self._rows, self._failed = (
            self._units + 1, self._rows + done.rows, self._failed + done.failed
        )  # fmt: skip

    def _counted(self, some: Iterable[Photo]) -> Iterator[Photo]:
        for photo in some:
            self._shard_rows += photo.bytes > 0
            self._shard_bytes += photo.bytes
            yield photo

    def of(self, work: Sequence[Unit], start: float) -> Estimate:
        """The estimate for all units."""
        each = max(1.0, self._shard_bytes / max(1, self._shard_rows))
        return Estimate(
            units=len(work),
            rows=sum(unit.rows if unit.rows >= 0 else round(unit.bytes / each) for unit in work),
            bytes=sum(unit.bytes for unit in work),
            sample=self._rows,
            failed=self._failed,
            start=start,
            seconds=self._of_rows / max(1, self._rows),
            unit_seconds=self._of_units / max(1, self._units),
        )


def _timed(rows: Iterator[dict[str, Any]], clock: list[float]) -> Iterator[dict[str, Any]]:
    """Yield the rows, and append the times of start and end to `clock`."""
    clock.append(time.perf_counter())
    yield from rows
    clock.append(time.perf_counter())
