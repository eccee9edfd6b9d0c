"""`anytag tag|caption --ray`: the same over a Ray cluster, from and to folders and object stores."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click
from click.core import ParameterSource

from anytag.cli import options
from anytag.cli.bar import Bar, duration
from anytag.cli.writers import visible
from anytag.progress import Progress

if TYPE_CHECKING:
    from anytag.data.parts import UnitResult
    from anytag.scale.estimates import Estimate
    from anytag.scale.runs import Run, Summary

F = TypeVar("F", bound=Callable[..., Any])
What = Literal["tag", "caption"]
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
        help="Run on a Ray cluster, by default the running one or this machine. PATH is then Parquet (of "
        "photos or their addresses), .tar shards, .txt of addresses, or a folder or prefix of these "
             "or of photos, also s3://, gs:// and https://. --output is a folder or prefix for Parquet "
             "files, one for each part of the input. --workers are processes. The same command resumes a "
             "stopped run; with --dry-run it estimates time and cost from a thousand photos.",
    ),
    click.option("--embed", is_flag=True, help="With --ray: also write the embedding of each photo."),
    click.option("--retry-failed", is_flag=True, help="With --ray: process only the failed rows again."),
    click.option(
        "--price-per-hour", metavar="X", type=options.Number(0),
        help="With --dry-run: the price of all machines together per hour.",
    ),
    click.option(
        "--column", metavar="NAME",
        help="With --ray: the Parquet column of photos or addresses.  [default: by name and type]",
    ),
)  # fmt: skip
_NAMES = ("ray", "embed", "retry_failed", "price_per_hour", "column")


def option(what: What, task_of: TaskOf, *names: str) -> Callable[[F], F]:
    """--ray and what belongs to it, for a command that looks at photos; nearest to its function.

    Args:
        what: the command.
        task_of: what its options mean.
        names: the options that go with --ray.

    The --dry-run of `metadata.options` serves both.
    """

    def add(command: F) -> F:
        @wraps(command)
        def either(**params: Any) -> Any:
            own = {name: params.pop(name) for name in _NAMES}
            if own["ray"] is None:
                _refuse((name for name, value in own.items() if value), "needs --ray")
                return command(**params)
            _refuse(_typed_beside((*_SHARED, *_NAMES, "dry_run", *names)), "does not go with --ray")
            return _run(what, task_of, params, dry_run=params["keywords"].dry_run, **own)

        decorated: Any = either
        for one in reversed(_OPTIONS):
            decorated = one(decorated)
        return decorated  # type: ignore[no-any-return]

    return add


def _typed_beside(names: Iterable[str]) -> Iterator[str]:
    """Options of the command line that are not among these."""
    context = click.get_current_context()
    for param in context.command.params:
        name = param.name or ""
        if name not in names and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            yield name


def _refuse(names: Iterable[str], why: str) -> None:
    for name in names:
        raise click.UsageError(f"--{name.rstrip('_').replace('_', '-')} {why}.")


def _run(
    what: What,
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
    running: options.Running = params["running"]
    photos, output = params["source"].photos, params["writing"].output  # of which `outputs` leaves URLs alone
    if not photos:
        raise click.UsageError("Missing argument 'PATH...': Parquet, .tar, .txt, a folder or a prefix.")
    if output is None and not dry_run:
        raise click.UsageError("--ray needs --output: a folder, or a prefix such as s3://bucket/tags.")
    if output == "-":
        raise click.UsageError("--ray writes a folder of files: --output - is none.")
    if price_per_hour is not None and not dry_run:
        raise click.UsageError("--price-per-hour needs --dry-run.")
    from anytag.data import cluster

    cluster.check_installed(*photos, output)
    from anytag import scale

    task = scale.Task(
        what=what,
        embed=embed,
        model=running.model,
        device=running.device,
        max_pixels=running.max_pixels,
        **task_of(params),
    )
    how = scale.Options(column=column, actors=running.workers, retry_failed=retry_failed)
    if dry_run:
        found = scale.estimate(photos, task, how)
        _say(found, running.workers or cluster.cores_at(ray or None), price_per_hour)
        return
    cluster.check_reachable(ray)
    with scale.plan(photos, output, task, how) as run:
        if run.total:
            cluster.connect(ray or None)
        for _ in _watched(run):
            pass
        _end(run.summary)


def _watched(run: Run) -> Iterator[UnitResult]:
    start, rows = time.monotonic(), 0
    with Bar() as bar:
        for count, done in enumerate(run.do(), 1):
            rows += done.rows
            seconds = time.monotonic() - start
            left = (run.total - count) * seconds / count
            bar.progress(Progress("tagged", count, run.total, "units", rows / max(seconds, 1e-9), left))
            if done.error:
                bar.say(f"Failed: {visible(done.error)}")
            yield done


def _end(summary: Summary) -> None:
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


def _say(found: Estimate, actors: int, price: float | None) -> None:
    """What a run would take, on stdout."""
    hours = found.hours(actors)
    click.echo(f"{found.units} units, {found.rows} rows, {found.bytes / 1e9:.3g} GB")
    click.echo(
        f"{1 / found.seconds:.3g} photos/s on a core of this machine (tried on {found.sample}, "
        f"{found.failed} failed), {found.unit_seconds:.2g} s more a unit, {found.start:.2g} s to start"
    )
    cost = "" if price is None else f", {hours * price:.2f} at {price:g} an hour"
    plural = "" if actors == 1 else "s"
    click.echo(f"{duration(hours * 3600)} ({hours:.3g} hours) with {actors} worker{plural}{cost}")
