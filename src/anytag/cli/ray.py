"""`anytag tag|caption --ray`: the same over a Ray cluster, from and to folders and object stores."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from anytag._optional import outer
from anytag.cli import options
from anytag.cli.bar import Bar, duration
from anytag.cli.writers import visible

F = TypeVar("F", bound=Callable[..., Any])
TaskOf = Callable[[Mapping[str, Any]], dict[str, Any]]
"""The fields of `anytag.scale.Task` that options of a command mean, but for those that all commands have."""

_SHOWN = 10  # files that could not be read
_SHARED = ("photos", "output", "model", "device", "workers", "max_pixels")


class _Address(click.types.StringParamType):
    """Of a Ray cluster. "" is the one that runs, or this machine."""

    name = "address"
    _KNOWN = re.compile(r"|auto|local|ray://\S+|(?:[\w.-]+|\[[0-9a-fA-F:]+\]):\d+")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The address, or wrong use: click takes the word after --ray for it."""
        if not self._KNOWN.fullmatch(value):
            self.fail(
                f"{value} is no address of a Ray cluster: expected HOST:PORT, auto or local. Write --ray "
                "behind the input, or --ray=auto.",
                param,
                ctx,
            )
        return str(value)


_OPTIONS = (
    click.option(
        "--ray", metavar="[ADDRESS]", type=_Address(), is_flag=False, flag_value="", is_eager=True,
        help="Work on a Ray cluster, by default the running one or this machine. PATH is then Parquet (of "
        "photos or addresses), .tar shards, .txt of addresses, a folder or prefix of these or of photos, "
        "also s3://, gs:// and https://. --output is a folder or prefix for Parquet, a file for each part of "
        "the input. --workers are processes. The same command goes on where it was stopped.",
    ),
    click.option("--embed", is_flag=True, help="With --ray: also write the model's vector of each photo."),
    click.option("--retry-failed", is_flag=True, help="With --ray: do the failed rows again, and no others."),
    click.option(
        "--dry-run", is_flag=True,
        help="With --ray: say from a thousand photos what it would take; write nothing.",
    ),
    click.option(
        "--price-per-hour", metavar="X", type=options.Number(0),
        help="With --dry-run: what all machines together cost an hour.",
    ),
    click.option(
        "--column", metavar="NAME",
        help="With --ray: the column of Parquet that holds photos or addresses.  [default: by name and type]",
    ),
)  # fmt: skip
_NAMES = ("ray", "embed", "retry_failed", "dry_run", "price_per_hour", "column")


def option(what: str, task_of: TaskOf, *names: str) -> Callable[[F], F]:
    """--ray and what belongs to it, for a command that looks at photos; nearest to its function.

    Args:
        what: the command.
        task_of: what its options mean.
        names: the options that go with --ray.
    """

    def add(command: F) -> F:
        @wraps(command)
        def either(**params: Any) -> Any:
            own = {name: params.pop(name) for name in _NAMES}
            if own["ray"] is None:
                _refuse((name for name in _NAMES if own[name]), "needs --ray")
                return command(**params)
            given = (name for name in params if name not in (*_SHARED, *names))
            _refuse((name for name in given if _is_typed(name)), "does not go with --ray")
            return _run(what, task_of, params, **own)

        decorated: Any = either
        for one in reversed(_OPTIONS):
            decorated = one(decorated)
        return decorated  # type: ignore[no-any-return]

    return add


def _is_typed(name: str) -> bool:
    return click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE


def _refuse(names: Iterable[str], why: str) -> None:
    for name in names:
        raise click.UsageError(f"--{name.rstrip('_').replace('_', '-')} {why}.")


def _run(
    what: str,
    task_of: TaskOf,
    params: Mapping[str, Any],
    *,
    ray: str,
    embed: bool,
    retry_failed: bool,
    dry_run: bool,
    price_per_hour: float | None,
    column: str | None,
) -> None:
    photos, output = params["photos"], params["output"]
    if not photos:
        raise click.UsageError("Missing argument 'PATH...': Parquet, .tar, .txt, a folder or a prefix.")
    if output is None and not dry_run:
        raise click.UsageError("--ray needs --output: a folder, or a prefix such as s3://bucket/tags.")
    if price_per_hour is not None and not dry_run:
        raise click.UsageError("--price-per-hour needs --dry-run.")
    scale = outer("scale", "--ray")
    shared = {name: params[name] for name in ("model", "device", "max_pixels")}
    task = scale.Task(what=what, embed=embed, **shared, **task_of(params))
    how = scale.Options(column=column, actors=params["workers"], retry_failed=retry_failed)
    if dry_run:
        _say(scale.estimate(photos, task, how), params["workers"], price_per_hour)
        return
    with scale.plan(photos, output, task, how) as run:
        if run.total:
            outer("data.cluster", "--ray").connect(ray or None)
        for _ in _watched(run):
            pass
        _end(run.summary)


@dataclass
class _Progress:
    """What `Bar` shows."""

    total: int
    done: int = 0
    photos_per_second: float = 0
    what: str = "tagged"
    unit: str = "units"
    terms: dict[str, float] = field(default_factory=dict)

    @property
    def seconds_left(self) -> float:
        return (self.total - self.done) * self._each

    _each: float = 0

    def add(self, rows: int, seconds: float) -> None:
        """A unit more, after so many seconds since the start, and so many rows in all."""
        self.done += 1
        self._each, self.photos_per_second = seconds / self.done, rows / max(seconds, 1e-9)


def _watched(run: Any) -> Iterator[Any]:
    progress, start, rows = _Progress(run.total), time.monotonic(), 0
    with Bar() as bar:
        for done in run.do():
            rows += done.rows
            progress.add(rows, time.monotonic() - start)
            bar.progress(progress)
            if done.error:
                bar.say(f"Failed: {visible(done.error)}")
            yield done


def _end(summary: Any) -> None:
    rows = f"{summary.rows} rows, {summary.failed} failed"
    click.echo(f"{summary.done} units done now, {summary.units} in all: {rows}.", err=True)
    if summary.failed:
        click.echo("Their column `error` says why; --retry-failed does them again.", err=True)
    if summary.unread:
        click.echo(f"{len(summary.unread)} could not be read; the same command tries them again:", err=True)
        for text in summary.unread[:_SHOWN]:
            click.echo(f"  {visible(text)}", err=True)
    if summary.failed or summary.unread:
        sys.exit(1)


def _say(found: Any, workers: int | None, price: float | None) -> None:
    """What a run would take, on stdout."""
    actors = workers or 1
    hours = found.hours(actors)
    click.echo(f"{found.units} units, {found.rows} rows, {found.bytes / 1e9:.3g} GB")
    click.echo(
        f"{1 / found.seconds:.3g} photos/s on a core of this machine, reading included "
        f"(tried on {found.sample}, {found.failed} failed)"
    )
    cost = "" if price is None else f", {hours * price:.2f} at {price:g} an hour"
    plural = "" if actors == 1 else "s"
    click.echo(f"{duration(hours * 3600)} ({hours:.3g} hours) with {actors} worker{plural}{cost}")
