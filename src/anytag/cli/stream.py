"""Results on their way out: rows as they come, failures on stderr, a bar for eyes where it takes long."""

from __future__ import annotations

import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

import click

from anytag._io import not_inputs
from anytag.cli import writers
from anytag.cli.bar import Bar, is_terminal
from anytag.cli.sinks import File, Stdout
from anytag.progress import watched
from anytag.results import Failure

LONG = 50  # photos from which a progress bar is worth its start, and a summary is wanted
SHOWN = 5  # failures for one reason on a terminal; the others are counted


class Result(Protocol):
    """What every photo's result tells."""

    @property
    def path(self) -> str | None: ...
    @property
    def error(self) -> Failure | None: ...


R = TypeVar("R", bound=Result)


class Todo:
    """The photos that are left to do.

    Args:
        paths: all, a list or a stream.
        sink: knows which rows are there already.
        output: where they are written: no photo of the stream may be this file.
    """

    def __init__(self, paths: Iterable[str], sink: Stdout | File, output: Path | None) -> None:
        self.done = 0
        self._sink = sink
        self.paths: Iterable[str] = self._left(paths)
        if isinstance(paths, list):
            self.paths = list(self.paths)
        elif output is not None:
            self.paths = self._left(not_inputs(paths, [output]))

    @property
    def total(self) -> int | None:
        """How many, where that is known."""
        return len(self.paths) if isinstance(self.paths, list) else None

    def _left(self, paths: Iterable[str]) -> Iterator[str]:
        for path in paths:
            if self._sink.is_done(path):
                self.done += 1
            else:
                yield path


class Summary:
    """Counts photos as their results pass, reports those that failed, and says at the end how it went."""

    def __init__(self) -> None:
        self.photos = self.failed = 0
        self._reasons: Counter[str] = Counter()
        self._messages: dict[str, str] = {}
        self._start = time.monotonic()

    def add(self, path: str | None, error: Failure | None) -> None:
        """A photo's result; an error is shown at once, on a terminal the first ones of each reason."""
        self.photos += 1
        if error is None:
            return
        message = error.message.removeprefix(f"{path}: ")
        reason = re.sub(r"[\d.,]+", "0", message.replace(path or "\0", ""))  # sizes and places differ
        self.failed += 1
        self._reasons[reason] += 1
        self._messages.setdefault(reason, message)
        if self._reasons[reason] <= SHOWN or not is_terminal(sys.stderr):
            writers.complain(f"Failed: {error.message}")

    def end(self, *, done: int = 0, not_drawn: int = 0) -> None:
        """Says it on stderr, where it was long, somebody watches or a photo failed; then the exit code is 1.

        Args:
            done: photos whose rows were there from an earlier run.
            not_drawn: photos whose tags could not be drawn.
        """
        if self.photos >= LONG or done or (self.photos > 1 and is_terminal(sys.stderr)):
            speed = self.photos / max(time.monotonic() - self._start, 1e-9)
            before = f", {done} done before" if done else ""
            shown = f"{speed:,.0f}" if speed >= 100 else f"{speed:.3g}"
            click.echo(
                f"{self.photos + done} photos{before}, {self.failed} failed, {shown} photos/s", err=True
            )
        if self.failed:
            click.echo(f"{self.failed} of {self.photos + done} photos failed.", err=True)
            for reason, count in self._reasons.most_common():
                click.echo(f"  {count}: {writers.visible(self._messages[reason])}", err=True)
        if not_drawn:
            click.echo(f"{not_drawn} drawings failed.", err=True)
        if self.failed or not_drawn:
            sys.exit(1)


def write_rows(
    results: Iterable[R], sink: Stdout | File, row: Callable[[R], str], summary: Summary | None = None
) -> Summary:
    """Writes all results, and counts them."""
    summary = summary or Summary()
    for result in results:
        if lines := row(result):
            sink.write(lines, result.path, is_good=result.error is None)
        summary.add(result.path, result.error)
    return summary


def with_progress(results: Iterable[R], total: int | None, *, is_shared: bool = False) -> Iterator[R]:
    """The same results, and a bar on the terminal while they come, if that may take long.

    Args:
        results: of photos.
        total: how many, where that is known.
        is_shared: rows go where they may reach the terminal by another process, in the middle of a bar.
    """
    if not is_terminal(sys.stderr) or is_shared or (total is not None and total < LONG):
        yield from results
        return
    with Bar(passes=True) as bar:
        yield from watched(results, bar, total=total, what="")
