"""Process a unit from end to end: read, preprocess, run the model, write the part."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any, Protocol

from anytag._typing import Bytes
from anytag.batching import batches
from anytag.data.parts import Parts, UnitResult
from anytag.data.units import Unit
from anytag.results import Failure
from anytag.scale.photos import Photo, RowFilter, photos
from anytag.scale.stages import BATCH, Answer, Preprocess, Task, schema

PendingAnswers = Callable[[], list[Answer]]
"""Waits for the answers of a batch."""


class ModelClient(Protocol):
    """Runs the model on batches.

    Attributes:
        ahead: number of batches that may be pending while more are preprocessed.
    """

    ahead: int

    def submit(self, pixels: Sequence[Bytes]) -> PendingAnswers: ...


class LocalModel:
    """Runs the model in this process: on CPUs, where preprocessing and the model share a core."""

    ahead = 0

    def __init__(self, task: Task) -> None:
        self._model = task.open()

    def submit(self, pixels: Sequence[Bytes]) -> PendingAnswers:
        answers = self._model(pixels)
        return lambda: answers


class RemoteModel:
    """Sends preprocessed images to actors that run the model on GPUs."""

    ahead = 2

    def __init__(self, actors: Sequence[Any]) -> None:
        self._actors, self._turn = actors, os.getpid()

    def submit(self, pixels: Sequence[Bytes]) -> PendingAnswers:
        self._turn += 1
        answer = self._actors[self._turn % len(self._actors)].submit.remote(list(pixels))
        return lambda: list(import_module("ray").get(answer))


class ModelActor:
    """An actor that runs the model on a GPU."""

    def __init__(self, task: Task) -> None:
        self._model = task.open()

    def submit(self, pixels: list[Bytes]) -> list[Answer]:
        return self._model(pixels)


@dataclass(frozen=True)
class WorkerFactory:
    """Sent to the machines of a cluster to create their `Worker`."""

    task: Task
    parts: Parts
    column: str | None = None
    actors_with_model: tuple[Any, ...] = ()

    def __call__(self) -> Worker:
        asker = RemoteModel(self.actors_with_model) if self.actors_with_model else LocalModel(self.task)
        return Worker(self.task, self.parts, asker, column=self.column)


class Worker:
    """Processes units; see `anytag.data.cluster.Work`."""

    def __init__(self, task: Task, parts: Parts, asker: ModelClient, *, column: str | None = None) -> None:
        self.parts, self._client, self._column = parts, asker, column
        self._preprocess, self._schema = Preprocess(task), schema(task)

    def do(self, unit: Unit) -> UnitResult:
        """Process all photos of a unit."""
        with closing(photos(unit, column=self._column)) as found:  # type: ignore[type-var]
            return self.write(unit, self.rows(found))

    def again(self, unit: Unit, earlier: UnitResult) -> UnitResult:
        """Process failed photos again, and photos that are missing after a read error; keep the others."""
        failed = {
            place for place, row in enumerate(self.parts.read(earlier.file)) if row["error"] is not None
        }

        def wanted(place: int) -> bool:
            return place in failed or place >= earlier.rows

        return self.write(unit, self._merged(unit, earlier, wanted))

    def _merged(self, unit: Unit, earlier: UnitResult, wanted: RowFilter) -> Iterator[dict[str, Any]]:
        with closing(photos(unit, column=self._column, wanted=wanted)) as found:  # type: ignore[type-var]
            new = self.rows(found)
            for row in self.parts.read(earlier.file):
                yield row if row["error"] is None else next(new, row)
            yield from new

    def write(self, unit: Unit, rows: Iterable[dict[str, Any]]) -> UnitResult:
        """Write rows as the part of a unit."""
        with self.parts.writing(unit, self._schema) as part:
            for row in rows:
                part.write(row)
        return UnitResult(self.parts.file(unit), unit.name, unit.stamp, part.rows, part.failed)

    def rows(self, found: Iterable[Photo]) -> Iterator[dict[str, Any]]:
        """The rows of photos, in order; the next photos are preprocessed while the model runs."""
        waiting: deque[tuple[list[tuple[str, Bytes | Failure]], PendingAnswers]] = deque()
        for some in batches(((photo.id, self._pixels(photo)) for photo in found), BATCH):
            good = [pixels for _, pixels in some if not isinstance(pixels, Failure)]
            waiting.append((some, self._client.submit(good)))
            if len(waiting) > self._client.ahead:
                yield from _joined(*waiting.popleft())
        while waiting:
            yield from _joined(*waiting.popleft())

    def _pixels(self, photo: Photo) -> Bytes | Failure:
        if photo.source is None:
            return photo.error or Failure("ImageError", "there is no photo")
        return self._preprocess(photo.source)


def _joined(some: Sequence[tuple[str, Bytes | Failure]], answers: PendingAnswers) -> Iterator[dict[str, Any]]:
    given = iter(answers())
    for name, pixels in some:
        is_bad = isinstance(pixels, Failure)
        yield {"id": name, "error": asdict(pixels)} if is_bad else {"id": name, **next(given), "error": None}  # type: ignore[arg-type]
