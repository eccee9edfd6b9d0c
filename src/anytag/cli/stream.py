"""Results on their way out: rows as they come, failures on stderr, a bar for eyes where it takes long."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

import click

from anytag.cli import writers
from anytag.results import Failure

LONG = 50  # photos from which a progress bar is worth its start


class Result(Protocol):
    """What every photo's result tells."""

    @property
    def error(self) -> Failure | None: ...


R = TypeVar("R", bound=Result)


def write_rows(results: Iterable[R], sink: writers.Stdout | writers.File, row: Callable[[R], str]) -> int:
    """Writes all results; returns how many photos failed, each of which is reported on stderr."""
    failed = 0
    for result in results:
        if lines := row(result):
            sink.write(lines)
        if result.error:
            failed += 1
            click.secho(f"Failed: {writers.visible(result.error.message)}", fg="red", err=True)
    return failed


def with_progress(results: Iterable[R], total: int | None) -> Iterator[R]:
    """The same results, and a bar on the terminal while they come, if that may take long."""
    if not sys.stderr.isatty() or (total is not None and total < LONG):
        yield from results
        return
    from rich.console import Console  # 70 ms that short work need not wait for
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("photos"), TimeRemainingColumn())
    # rows that go to the same terminal are printed above the bar, rows for a pipe must not be
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, redirect_stdout=sys.stdout.isatty()) as bar:
        task = bar.add_task("", total=total)
        for result in results:
            yield result
            bar.advance(task)


def end(failed: int, total: int | None) -> None:
    """Says how many photos failed, and ends with exit code 1 where any did."""
    if failed:
        click.echo(f"{failed} of {total or 'the'} photos failed.", err=True)
        sys.exit(1)
