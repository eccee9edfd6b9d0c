"""`anytag tag --ray` in Python: units of an input into parts of an output, on a Ray cluster."""

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
from anytag.scale.worker import Holder, Maker


@dataclass(frozen=True)
class Options:
    """How a run goes; nothing of it changes a row.

    Attributes:
        column: of Parquet, which holds photos or their addresses; by default the one that looks like it.
        actors: at most, a core each; by default as many as the cluster has cores.
        retry_failed: do again the rows that failed, and nothing else.
    """

    column: str | None = None
    actors: int | None = None
    retry_failed: bool = False


@dataclass
class Summary:
    """What a run did, and what is in the output after it.

    Attributes:
        units, rows, failed: of the output, failed counting rows that have an error.
        done: units of this run.
        unread: files and units that could not be read at all, each with the reason.
    """

    units: int = 0
    rows: int = 0
    failed: int = 0
    done: int = 0
    unread: tuple[str, ...] = ()


class Run:
    """A run, plan: what is to be done is known, and nothing was tagged yet.

    Attributes:
        summary: grows as the work goes on.
        total: units that this run does.
    """

    def __init__(self, task: Task, parts: Parts, work: Units, options: Options) -> None:
        self._task, self._parts, self._options = task, parts, options
        self._known = _known(parts)
        _refuse_changed(parts, work, self._known)
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
        """Does the units on the cluster that this process is connected to; each when it is done."""
        task = self._task
        holders = _holders(task) if self._units else ()
        make = Maker(task, self._parts, self._options.column, holders)
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
    """Tags, captions or embeds all photos of an input, on the cluster that this process is connected to.

    A run that was killed, however, goes on where it was; an input that has grown is done for what is new.

    Args:
        sources: Parquet with photos or their addresses, WebDataset shards, listings (.txt), or folders and
            prefixes of these and of photos, on disk or behind any URL that fsspec knows.
        output: a folder or URL for parts: see `anytag.data.parts`.
        task: what to ask.

    Raises:
        RefusedOutputError: the output holds something else, or rows of another model or other options.
        AnytagError: there is nothing to read.
    """
    with plan(sources, output, task, options) as found:
        for _ in found.do():
            pass
        return found.summary


@contextmanager
def plan(sources: Iterable[str], output: str, task: Task, options: Options | None = None) -> Iterator[Run]:
    """A run that is yet to be done; arguments and errors as of `run`. On disk one at a time has an output."""
    given, folder = [absolute(one) for one in sources], place(output)
    refuse_inside(given, folder)
    task = replace(task, model=_anywhere(task.model), card=card_hash(card_of(task.model)))
    with suppress(MissingExtraError):  # of a driver that has no torch
        replace(task, device="cpu").open()  # wrong options are said before anything is written
    parts, options = Parts(folder, task.work()), options or Options()
    parts.check()
    found = survey(given)
    refuse_unreadable(found.files, options.column)
    parts.begin()  # now that the input is known to be right
    with nullcontext() if is_url(folder) else locked(Path(parts.notes, "lock")):
        parts.sweep()
        yield Run(task, parts, found.planned(parts.notes), options)


def _anywhere(model: str | None) -> str | None:
    """A model's folder by its full path, for workers that begin in another folder; a name stays one."""
    return str(Path(model).absolute()) if model is not None and Path(model).is_dir() else model


def refuse_inside(sources: Sequence[str], folder: str) -> None:
    """An output within an input would be read as one.

    Raises:
        RefusedOutputError: it is, or the other way round.
    """
    for source in sources:
        one, other = source.rstrip("/") + "/", folder + "/"
        if one.startswith(other) or other.startswith(one):
            raise RefusedOutputError(
                f"the output {public(folder)} and the input {public(source)} lie within each other: "
                "give another --output"
            )


def _known(parts: Parts) -> dict[str, UnitResult]:
    """All parts that are there: from the manifest, or where that lacks a line, from the part itself."""
    there, manifest = parts.there(), parts.manifest()
    known = {name: line for name, line in manifest.items() if name in there}
    return known | {one.file: one for one in parts.facts(sorted(there - set(known)))}


def _refuse_changed(parts: Parts, work: Units, known: dict[str, UnitResult]) -> None:
    """Rows of a file as it was must not stand beside rows of it as it is.

    Raises:
        RefusedOutputError: an input has changed since it was done.
    """
    stamps = {one.unit: one.stamp for one in known.values()}
    for unit in work.units:
        if stamps.get(unit.name, unit.stamp) != unit.stamp:
            raise RefusedOutputError(
                f"{unit.name} has changed since {public(parts.folder)} got its rows: give another --output, "
                "or put what is new into files of its own"
            )


def _holders(task: Task) -> tuple[object, ...]:
    """An actor with the model on each GPU of the cluster, where a GPU is wanted."""
    count = cluster.gpus() if task.device != "cpu" else 0
    if task.device == "cuda" and not count:
        raise AnytagError("the Ray cluster has no GPU: add machines with one, or give --device auto or cpu")
    ray = import_module("ray")
    options = {"num_gpus": 1, "max_restarts": -1, "max_task_retries": -1}
    return tuple(ray.remote(Holder).options(**options).remote(task) for _ in range(count))
