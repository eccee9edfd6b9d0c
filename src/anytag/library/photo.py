"""Photos of a library, read from the database."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from anytag.library.database import Database
from anytag.library.words import folded
from anytag.results import Failure, TagScore

State = Literal["waiting", "done", "failed", "gone"]
Decision = Literal["accepted", "rejected", "added"]
STATES: tuple[State, ...] = get_args(State)


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo of a library.

    Attributes:
        id: of its row; unchanged when the file moves.
        path: absolute path as on disk, decoded by `os.fsdecode`.
        name: path relative to the synced folder, NFC.
        state: "waiting" to be tagged, "done", "failed", or "gone" from the disk.
        width, height: size of the upright photo in pixels; 0 if it was not read.
        taken: date and time as ISO 8601 without a time zone, or None.
        model: name of the model that tagged it, or "".
        scores: tags of the model that the user did not reject, by descending score.
        accepted, rejected, added: names of tags with these decisions.
        keywords: the user's keywords in the photo and its sidecars, as "animal|dog", broadest first.
        caption: its caption, or None.
        error: why it failed, or None.
        pair: id of the photo that this file belongs to, such as a RAW's JPEG or the first of two links.
        slot: index of its embedding in the vector file, or None.
    """

    id: int
    path: str
    name: str
    state: State
    width: int = 0
    height: int = 0
    taken: str | None = None
    model: str = ""
    scores: tuple[TagScore, ...] = ()
    accepted: tuple[str, ...] = ()
    rejected: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    caption: str | None = None
    error: Failure | None = None
    pair: int | None = None
    slot: int | None = None

    @property
    def tags(self) -> tuple[str, ...]:
        """Names of tags: the user's first, then the model's by descending score."""
        return tuple(dict.fromkeys((*self.added, *self.accepted, *(tag.name for tag in self.scores))))

    def to_dict(self) -> dict[str, Any]:
        """As a dict for JSON: the row of `anytag library list --format jsonl`."""
        row = {**asdict(self), "tags": list(self.tags), "scores": [tag.to_dict() for tag in self.scores]}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in row.items()}


def read_photos(database: Database, ids: Sequence[int]) -> Iterator[tuple[int, Photo]]:
    """Read at most a few hundred photos by id; yields ids and photos in any order."""
    run, marks = database.query, ", ".join("?" * len(ids))
    scores: dict[int, list[TagScore]] = {one: [] for one in ids}
    names: dict[tuple[int, str], list[str]] = {}
    rejected_tags: set[tuple[int, str | None]] = set()
    for photo, tag, name, kind in run(
        f"SELECT photo, tag, name, kind FROM decisions WHERE photo IN ({marks}) ORDER BY time", ids
    ):
        names.setdefault((photo, kind), []).append(name)
        if kind == "rejected":
            rejected_tags |= {(photo, tag), (photo, folded(name))}
    for photo, tag, name, score in run(
        f"SELECT photo, tag, name, score FROM tags WHERE photo IN ({marks}) ORDER BY score DESC", ids
    ):
        if not rejected_tags.intersection(((photo, tag), (photo, folded(name)))):
            scores[photo].append(TagScore(tag, name, score, "vocabulary"))
    for photo, path in run(f"SELECT DISTINCT photo, path FROM keywords WHERE photo IN ({marks})", ids):
        names.setdefault((photo, "keyword"), []).append(path)
    for row in run(
        "SELECT p.id, p.path, p.name, state, width, height, taken, coalesce(m.name, ''), caption, "
        "error_type, error_message, pair, slot "
        f"FROM photos p LEFT JOIN models m ON m.id = p.model WHERE p.id IN ({marks})",
        ids,
    ):
        one, path, name, state, width, height, taken, model, caption, error, message, pair, slot = row
        accepted, rejected, added, keywords = (
            tuple(names.get((one, kind), ())) for kind in ("accepted", "rejected", "added", "keyword")
        )
        failure = Failure(error, message) if error else None
        yield one, Photo(
            one, os.fsdecode(path), name, state, width, height, taken, model, tuple(scores[one]),
            accepted, rejected, added, keywords, caption, failure, pair, slot,
        )  # fmt: skip
