"""Write results as they arrive: rows, errors on stderr, and a progress bar for long runs."""

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
from anytag.progress import counted, watched
from anytag.results import Failure

PROGRESS_MIN_PHOTOS = 50  # minimum for a progress bar and a summary
MAX_SHOWN = 5  # failures with the same reason shown on a terminal; further ones are counted


class Result(Protocol):
    """What the results of all commands have."""

    @property
    def path(self) -> str | None: ...
    @property
    def error(self) -> Failure | None: ...


R = TypeVar("R", bound=Result)


class Pending:
    """The photos without rows of an earlier run.

    Args:
        paths: paths of all photos, a list or a stream.
        sink: knows the rows of the earlier run.
        output: the output file, which no photo of a stream may be.
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
        """The number of photos; None for a stream."""
        return len(self.paths) if isinstance(self.paths, list) else None

    def _left(self, paths: Iterable[str]) -> Iterator[str]:
        for path in paths:
            if self._sink.is_done(path):
                self.done += 1
            else:
                yield path


class Summary:
    """Counts photos, reports failures, and prints a summary at the end."""

    def __init__(self) -> None:
        self.photos = self.failed = 0
        self._reasons: Counter[str] = Counter()
        self._messages: dict[str, tuple[str, str]] = {}  # of one photo, and of several
        self._start = time.monotonic()

    def add(self, path: str | None, error: Failure | None) -> None:
        """Count a photo; errors are printed at once, on a terminal only the first ones of each reason."""
        self.photos += 1
        if error is None:
            return
        message = error.message.removeprefix(f"{path}: ")
        anonymous = message.replace(path or "\0", "…")
        reason = re.sub(r"[\d.,]+", "0", anonymous)  # sizes and places differ
        self.failed += 1
        self._reasons[reason] += 1
        self._messages.setdefault(reason, (message, anonymous))
        if self._reasons[reason] <= MAX_SHOWN or not is_terminal(sys.stderr):
            writers.echo_error(f"Failed: {error.message}")

    def end(self, *, done: int = 0, not_drawn: int = 0) -> None:
        """Print the summary of long, interactive or failed runs to stderr; exit with code 1 after failures.

        Args:
            done: number of photos with rows of an earlier run.
            not_drawn: number of photos whose tags could not be drawn.
        """
        photos = counted(self.photos + done, "photo")
        if self.photos >= PROGRESS_MIN_PHOTOS or done or (self.photos > 1 and is_terminal(sys.stderr)):
            speed = self.photos / max(time.monotonic() - self._start, 1e-9)
            before = f", {done} done before" if done else ""
            shown = f"{speed:,.0f}" if speed >= 100 else f"{speed:.3g}"
            click.echo(f"{photos}{before}, {self.failed} failed, {shown} photos/s", err=True)
        if self.failed:
            click.echo(f"{self.failed} of {photos} failed.", err=True)
            for reason, count in self._reasons.most_common():
                click.echo(f"  {count}: {writers.visible(self._messages[reason][count > 1])}", err=True)
        if not_drawn:
            click.echo(f"{counted(not_drawn, 'drawing')} failed.", err=True)
        if self.failed or not_drawn:
            sys.exit(1)


def write_rows(
    results: Iterable[R], sink: Stdout | File, row: Callable[[R], str], summary: Summary | None = None
) -> Summary:
    """Write all results, and count them."""
    summary = summary or Summary()
    for result in results:
        if lines := row(result):
            sink.write(lines, result.path, is_good=result.error is None)
        summary.add(result.path, result.error)
    return summary


def with_progress(results: Iterable[R], total: int | None, *, is_shared: bool = False) -> Iterator[R]:
    """Yield the results, with a progress bar on a terminal for long runs.

    Args:
        results: of photos.
        total: their number; None if unknown.
        is_shared: whether rows may reach the terminal through another process, which would break the bar.
    """
    if not is_terminal(sys.stderr) or is_shared or (total is not None and total < PROGRESS_MIN_PHOTOS):
        yield from results
        return
    with Bar(transient=True) as bar:
        yield from watched(results, bar, total=total, what="")
