"""What is in a library, counted."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder that the user named, and how many of its photos are in each state."""

    path: str
    states: dict[str, int]


@dataclass(frozen=True, slots=True)
class Status:
    """What is in a library.

    Attributes:
        database: its file.
        folders: that the user named.
        models: photos by what tagged them: name, beginnings of the hashes of weights and vocabulary.
        failures: photos by the kind of failure.
        decisions: tags that the user accepted, rejected or added.
        paired: files that other photos stand for.
    """

    database: Path
    folders: list[Folder]
    models: dict[str, int]
    failures: dict[str, int]
    decisions: int
    paired: int

    def to_dict(self) -> dict[str, Any]:
        """Plain."""
        return {**asdict(self), "database": os.fspath(self.database)}
