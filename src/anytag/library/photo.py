"""A photo of a library, and how it is read from the rows."""

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
        id: of its row; it stays when the file moves.
        path: absolute, as the disk has it; names that are no Unicode as `os.fsdecode` gives them.
        name: the path below the folder that the user named, NFC.
        state: "waiting" to be looked at, "done", "failed", or "gone" from the disk.
        width, height: pixels of the upright original, 0 when it was not read.
        taken: when, as ISO 8601 without a zone, or None.
        model: that gave the tags, "" where none did.
        scores: what the model says, without the tags that the user rejected, by falling score.
        accepted, rejected, added: names of tags, as the user said.
        keywords: the user's own words in the photo and its sidecars, "animal|dog": what is broader first.
        caption: a sentence, or None.
        error: why it failed.
        pair: id of the photo that stands for this one, too: a RAW's JPEG, the first of two links.
        slot: its record in the vector file, or None.
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
        """Names: what the user accepted and added first, then the model's by falling score."""
        return tuple(dict.fromkeys((*self.added, *self.accepted, *(tag.name for tag in self.scores))))

    def to_dict(self) -> dict[str, Any]:
        """Plain: the row that `anytag library list --format jsonl` writes."""
        row = {**asdict(self), "tags": list(self.tags), "scores": [tag.to_dict() for tag in self.scores]}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in row.items()}


def read_photos(database: Database, ids: Sequence[int]) -> Iterator[tuple[int, Photo]]:
    """Photos by their ids, at most some hundreds, in any order."""
    run, marks = database.query, ", ".join("?" * len(ids))
    scores: dict[int, list[TagScore]] = {one: [] for one in ids}
    said: dict[tuple[int, str], list[str]] = {}
    rejected_tags: set[tuple[int, str | None]] = set()
    for photo, tag, name, kind in run(
        f"SELECT photo, tag, name, kind FROM decisions WHERE photo IN ({marks}) ORDER BY time", ids
    ):
        said.setdefault((photo, kind), []).append(name)
        if kind == "rejected":
            rejected_tags |= {(photo, tag), (photo, folded(name))}
    for photo, tag, name, score in run(
        f"SELECT photo, tag, name, score FROM tags WHERE photo IN ({marks}) ORDER BY score DESC", ids
    ):
        if not rejected_tags.intersection(((photo, tag), (photo, folded(name)))):
            scores[photo].append(TagScore(tag, name, score, "vocabulary"))
    for photo, path in run(f"SELECT DISTINCT photo, path FROM keywords WHERE photo IN ({marks})", ids):
        said.setdefault((photo, "keyword"), []).append(path)
    for row in run(
        "SELECT p.id, p.path, p.name, state, width, height, taken, coalesce(m.name, ''), caption, "
        "error_type, error_message, pair, slot "
        f"FROM photos p LEFT JOIN models m ON m.id = p.model WHERE p.id IN ({marks})",
        ids,
    ):
        one, path, name, state, width, height, taken, model, caption, error, message, pair, slot = row
        accepted, rejected, added, keywords = (
            tuple(said.get((one, kind), ())) for kind in ("accepted", "rejected", "added", "keyword")
        )
        failure = Failure(error, message) if error else None
        yield one, Photo(
            one, os.fsdecode(path), name, state, width, height, taken, model, tuple(scores[one]),
            accepted, rejected, added, keywords, caption, failure, pair, slot,
        )  # fmt: skip
