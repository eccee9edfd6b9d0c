"""Progress reports of long operations, which the command line shows as a bar; the library is silent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Progress:
    """The state of an operation.

    Attributes:
        what: the operation, such as "train" or "read photos".
        done, total: in `unit`; total is None if it is not known.
        unit: "steps" or "photos".
        photos_per_second: since the last report; 0 if not applicable.
        seconds_left: at that speed.
        terms: measurements by name, such as losses.
    """

    what: str
    done: int
    total: int | None
    unit: str = "steps"
    photos_per_second: float = 0.0
    seconds_left: float = 0.0
    terms: Mapping[str, float] = field(default_factory=dict)


class Reporter:
    """Receives progress and warnings; this base class ignores them."""

    def progress(self, progress: Progress) -> None:
        """Called repeatedly during an operation."""

    def say(self, message: str) -> None:
        """Called with messages, as whole sentences, for the user."""

    def skip(self, why: str) -> None:
        """Called for a photo that cannot be read, with its path and the reason; the others are processed."""
        self.say(f"Skipped: {why}")


SILENT = Reporter()


def counted(count: int, what: str) -> str:
    """ "1 photo", "2 photos"."""
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def watched(
    items: Iterable[T], report: Reporter, *, total: int | None, what: str, unit: str = "photos"
) -> Iterator[T]:
    """Yield the items; each is reported as done when the next one is requested."""
    report.progress(Progress(what, 0, total, unit))
    for done, item in enumerate(items, 1):
        yield item
        report.progress(Progress(what, done, total, unit))
