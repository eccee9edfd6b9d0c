"""`anytag tag --ray` in Python: process the units of an input into parts of an output on a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

from anytag._io import locked
from anytag.data import cluster
from anytag.data.io import absolute, is_url, public
from anytag.data.parts import Parts, UnitResult, place
from anytag.data.units import Unit, Units, survey
from anytag.errors import AnytagError, MissingExtraError, RefusedOutputError
from anytag.models.registry import resolve
from anytag.scale.photos import refuse_unreadable
from anytag.scale.stages import Task, card_hash, card_of
from anytag.scale.worker import ModelActor, WorkerFactory


@dataclass(frozen=True)
class Options:
    """Options of a run that do not change its rows.

    Attributes:
        column: Parquet column of photos or their URLs; by default detected by name and type.
        actors: maximum number of actors, one per core; by default the number of cores of the cluster.
        retry_failed: only process failed rows again.
    """

    column: str | None = None
    actors: int | None = None
    retry_failed: bool = False


@dataclass
class Summary:
    """The result of a run.

    Attributes:
        units, rows, failed: numbers of units, rows and failed rows in the output.
        done: number of units that this run has processed.
        unread: error messages of files and units that could not be read at all.
    """

    units: int = 0
    rows: int = 0
    failed: int = 0
    done: int = 0
    unread: tuple[str, ...] = ()


class Run:
    """A planned run.

    Attributes:
        summary: updated during the run.
        total: number of units that this run processes.
    """

    def __init__(self, task: Task, parts: Parts, work: Units, options: Options) -> None:
        self._task, self._parts, self._options = task, parts, options
        self._known = _known(parts)
        _check_unchanged(parts, work, self._known)
        self.summary = Summary(unread=work.unreadable)
        self._units = [unit for unit in work.units if self._is_wanted(unit)]
        self.total = len(self._units)
        for one in self._known.values():
            self._count(one)

    def _is_wanted(self, unit: Unit) -> bool:
        earlier = self._known.get(self._parts.file(unit))
        if self._options.retry_failed:
            return earlier is not None and earlier.failed > 0
        return earlier is None

    def _count(self, one: UnitResult, *, sign: int = 1) -> None:
        self.summary.units += sign
        self.summary.rows += sign * one.rows
        self.summary.failed += sign * one.failed

    def do(self) -> Iterator[UnitResult]:
        """Process the units on the connected cluster, and yield each when it is finished."""
        task = self._task
        actors_with_model = _model_actors(task) if self._units else ()
        make = WorkerFactory(task, self._parts, self._options.column, actors_with_model)
        memory = cluster.MEMORY + sum(
            path.stat().st_size for path in resolve(task.model).rglob("*") if path.is_file()
        )
        results = cluster.run(
            self._units, make, retry=self._options.retry_failed, actors=self._options.actors, memory=memory
        )
        for one in cluster.follow(self._parts, results, self._known):
            if one.error:
                self.summary.unread = (*self.summary.unread, one.error)
            else:
                if (earlier := self._known.get(one.file)) is not None:
                    self._count(earlier, sign=-1)
                self._count(one)
                self.summary.done += 1
            yield one


def run(sources: Iterable[str], output: str, task: Task, options: Options | None = None) -> Summary:
    """Tag, caption or embed all photos of an input on the cluster that this process is connected to.

    Finished units are skipped, so an interrupted run is resumed, and of a grown input only the new part is
    processed.

    Args:
        sources: Parquet with photos or their URLs, WebDataset shards, listings (.txt), or folders and
            prefixes of these and of photos, on disk or at any URL that fsspec supports.
        output: a folder or URL for parts: see `anytag.data.parts`.
        task: what to do.
        options: of the run.

    Raises:
        RefusedOutputError: the output has other files, or rows of another model or with other options.
        AnytagError: there is nothing to read.
    """
    with plan(sources, output, task, options) as found:
        for _ in found.do():
            pass
        return found.summary


@contextmanager
def plan(sources: Iterable[str], output: str, task: Task, options: Options | None = None) -> Iterator[Run]:
    """Prepare a run; arguments and errors as for `run`. An output on disk is locked."""
    given, folder = [absolute(one) for one in sources], place(output)
    refuse_inside(given, folder)
    task = replace(task, model=_absolute_folder(task.model), card=card_hash(card_of(task.model)))
    with suppress(MissingExtraError):  # the driver may lack torch
        replace(task, device="cpu").open()  # to report invalid options before anything is written
    parts, options = Parts(folder, task.work()), options or Options()
    parts.check()
    found = survey(given)
    refuse_unreadable(found.files, options.column)
    parts.begin()  # now that the input is known to be right
    with nullcontext() if is_url(folder) else locked(Path(parts.notes, "lock")):
        parts.sweep()
        yield Run(task, parts, found.planned(parts.notes), options)


def _absolute_folder(model: str | None) -> str | None:
    """Make the path of a model folder absolute, for workers in another directory; names are unchanged."""
    return str(Path(model).absolute()) if model is not None and Path(model).is_dir() else model


def refuse_inside(sources: Sequence[str], folder: str) -> None:
    """Refuse an output inside an input, which would be read as input.

    Raises:
        RefusedOutputError: one contains the other.
    """
    for source in sources:
        one, other = source.rstrip("/") + "/", folder + "/"
        if one.startswith(other) or other.startswith(one):
            raise RefusedOutputError(
                f"the output {public(folder)} and the input {public(source)} contain each other: "
                "give another --output"
            )


def _known(parts: Parts) -> dict[str, UnitResult]:
    """All existing parts: from the manifest, or, if it lacks a line, from the part itself."""
    there, manifest = parts.there(), parts.manifest()
    known = {name: line for name, line in manifest.items() if name in there}
    return known | {one.file: one for one in parts.facts(sorted(there - set(known)))}


def _check_unchanged(parts: Parts, work: Units, known: dict[str, UnitResult]) -> None:
    """Refuse inputs that have changed since their rows were written.

    Raises:
        RefusedOutputError: an input has changed.
    """
    stamps = {one.unit: one.stamp for one in known.values()}
    for unit in work.units:
        if stamps.get(unit.name, unit.stamp) != unit.stamp:
            raise RefusedOutputError(
                f"{unit.name} has changed since its rows were written to {public(parts.folder)}: give "
                "another --output, or put new photos into separate files"
            )


def _model_actors(task: Task) -> tuple[object, ...]:
    """An actor with the model on each GPU of the cluster, unless the task is for CPUs."""
    count = cluster.gpus() if task.device != "cpu" else 0
    if task.device == "cuda" and not count:
        raise AnytagError("the Ray cluster has no GPU: add machines with one, or give --device auto or cpu")
    ray = import_module("ray")
    options = {"num_gpus": 1, "max_restarts": -1, "max_task_retries": -1}
    return tuple(ray.remote(ModelActor).options(**options).remote(task) for _ in range(count))
