"""What training tells whoever watches: the command line draws a bar of it, the library itself is silent."""

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


def counted(count: int, what: str) -> str:
    """ "1 photo", "2 photos"."""
    return f"{count} {what}" if count == 1 else f"{count:,} {what}s"


class Tally:
    """What was passed over, each thing once, by reason.

    Attributes:
        found: for each reason the things, in the order they were met.
    """

    def __init__(self) -> None:
        self.found: dict[str, dict[str, None]] = {}

    def add(self, reason: str, thing: str) -> bool:
        """Whether it is the first for this reason."""
        things = self.found.setdefault(reason, {})
        things[thing] = None
        return len(things) == 1

    def join(self, other: Tally) -> None:
        """What another process met, besides."""
        for reason, things in other.found.items():
            for thing in things:
                self.add(reason, thing)

    def lines(self) -> list[str]:
        """A line for each reason, the most frequent first: how many, and the first three."""
        ranked = sorted(self.found.items(), key=lambda item: -len(item[1]))
        return [f"{len(things):,} {reason}: {_shown(list(things))}" for reason, things in ranked]


def _shown(things: list[str]) -> str:
    """The first three, each cut to a length that can be read."""
    short = [thing if len(thing) <= 60 else f"{thing[:57]}..." for thing in things[:3]]
    return ", ".join(short) + (", ..." if len(things) > 3 else "")


class Reporter:
    """Hears of progress and of what went wrong without stopping the work; this one keeps it to itself."""

    def progress(self, progress: Progress) -> None:
        """Called now and then while work goes on."""

    def say(self, message: str) -> None:
        """Called with whole sentences that a person should read."""
