"""What users receive: frozen records that know how to become plain dictionaries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from anytag._typing import Floats

Source = Literal["vocabulary", "custom"]


class Box(NamedTuple):
    """A part of a photo, in pixels of the upright original; `right` and `bottom` lie just outside."""

    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True, slots=True)
class TagScore:
    """One tag of one photo.

    Attributes:
        id: identity of the tag; names may repeat, ids never do.
        name: the name to show.
        score: the probability that the tag is in the photo as the model estimates it, in [0, 1].
        source: "vocabulary" for a trained query, "custom" for one made from the user's words.
        box: where in the photo, if requested; None also where no part of the photo supports the tag.
        heat: float32 h×w in [0, 1], how much each part of the photo supports the tag, if requested.
    """

    id: str
    name: str
    score: float
    source: Source
    box: Box | None = None
    heat: Floats | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain: `box`, a list of four, only where there is one; `heat` is left out."""
        row = {"id": self.id, "name": self.name, "score": self.score, "source": self.source}
        return row if self.box is None else {**row, "box": list(self.box)}


def once_by_name(tags: Iterable[TagScore]) -> tuple[TagScore, ...]:
    """Of tags by falling score the first of each name, for whoever is shown names alone.

    An orange is a fruit and a colour: two tags, which ids tell apart and eyes do not.
    """
    found: dict[str, TagScore] = {}
    for tag in tags:
        found.setdefault(tag.name, tag)
    return tuple(found.values())


@dataclass(frozen=True, slots=True)
class Match:
    """How well a text fits a photo.

    Attributes:
        path: the photo as it was named, "" when it came without a name.
        text: as given.
        score: in [0, 1]; what it means, `Retriever.calibrated` says.
    """

    path: str
    text: str
    score: float

    def to_dict(self) -> dict[str, Any]:
        """Plain: the row that `anytag match --format jsonl` writes."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a photo has no tags: the error's class name and its message."""

    type: str
    message: str


@dataclass(frozen=True, slots=True)
class TagResult:
    """The tags of one photo, by falling score: `for tag in result`, `len(result)`.

    Attributes:
        path: the photo as it was named, or None when it came as bytes, PIL image or array.
        width: pixels of the upright original, 0 when it could not be read.
        height: the same.
        model: name of the model that scored.
        tags: by falling score.
        error: set when the photo could not be tagged; `tags` is empty then.
        below: custom tags of `also` that score below the threshold, by falling score.
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
        """The tags as people are shown them: of those that share a name, the one with the higher score."""
        return once_by_name(self.tags)

    @property
    def names(self) -> tuple[str, ...]:
        """Names alone, each once, by falling score."""
        return tuple(tag.name for tag in self.shown)

    def to_dict(self) -> dict[str, Any]:
        """The row that `--format jsonl` writes: nested plain dictionaries and lists; `below` only if any."""
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
    """A sentence about one photo.

    Attributes:
        path: the photo as it was named, or None when it came as bytes, PIL image or array.
        width: pixels of the upright original, 0 when it could not be read.
        height: the same.
        model: name of the model that wrote.
        text: the sentence, without a full stop; "" when the photo could not be read.
        tags: names of the tags that guided it: the user's, or those that were recognised.
        error: set when the photo could not be read.
    """

    path: str | None
    width: int
    height: int
    model: str
    text: str
    tags: tuple[str, ...] = ()
    error: Failure | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain: the row that `anytag caption --format jsonl` writes."""
        return {**asdict(self), "tags": list(self.tags)}
