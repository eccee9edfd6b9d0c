"""What users receive: frozen records that know how to become plain dictionaries."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Source = Literal["vocabulary", "own"]


@dataclass(frozen=True, slots=True)
class TagScore:
    """One tag of one photo.

    Attributes:
        id: identity of the tag; names may repeat, ids never do.
        name: the name to show.
        score: calibrated probability that the tag is in the photo, in [0, 1].
        source: "vocabulary" when asked with a trained query, "own" when made from the user's words.
    """

    id: str
    name: str
    score: float
    source: Source


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a photo has no tags: the error's class name and its message."""

    type: str
    message: str


@dataclass(frozen=True, slots=True)
class Tags:
    """The tags of one photo, by falling score.

    Attributes:
        path: the photo as it was named, or None when it came as bytes, PIL image or array.
        width: pixels of the upright original, 0 when it could not be read.
        height: the same.
        model: name of the model that scored.
        tags: by falling score.
        error: set when the photo could not be tagged; `tags` is empty then.
    """

    path: str | None
    width: int
    height: int
    model: str
    tags: tuple[TagScore, ...]
    error: Failure | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names alone, by falling score."""
        return tuple(tag.name for tag in self.tags)

    def to_dict(self) -> dict[str, Any]:
        """The row that `--format jsonl` writes: nested plain dictionaries and lists."""
        row = asdict(self)
        row["tags"] = list(row["tags"])
        return row
