"""How long work goes on, on stderr: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

import click

from anytag.cli.stream import is_terminal

EVERY = 30.0  # seconds between two lines in a log


class Bar:
    """Shows what `anytag.progress.Reporter` tells: use it in a with statement."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._tasks: dict[str, Any] = {}
        self._shown = time.monotonic()

    def __enter__(self) -> Bar:
        if is_terminal(sys.stderr):
            from rich.console import Console  # 70 ms that a log need not wait for
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            columns = (
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                TextColumn("{task.fields[told]}"),
            )  # fmt: skip
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def progress(self, progress: Any) -> None:
        """Moves the bar of `progress.what`; see `anytag.progress.Progress`."""
        if self._bar is not None:
            if progress.what not in self._tasks:
                self._tasks[progress.what] = self._bar.add_task(progress.what, told="")
            task = self._tasks[progress.what]
            self._bar.update(task, completed=progress.done, total=progress.total, told=_told(progress))
        elif time.monotonic() - self._shown > EVERY or progress.done == progress.total:
            self._shown = time.monotonic()
            line = f"{progress.what}: {progress.done} of {progress.total} {progress.unit}"
            click.echo(f"{line} {_told(progress)}".rstrip(), err=True)

    def say(self, message: str) -> None:
        """A sentence of its own line, above the bar."""
        if self._bar is not None:
            self._bar.console.print(message, markup=False, highlight=False)
        else:
            click.echo(message, err=True)


def _told(progress: Any) -> str:
    """Speed, time left and measures: "61.2 photos/s, 4 min left, loss 3.21"."""
    parts = []
    if progress.photos_per_second:
        parts.append(f"{progress.photos_per_second:.1f} photos/s")
    if progress.seconds_left:
        parts.append(f"{duration(progress.seconds_left)} left")
    parts += [f"{name} {value:.4g}" for name, value in progress.terms.items()]
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """ "40 s", "12 min" or "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
