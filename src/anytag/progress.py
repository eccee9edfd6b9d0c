"""What long work tells whoever watches: the command line draws a bar of it, the library itself is silent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Progress:
    """Where some work is.

    Attributes:
        what: the work, such as "train" or "read photos".
        done, total: in `unit`.
        unit: "steps" or "photos".
        photos_per_second: over the last report's interval; 0 where it means nothing.
        seconds_left: at that speed.
        terms: what was measured meanwhile, by name.
    """

    what: str
    done: int
    total: int
    unit: str = "steps"
    photos_per_second: float = 0.0
    seconds_left: float = 0.0
    terms: Mapping[str, float] = field(default_factory=dict)


class Reporter:
    """Hears of progress and of what went wrong without stopping the work; this one keeps it to itself."""

    def progress(self, progress: Progress) -> None:
        """Called now and then while work goes on."""

    def say(self, message: str) -> None:
        """Called with whole sentences that a person should read."""
