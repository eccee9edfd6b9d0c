"""Result records, frozen, that convert to plain dictionaries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from anytag._typing import Floats

Source = Literal["vocabulary", "custom"]


class Box(NamedTuple):
    """A region of a photo, in pixels of the upright original; `right` and `bottom` are exclusive."""

    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True, slots=True)
class TagScore:
    """One tag of one photo.

    Attributes:
        id: unique identifier of the tag; names may repeat.
        name: display name.
        score: estimated probability, in [0, 1], that the tag is in the photo.
        source: "vocabulary" for a trained query, "custom" for one made from the user's words.
        box: where the tag is, if requested; None also if no part of the photo supports the tag.
        heat: float32 h×w in [0, 1], how strongly each part of the photo supports the tag, if requested.
    """

    id: str
    name: str
    score: float
    source: Source
    box: Box | None = None
    heat: Floats | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Convert to a dictionary; `box` is a list of four, only if there is one; `heat` is left out."""
        row = {"id": self.id, "name": self.name, "score": self.score, "source": self.source}
        return row if self.box is None else {**row, "box": list(self.box)}


def once_by_name(tags: Iterable[TagScore]) -> tuple[TagScore, ...]:
    """Keep the first tag of each name, for displays of names alone; `tags` are by descending score.

    Two tags may share a name: an orange is a fruit and a colour.
    """
    found: dict[str, TagScore] = {}
    for tag in tags:
        found.setdefault(tag.name, tag)
    return tuple(found.values())


@dataclass(frozen=True, slots=True)
class Match:
    """How well a text matches a photo.

    Attributes:
        path: the photo's path as given, "" for a photo without one.
        text: as given.
        score: in [0, 1]; a probability if `Retriever.calibrated`.
    """

    path: str
    text: str
    score: float

    def to_dict(self) -> dict[str, Any]:
        """Convert to the row that `anytag match --format jsonl` writes."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a photo could not be processed: the error's class name and its message."""

    type: str
    message: str


@dataclass(frozen=True, slots=True)
class TagResult:
    """The tags of one photo, by descending score; supports iteration and `len`.

    Attributes:
        path: the photo's path as given, or None for bytes, a PIL image or an array.
        width: of the upright original in pixels, 0 if it could not be read.
        height: the same.
        model: name of the model.
        tags: by descending score.
        error: set if the photo could not be tagged; `tags` is empty then.
        below: tags of `also` that score below the threshold, by descending score.
    """

    path: str | None
    width: int
    height: int
    model: str
    tags: tuple[TagScore, ...]
    error: Failure | None = None
    below: tuple[TagScore, ...] = ()

    def __iter__(self) -> Iterator[TagScore]:
        return iter(self.tags)

    def __len__(self) -> int:
        return len(self.tags)

    @property
    def shown(self) -> tuple[TagScore, ...]:
        """The tags for display: of tags that share a name, the one with the highest score."""
        return once_by_name(self.tags)

    @property
    def names(self) -> tuple[str, ...]:
        """The names for display, each once, by descending score."""
        return tuple(tag.name for tag in self.shown)

    def to_dict(self) -> dict[str, Any]:
        """Convert to the row that `--format jsonl` writes; `below` only if there are any."""
        row = {
            "path": self.path,
            "width": self.width,
            "height": self.height,
            "model": self.model,
            "tags": [tag.to_dict() for tag in self.tags],
            "error": asdict(self.error) if self.error else None,
        }
        return {**row, "below": [tag.to_dict() for tag in self.below]} if self.below else row


@dataclass(frozen=True, slots=True)
class Caption:
    """The caption of one photo.

    Attributes:
        path: the photo's path as given, or None for bytes, a PIL image or an array.
        width: of the upright original in pixels, 0 if it could not be read.
        height: the same.
        model: name of the model.
        text: the sentence, without a full stop; "" if the photo could not be read.
        tags: names of the tags that guided it: the user's, or the recognised ones.
        error: set if the photo could not be read.
    """

    path: str | None
    width: int
    height: int
    model: str
    text: str
    tags: tuple[str, ...] = ()
    error: Failure | None = None

    def to_dict(self) -> dict[str, Any]:
        """Convert to the row that `anytag caption --format jsonl` writes."""
        return {**asdict(self), "tags": list(self.tags)}
