"""Counts of the content of a library."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Folder:
    """A synced folder, and the number of its photos by state."""

    path: str
    states: dict[str, int]


@dataclass(frozen=True, slots=True)
class Status:
    """Counts of the content of a library.

    Attributes:
        database: its file.
        folders: synced folders.
        models: number of photos by model: name, and prefixes of the hashes of weights and vocabulary.
        failures: number of photos by type of error.
        decisions: number of accepted, rejected and added tags.
        paired: number of files that belong to other photos; see `Photo.pair`.
    """

    database: Path
    folders: list[Folder]
    models: dict[str, int]
    failures: dict[str, int]
    decisions: int
    paired: int

    def to_dict(self) -> dict[str, Any]:
        """As a dict for JSON."""
        return {**asdict(self), "database": os.fspath(self.database)}
