"""Progress on stderr: a bar on a terminal, occasional lines in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

import click

from anytag.progress import Progress, Reporter, counted

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

EVERY = 30.0  # seconds between two lines in a log


class Bar(Reporter):
    """A `Reporter` that shows progress; a context manager.

    Args:
        transient: nothing is left of it at the end, nor written to a log.

    Attributes:
        skipped: number of photos that could not be read.
    """

    def __init__(self, *, transient: bool = False) -> None:
        self._transient = transient
        self._bar: Bars | None = None
        self._tasks: dict[str, TaskID] = {}
        self._shown = time.monotonic()
        self.skipped = 0

    def __enter__(self) -> Bar:
        if is_terminal(sys.stderr):
            from rich.console import Console  # takes 70 ms to import
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bars

            # rows on the same terminal are printed above the bar, rows for a file must not be
            self._bar = Bars(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                TextColumn("{task.fields[measures]}"), TimeRemainingColumn(),
                console=Console(stderr=True), transient=self._transient,
                redirect_stdout=is_terminal(sys.stdout),
            )  # fmt: skip
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def progress(self, progress: Progress) -> None:
        """Update the bar of `progress.what`."""
        measures = _measures(progress)
        if self._bar is not None:
            if progress.what not in self._tasks:
                self._tasks[progress.what] = self._bar.add_task(progress.what, measures="")
            task, measures = self._tasks[progress.what], f"{progress.unit} {measures}"
            self._bar.update(task, completed=progress.done, total=progress.total, measures=measures)
        elif self._transient:
            return
        elif time.monotonic() - self._shown > EVERY or progress.done == progress.total:
            self._shown = time.monotonic()
            line = f"{progress.what}: {progress.done} of {progress.total} {progress.unit}"
            left = [f"{duration(progress.seconds_left)} left"] if progress.seconds_left else []
            click.echo(f"{line} {', '.join([*left, *filter(None, [measures])])}".rstrip(), err=True)

    def say(self, message: str) -> None:
        """Print a line, above the bar."""
        if self._bar is not None:
            self._bar.console.print(message, markup=False, highlight=False)
        else:
            click.echo(message, err=True)

    def skip(self, why: str) -> None:
        """Print and count a photo that cannot be read."""
        self.skipped += 1
        super().skip(why)

    def finish(self) -> None:
        """Exit with code 1 if photos were skipped."""
        if self.skipped:
            click.echo(f"{counted(self.skipped, 'photo')} could not be read.", err=True)
            sys.exit(1)


def _measures(progress: Progress) -> str:
    """Format speed and metrics: "61.2 photos/s, loss 3.21"."""
    parts = []
    if progress.photos_per_second:
        parts.append(f"{progress.photos_per_second:.1f} photos/s")
    parts += [f"{name} {value:.4g}" for name, value in progress.terms.items()]
    return ", ".join(parts)


def is_terminal(file: TextIO | None) -> bool:
    """Whether a stream, None if closed, is a terminal."""
    return file is not None and file.isatty()


def duration(seconds: float) -> str:
    """Format seconds as "40 s", "12 min" or "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
