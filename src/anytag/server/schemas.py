"""Pydantic models of requests and responses; rows are those of `anytag tag --format jsonl`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictInt, field_validator
from pydantic_core import PydanticCustomError

Order = Literal["path", "newest", "unsure"]
_MAX_DESCRIPTIONS = 20  # of a tag: each is a query, and all tags are padded to the largest number


def _check_description_count(tag: str) -> str:
    if tag.count(";") >= _MAX_DESCRIPTIONS:
        raise PydanticCustomError("descriptions", f"a tag has at most {_MAX_DESCRIPTIONS} descriptions")
    return tag


CustomTagText = Annotated[str, Field(max_length=1000), AfterValidator(_check_description_count)]


class TagOptions(BaseModel):
    """Options for tagging; names and meanings are those of `Tagger.tag`."""

    model_config = ConfigDict(extra="forbid")

    tags: list[CustomTagText] | None = Field(
        None, max_length=1000, description="Score exactly these custom tags: 'name' or 'name: description'."
    )
    also: list[CustomTagText] | None = Field(
        None, max_length=1000, description="Score the vocabulary and these tags."
    )
    top_k: int | None = Field(None, ge=1, description="Maximum number of tags per photo.")
    threshold: float | None = Field(None, ge=0, le=1, description="Leave out lower scores.")
    where: bool = Field(False, description="Return the bounding box of each tag.")
    heat: bool = Field(False, description="Return a heat map of each tag too.")


class CaptionOptions(BaseModel):
    """Options for captions; names and meanings are those of `Captioner.caption`."""

    model_config = ConfigDict(extra="forbid")

    tags: list[CustomTagText] | None = Field(
        None,
        max_length=100,
        description="What the caption should mention, instead of the recognised tags; empty: no guidance.",
    )
    exclude_tags: list[CustomTagText] = Field(
        [], max_length=100, description="What the caption must not mention."
    )
    beams: int | None = Field(None, ge=1, le=16)
    max_length: int | None = Field(None, ge=1, le=200)
    min_length: int | None = Field(None, ge=0, le=200)

    @field_validator("tags", mode="before")
    @classmethod
    def _empty(cls, tags: object) -> object:
        return [] if tags == [""] else tags


class MatchOptions(BaseModel):
    """Options for ranking; names and meanings are those of `Retriever.rank`."""

    model_config = ConfigDict(extra="forbid")

    texts: list[CustomTagText] = Field(min_length=1, max_length=100, description="Sentences.")
    top_k: int | None = Field(None, ge=1, description="Maximum number of photos per text; all by default.")


class ErrorFacts(BaseModel):
    """Why something failed: a type for programs, a message for users."""

    type: str
    message: str


class Error(BaseModel):
    """The body of every error response."""

    error: ErrorFacts


class Tag(BaseModel):
    """One tag of one photo."""

    id: str
    name: str
    score: float = Field(ge=0, le=1, description="The calibrated probability that the tag applies.")
    source: Literal["vocabulary", "custom"]
    box: tuple[int, int, int, int] | None = Field(
        None, description="Left, top, right, bottom in pixels of the upright photo."
    )
    heat: list[list[float]] | None = Field(
        None, description="Heat map: rows of a grid over the photo, in [0, 1]."
    )
    parents: list[str] | None = Field(None, description="Names of broader tags.")


class PhotoTags(BaseModel):
    """The tags of one photo, by descending score."""

    name: str | None = Field(description="The file name that the client sent.")
    width: int
    height: int
    model: str
    tags: list[Tag]
    below: list[Tag] | None = Field(None, description="Tags of `also` below the threshold.")
    error: ErrorFacts | None


class TagAnswer(BaseModel):
    """The photos of a request, in the same order."""

    photos: list[PhotoTags]


class PhotoCaption(BaseModel):
    """The caption of one photo."""

    name: str | None
    width: int
    height: int
    model: str
    text: str
    tags: list[str] = Field(description="Names of the tags that guided the caption.")
    error: ErrorFacts | None


class CaptionAnswer(BaseModel):
    """The photos of a request, in the same order."""

    photos: list[PhotoCaption]


class MatchedPhoto(BaseModel):
    """A ranked photo, or why it could not be read."""

    name: str | None
    width: int
    height: int
    model: str
    error: ErrorFacts | None


class PhotoMatch(BaseModel):
    """How well a photo fits a text."""

    photo: int = Field(description="Index in `photos`, from 0.")
    name: str | None
    score: float = Field(ge=0, le=1, description="The calibrated probability that the text fits.")


class TextMatches(BaseModel):
    """The photos that fit a text, best first."""

    text: str
    unknown_words: list[str] = Field(description="Words of the text that the model does not know.")
    matches: list[PhotoMatch]


class MatchAnswer(BaseModel):
    """The photos and the texts of a request, both in the same order."""

    photos: list[MatchedPhoto]
    texts: list[TextMatches]


class Model(BaseModel):
    """The loaded model."""

    name: str
    version: str
    family: str
    tags: int = Field(description="Number of tags in its vocabulary.")
    captions: bool = Field(description="Whether it writes captions.")
    library: bool = Field(description="Whether the server has the routes of a library.")
    device: str


class ModelsAnswer(BaseModel):
    """The loaded models: exactly one."""

    models: list[Model]


class SuggestedTag(BaseModel):
    """A suggested tag."""

    name: str
    by: str | None = Field(
        description="The synonym or name in another language that matches; null if the name matches."
    )


class TagNames(BaseModel):
    """Suggested tags, best first."""

    tags: list[SuggestedTag]


class State(BaseModel):
    """The health of the server."""

    status: Literal["ok", "not ready"]


class Search(BaseModel):
    """A search in the library; with neither text nor like, all photos that pass the filters."""

    model_config = ConfigDict(extra="forbid")

    text: str | None = Field(None, max_length=1000, description="A description of the photos.")
    like: int | None = Field(None, description="Id of a photo to find similar ones of.")
    tag: list[str] = Field([], max_length=20, description="Tags that the photos have.")
    exclude: list[str] = Field([], max_length=20, description="Tags that the photos do not have.")
    folder: str | None = Field(None, max_length=4000, description="Only photos in or below this folder.")
    after: str | None = Field(None, max_length=30, description="Taken in or after this year, month or day.")
    before: str | None = Field(None, max_length=30, description="Taken before this year, month or day.")
    order: Order = Field("path", description="Order of the photos, without text and like.")
    top_k: int = Field(1000, ge=1, le=10_000, description="Maximum number of photos, with text or like.")


class Found(BaseModel):
    """Ids of the photos that were found, in order."""

    total: int
    ids: list[int]
    scores: list[float] | None = Field(
        description="Probabilities that the text fits, or cosine similarities; null without text and like."
    )
    fits: bool = Field(description="False if no photo fits the text; the photos are then the nearest ones.")


class LibraryTag(BaseModel):
    """A tag of a photo of the library."""

    name: str
    score: float | None = Field(description="The model's score; null if only the user set the tag.")
    decision: Literal["accepted", "rejected", "added"] | None


class LibraryPhoto(BaseModel):
    """A photo of the library."""

    id: int
    name: str
    path: str
    state: Literal["waiting", "done", "failed", "gone"]
    width: int
    height: int
    taken: str | None
    caption: str | None
    tags: list[LibraryTag]
    keywords: list[str] = Field(description="The user's keywords in the photo and its sidecars.")
    error: str | None


class LibraryPhotos(BaseModel):
    """Photos of the library."""

    photos: list[LibraryPhoto]


class Decisions(BaseModel):
    """A decision of the user about a tag of photos."""

    model_config = ConfigDict(extra="forbid")

    photos: list[StrictInt] = Field(min_length=1, max_length=10_000)
    tag: str = Field(min_length=1, max_length=200)
    kind: Literal["accepted", "rejected", "added"]


class Write(BaseModel):
    """Sidecars to write."""

    model_config = ConfigDict(extra="forbid")

    photos: list[StrictInt] = Field(min_length=1, max_length=500, description="Ids.")
    dry_run: bool = Field(description="Only report what would change.")


class Change(BaseModel):
    """The changes to the sidecars of a photo."""

    id: int
    name: str
    files: list[str] = Field(description="Changed files; empty if they are up to date.")
    added: list[str] = Field(description="Added keywords.")
    removed: list[str] = Field(description="Removed keywords.")
    note: str | None = Field(description="A note on the choice of files.")
    error: ErrorFacts | None


class Changes(BaseModel):
    """Changes by photo, in the order of the request."""

    changes: list[Change]


class LibraryStatus(BaseModel):
    """The folders of the library and counts."""

    folders: list[str]
    photos: dict[str, int] = Field(description="Number of photos by state.")
    decisions: int
