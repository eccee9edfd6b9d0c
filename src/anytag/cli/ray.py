"""`anytag tag|caption --ray`: run on a Ray cluster, from and to folders and object stores."""

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
from anytag.progress import Progress, counted

if TYPE_CHECKING:
    from anytag.data.parts import UnitResult
    from anytag.scale.estimates import Estimate
    from anytag.scale.runs import Run, Summary

F = TypeVar("F", bound=Callable[..., Any])
What = Literal["tag", "caption"]
TaskOf = Callable[[Mapping[str, Any]], dict[str, Any]]
"""Returns the fields of `anytag.scale.Task` that are specific to a command from its parameters."""

_MAX_SHOWN = 10  # files that could not be read, listed individually
_SHARED = ("photos", "output", "model", "device", "workers", "max_pixels")


class _Address(click.types.StringParamType):
    """The address of a Ray cluster; "" is the running one, or this machine."""

    name = "address"
    _KNOWN = re.compile(r"|auto|local|ray://\S+|(?:[\w.-]+|\[[0-9a-fA-F:]+\]):\d+")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the address, since click takes the word after --ray for it."""
        if not self._KNOWN.fullmatch(value):
            self.fail(
                f"{value} is not the address of a Ray cluster: expected HOST:PORT, auto or local. Write "
                "--ray after the input, or --ray=auto.",
                param,
                ctx,
            )
        return str(value)


_OPTIONS = (
    click.option(
        "--ray", metavar="[ADDRESS]", type=_Address(), is_flag=False, flag_value="", is_eager=True,
        help="Run on a Ray cluster, by default the running one or this machine. PATH is then Parquet (of "
        "photos or URLs), .tar shards, a .txt of URLs, a folder or prefix of these or of photos, also s3://, "
        "gs:// and https://. --output is a folder or prefix for Parquet, one file per part of the input. "
        "--workers is the number of processes. The same command resumes an interrupted run; with --dry-run "
        "it estimates time and cost from a thousand photos.",
    ),
    click.option("--embed", is_flag=True, help="With --ray: also write an embedding of each photo."),
    click.option("--retry-failed", is_flag=True, help="With --ray: only process failed rows again."),
    click.option(
        "--price-per-hour", metavar="X", type=options.FiniteFloat(0),
        help="With --dry-run: price of all machines together per hour.",
    ),
    click.option(
        "--column", metavar="NAME",
        help="With --ray: the Parquet column of photos or URLs.  [default: by name and type]",
    ),
)  # fmt: skip
_NAMES = ("ray", "embed", "retry_failed", "price_per_hour", "column")


def option(what: What, task_of: TaskOf, *names: str) -> Callable[[F], F]:
    """Add --ray and its options to a command; must be the innermost decorator.

    Shares --dry-run with `metadata.options`.

    Args:
        what: the command.
        task_of: returns the command's fields of a task.
        names: parameters of the command that are allowed with --ray.
    """

    def add(command: F) -> F:
        @wraps(command)
        def wrapper(**params: Any) -> Any:
            own = {name: params.pop(name) for name in _NAMES}
            if own["ray"] is None:
                _refuse((name for name, value in own.items() if value), "needs --ray")
                return command(**params)
            _refuse(_other_options((*_SHARED, *_NAMES, "dry_run", *names)), "cannot be used with --ray")
            return _run(what, task_of, params, dry_run=params["keywords"].dry_run, **own)

        decorated: Any = wrapper
        for one in reversed(_OPTIONS):
            decorated = one(decorated)
        return decorated  # type: ignore[no-any-return]

    return add


def _other_options(names: Iterable[str]) -> Iterator[str]:
    """Options given on the command line that are not among these."""
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
    model_options: options.ModelOptions = params["model_options"]
    photos, output = (
        params["source"].photos,
        params["output_options"].output,
    )  # of which `outputs` leaves URLs alone
    if not photos:
        raise click.UsageError("Missing argument 'PATH...': Parquet, .tar, .txt, a folder or a prefix.")
    if output is None and not dry_run:
        raise click.UsageError("--ray needs --output: a folder, or a prefix such as s3://bucket/tags.")
    if output == "-":
        raise click.UsageError("--ray writes a folder of files: --output cannot be -.")
    if price_per_hour is not None and not dry_run:
        raise click.UsageError("--price-per-hour needs --dry-run.")
    from anytag.data import cluster

    cluster.check_installed(*photos, output)
    from anytag import scale

    task = scale.Task(
        what=what,
        embed=embed,
        model=model_options.model,
        device=model_options.device,
        max_pixels=model_options.max_pixels,
        **task_of(params),
    )
    scale_options = scale.Options(column=column, actors=model_options.workers, retry_failed=retry_failed)
    if dry_run:
        found = scale.estimate(photos, task, scale_options)
        _print_estimate(found, model_options.workers or cluster.cores_at(ray or None), price_per_hour)
        return
    cluster.check_reachable(ray)
    with scale.plan(photos, output, task, scale_options) as run:
        if run.total:
            cluster.connect(ray or None)
        for _ in _with_progress(run):
            pass
        _report(run.summary)


def _with_progress(run: Run) -> Iterator[UnitResult]:
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


def _report(summary: Summary) -> None:
    rows = f"{counted(summary.rows, 'row')}, {summary.failed} failed"
    click.echo(f"{counted(summary.done, 'unit')} processed now, {summary.units} in total: {rows}.", err=True)
    if summary.failed:
        click.echo("Their column `error` has the reason; --retry-failed processes them again.", err=True)
    if summary.unread:
        click.echo(f"{len(summary.unread)} could not be read; the same command tries them again:", err=True)
        for text in summary.unread[:_MAX_SHOWN]:
            click.echo(f"  {visible(text)}", err=True)
    if summary.failed or summary.unread:
        sys.exit(1)


def _print_estimate(found: Estimate, actors: int, price: float | None) -> None:
    """Print what a run would take."""
    hours = found.hours(actors)
    click.echo(f"{counted(found.units, 'unit')}, {counted(found.rows, 'row')}, {found.bytes / 1e9:.3g} GB")
    click.echo(
        f"{1 / found.seconds:.3g} photos/s per core of this machine (measured on {found.sample}, "
        f"{found.failed} failed), {found.unit_seconds:.2g} s overhead per unit, {found.start:.2g} s to start"
    )
    cost = "" if price is None else f", {hours * price:.2f} at {price:g} per hour"
    click.echo(f"{duration(hours * 3600)} ({hours:.3g} hours) with {counted(actors, 'worker')}{cost}")
