"""What training passed over, and how it is told."""

from __future__ import annotations

from anytag.progress import Progress as Progress
from anytag.progress import Reporter as Reporter


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
