"""Counts of skipped items by reason, and what else reports need."""

from __future__ import annotations

from anytag.progress import Progress, Reporter, counted

__all__ = ["Progress", "Reporter", "Tally", "counted"]


class Tally:
    """Skipped items by reason, each counted once.

    Attributes:
        found: for each reason the items in order of occurrence.
    """

    def __init__(self) -> None:
        self.found: dict[str, dict[str, None]] = {}

    def add(self, reason: str, thing: str) -> bool:
        """Add an item; returns whether it is the first one with this reason."""
        things = self.found.setdefault(reason, {})
        things[thing] = None
        return len(things) == 1

    def join(self, other: Tally) -> None:
        """Add the items of another tally."""
        for reason, things in other.found.items():
            for thing in things:
                self.add(reason, thing)

    def lines(self) -> list[str]:
        """One line per reason, the most frequent first: number of items, and the first three."""
        ranked = sorted(self.found.items(), key=lambda item: -len(item[1]))
        return [f"{len(things):,} {reason}: {_shown(list(things))}" for reason, things in ranked]


def _shown(things: list[str]) -> str:
    """The first three items, shortened."""
    short = [thing if len(thing) <= 60 else f"{thing[:57]}..." for thing in things[:3]]
    return ", ".join(short) + (", ..." if len(things) > 3 else "")
