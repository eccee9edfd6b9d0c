"""One unit from end to end on one machine: read, decoded, asked, written as its part."""

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
from anytag.scale.photos import Photo, Wanted, photos
from anytag.scale.stages import BATCH, Answer, Look, Task, schema

Answers = Callable[[], list[Answer]]
"""Waits for answers."""


class Asker(Protocol):
    """Asks the model.

    Attributes:
        ahead: batches that may wait for their answers while more are decoded.
    """

    ahead: int

    def ask(self, pixels: Sequence[Bytes]) -> Answers: ...


class Here:
    """Asks the model in this process: on CPUs, where decoding and asking take turns on one core."""

    ahead = 0

    def __init__(self, task: Task) -> None:
        self._model = task.open()

    def ask(self, pixels: Sequence[Bytes]) -> Answers:
        answers = self._model(pixels)
        return lambda: answers


class There:
    """Asks one of the actors that hold the model on GPUs; squares of the model's size go there, no photos."""

    ahead = 2

    def __init__(self, actors: Sequence[Any]) -> None:
        self._actors, self._turn = actors, os.getpid()

    def ask(self, pixels: Sequence[Bytes]) -> Answers:
        self._turn += 1
        answer = self._actors[self._turn % len(self._actors)].ask.remote(list(pixels))
        return lambda: list(import_module("ray").get(answer))


class Holder:
    """An actor that holds the model on a GPU."""

    def __init__(self, task: Task) -> None:
        self._model = task.open()

    def ask(self, pixels: list[Bytes]) -> list[Answer]:
        return self._model(pixels)


@dataclass(frozen=True)
class Maker:
    """What is sent to the workers of a cluster: each makes its `Worker` from it."""

    task: Task
    parts: Parts
    column: str | None = None
    holders: tuple[Any, ...] = ()

    def __call__(self) -> Worker:
        asker = There(self.holders) if self.holders else Here(self.task)
        return Worker(self.task, self.parts, asker, column=self.column)


class Worker:
    """Does units; see `anytag.data.cluster.Work`."""

    def __init__(self, task: Task, parts: Parts, asker: Asker, *, column: str | None = None) -> None:
        self.parts, self._asker, self._column = parts, asker, column
        self._look, self._schema = Look(task), schema(task)

    def do(self, unit: Unit) -> UnitResult:
        """Every photo of the unit."""
        with closing(photos(unit, column=self._column)) as found:  # type: ignore[type-var]
            return self.write(unit, self.rows(found))

    def again(self, unit: Unit, earlier: UnitResult) -> UnitResult:
        """The photos that failed, and such as the part lacks since its unit broke off; the others stay."""
        failed = {
            place for place, row in enumerate(self.parts.read(earlier.file)) if row["error"] is not None
        }

        def wanted(place: int) -> bool:
            return place in failed or place >= earlier.rows

        return self.write(unit, self._mended(unit, earlier, wanted))

    def _mended(self, unit: Unit, earlier: UnitResult, wanted: Wanted) -> Iterator[dict[str, Any]]:
        with closing(photos(unit, column=self._column, wanted=wanted)) as found:  # type: ignore[type-var]
            new = self.rows(found)
            for row in self.parts.read(earlier.file):
                yield row if row["error"] is None else next(new, row)
            yield from new

    def write(self, unit: Unit, rows: Iterable[dict[str, Any]]) -> UnitResult:
        """Rows as the part of the unit."""
        with self.parts.writing(unit, self._schema) as part:
            for row in rows:
                part.write(row)
        return UnitResult(self.parts.file(unit), unit.name, unit.stamp, part.rows, part.failed)

    def rows(self, found: Iterable[Photo]) -> Iterator[dict[str, Any]]:
        """The rows of photos, in their order: while some are asked, the next are decoded."""
        waiting: deque[tuple[list[tuple[str, Bytes | Failure]], Answers]] = deque()
        for some in batches(((photo.id, self._pixels(photo)) for photo in found), BATCH):
            good = [pixels for _, pixels in some if not isinstance(pixels, Failure)]
            waiting.append((some, self._asker.ask(good)))
            if len(waiting) > self._asker.ahead:
                yield from _joined(*waiting.popleft())
        while waiting:
            yield from _joined(*waiting.popleft())

    def _pixels(self, photo: Photo) -> Bytes | Failure:
        if photo.source is None:
            return photo.error or Failure("ImageError", "there is no photo")
        return self._look(photo.source)


def _joined(some: Sequence[tuple[str, Bytes | Failure]], answers: Answers) -> Iterator[dict[str, Any]]:
    given = iter(answers())
    for name, pixels in some:
        is_bad = isinstance(pixels, Failure)
        yield {"id": name, "error": asdict(pixels)} if is_bad else {"id": name, **next(given), "error": None}  # type: ignore[arg-type]
