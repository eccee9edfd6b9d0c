"""What a run would take, told from some photos of its input."""

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
from anytag.scale.worker import Here, Worker

RAY_STARTS = 8.0
"""Seconds until a worker on a machine that runs and is idle asks for the model; see benchmarks/scale.py."""
_UNITS = 20  # that are tried


@dataclass(frozen=True)
class Estimate:
    """What a run would take.

    Attributes:
        units: to do.
        rows: of them; of shards, from their bytes.
        bytes: of the photos.
        sample: photos that were tried.
        failed: of the sample.
        start: seconds until the first photo is asked: Ray, the model.
        seconds: of one core of this machine for one photo.
        unit_seconds: the same for a unit besides, to open it and to write its part.
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
        """Of so many actors, each on a core; a unit is done by one, so the last round may leave some idle."""
        one = self.seconds * self.rows / self.units + self.unit_seconds
        return (self.start + one * -(-self.units // actors)) / 3600


def estimate(
    sources: Iterable[str], task: Task, options: Options | None = None, *, sample: int = 1000
) -> Estimate:
    """What a run would take, from a sample of photos on one core of this machine; nothing is written.

    Args:
        sources, task: as for `run`.
        sample: photos, from up to 20 units that lie evenly in the input.

    Raises:
        AnytagError: there is nothing to read.
    """
    options = options or Options()
    with TemporaryDirectory() as folder:
        parts = Parts(folder, {})
        work = units([absolute(one) for one in sources], listings=parts.notes)
        refuse_unreadable(work.units, options.column)
        begun = time.perf_counter()
        worker = Worker(task, parts, Here(task), column=options.column)
        some = evenly(work.units, _UNITS)
        _Trial(worker, options.column).do(some[0], BATCH)  # the first photos wait for what is loaded once
        start = RAY_STARTS + time.perf_counter() - begun
        trial = _Trial(worker, options.column)
        for unit in some:
            trial.do(unit, -(-sample // len(some)))
        return trial.of(work.units, start)


class _Trial:
    """Photos of units are done, and the time that they take is told apart from that of their units."""

    def __init__(self, worker: Worker, column: str | None) -> None:
        self._worker, self._column = worker, column
        self._units = self._rows = self._failed = self._shard_rows = self._shard_bytes = 0
        self._of_rows = self._of_units = 0.0

    def do(self, unit: Unit, count: int) -> None:
        """The first photos of a unit; one that cannot be read is passed over, as a run does."""
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
    """The same rows; when they began and ended."""
    clock.append(time.perf_counter())
    yield from rows
    clock.append(time.perf_counter())
