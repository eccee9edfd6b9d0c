"""What goes in and out as JSON, for OpenAPI: rows are those of `anytag tag --format jsonl`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictInt
from pydantic_core import PydanticCustomError

Order = Literal["path", "newest", "unsure"]
_DESCRIPTIONS = 20  # of one tag: each is a query, and all tags of a request get room for the most of one


def _short(tag: str) -> str:
    if tag.count(";") >= _DESCRIPTIONS:
        raise PydanticCustomError("descriptions", f"a tag has at most {_DESCRIPTIONS} descriptions")
    return tag


CustomTagText = Annotated[str, Field(max_length=1000), AfterValidator(_short)]


class TagOptions(BaseModel):
    """How photos are tagged; names and meanings are those of `Tagger.tag`."""

    model_config = ConfigDict(extra="forbid")

    tags: list[CustomTagText] | None = Field(
        None, max_length=1000, description="Score exactly these custom tags: 'name' or 'name: description'."
    )
    also: list[CustomTagText] | None = Field(
        None, max_length=1000, description="Score the vocabulary and these tags."
    )
    top_k: int | None = Field(None, ge=1, description="At most so many tags a photo.")
    threshold: float | None = Field(None, ge=0, le=1, description="Leave out lower scores.")
    where: bool = Field(False, description="Give the box around each tag.")
    heat: bool = Field(False, description="Give a heat map of each tag too.")


class CaptionOptions(BaseModel):
    """How captions are written; names and meanings are those of `Captioner.caption`."""

    model_config = ConfigDict(extra="forbid")

    tags: list[CustomTagText] | None = Field(
        None, max_length=100, description="What the caption shall speak of."
    )
    exclude_tags: list[CustomTagText] = Field([], max_length=100, description="What it must not speak of.")
    beams: int | None = Field(None, ge=1, le=16)
    max_length: int | None = Field(None, ge=1, le=200)
    min_length: int | None = Field(None, ge=0, le=200)


class MatchOptions(BaseModel):
    """For what photos are ranked; names and meanings are those of `Retriever.rank`."""

    model_config = ConfigDict(extra="forbid")

    texts: list[CustomTagText] = Field(min_length=1, max_length=100, description="Sentences.")
    top_k: int | None = Field(None, ge=1, description="At most so many photos a text; all by default.")


class ErrorFacts(BaseModel):
    """Why something failed: a kind for programs, a sentence for people."""

    type: str
    message: str


class Error(BaseModel):
    """The body of every answer that is no success."""

    error: ErrorFacts


class Tag(BaseModel):
    """One tag of one photo."""

    id: str
    name: str
    score: float = Field(ge=0, le=1, description="The calibrated probability that it is in the photo.")
    source: Literal["vocabulary", "custom"]
    box: tuple[int, int, int, int] | None = Field(
        None, description="Left, top, right, bottom in pixels of the upright photo."
    )
    heat: list[list[float]] | None = Field(None, description="Rows of a grid over the photo, in [0, 1].")
    parents: list[str] | None = Field(None, description="Names of broader tags.")


class PhotoTags(BaseModel):
    """The tags of one photo, by falling score."""

    name: str | None = Field(description="The file's name as the client gave it.")
    width: int
    height: int
    model: str
    tags: list[Tag]
    below: list[Tag] | None = Field(None, description="Tags of `also` below the threshold.")
    error: ErrorFacts | None


class TagAnswer(BaseModel):
    """The photos of a request, in its order."""

    photos: list[PhotoTags]


class PhotoCaption(BaseModel):
    """A sentence about one photo."""

    name: str | None
    width: int
    height: int
    model: str
    text: str
    tags: list[str] = Field(description="Names of the tags that guided it.")
    error: ErrorFacts | None


class CaptionAnswer(BaseModel):
    """The photos of a request, in its order."""

    photos: list[PhotoCaption]


class MatchedPhoto(BaseModel):
    """A photo that was ranked, or why it was not."""

    name: str | None
    width: int
    height: int
    model: str
    error: ErrorFacts | None


class PhotoMatch(BaseModel):
    """How well a photo fits a text."""

    photo: int = Field(description="Its place in `photos`, from 0.")
    name: str | None
    score: float = Field(ge=0, le=1, description="The calibrated probability that the text fits.")


class TextMatches(BaseModel):
    """The photos that fit a text, best first."""

    text: str
    unknown_words: list[str] = Field(description="Words of it that the model does not know.")
    matches: list[PhotoMatch]


class MatchAnswer(BaseModel):
    """The photos and the texts of a request, both in its order."""

    photos: list[MatchedPhoto]
    texts: list[TextMatches]


class Model(BaseModel):
    """The model that answers."""

    name: str
    version: str
    family: str
    tags: int = Field(description="Tags of its vocabulary.")
    captions: bool = Field(description="Whether it writes captions.")
    library: bool = Field(description="Whether photos of a library are served, too.")
    device: str


class ModelsAnswer(BaseModel):
    """The models that answer: one."""

    models: list[Model]


class SuggestedTag(BaseModel):
    """A tag for what was typed so far."""

    name: str
    by: str | None = Field(description="The synonym or name in another language that fits; null: the name.")


class TagNames(BaseModel):
    """Tags for what was typed so far, best first."""

    tags: list[SuggestedTag]


class State(BaseModel):
    """Whether the server is well."""

    status: Literal["ok", "not ready"]


class Search(BaseModel):
    """What photos of the library are wanted; with neither text nor like, all that pass the filters."""

    model_config = ConfigDict(extra="forbid")

    text: str | None = Field(None, max_length=1000, description="A sentence.")
    like: int | None = Field(None, description="Id of a photo that they are like.")
    tag: list[str] = Field([], max_length=20, description="Tags that each has.")
    exclude: list[str] = Field([], max_length=20, description="Tags that it has not.")
    folder: str | None = Field(None, max_length=4000, description="Only photos below it.")
    after: str | None = Field(None, max_length=30, description="Taken from this year, month or day on.")
    before: str | None = Field(None, max_length=30, description="Taken before it.")
    order: Order = Field("path", description="Of photos without text and like.")
    top_k: int = Field(1000, ge=1, le=10_000, description="At most so many, with text or like.")


class Found(BaseModel):
    """Ids of photos in their order."""

    total: int
    ids: list[int]
    scores: list[float] | None = Field(description="Probabilities that the text fits; cosines of likeness.")
    fits: bool = Field(description="False: nothing fits the text, and these are the nearest.")


class LibraryTag(BaseModel):
    """A tag of a photo of the library."""

    name: str
    score: float | None = Field(description="What the model says; null where only the user says it.")
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
    keywords: list[str] = Field(description="The user's own, from the photo and its sidecars.")
    error: str | None


class LibraryPhotos(BaseModel):
    """Photos of the library."""

    photos: list[LibraryPhoto]


class Decisions(BaseModel):
    """What the user says of a tag in photos."""

    model_config = ConfigDict(extra="forbid")

    photos: list[StrictInt] = Field(min_length=1, max_length=10_000)
    tag: str = Field(min_length=1, max_length=200)
    kind: Literal["accepted", "rejected", "added"]


class Write(BaseModel):
    """Sidecars to write."""

    model_config = ConfigDict(extra="forbid")

    photos: list[StrictInt] = Field(min_length=1, max_length=500, description="Ids.")
    dry_run: bool = Field(description="Write nothing: show what would change.")


class Change(BaseModel):
    """What was written for a photo, or would be."""

    id: int
    name: str
    files: list[str] = Field(description="That change; none where all is as it shall be.")
    added: list[str] = Field(description="Words that are new in one of them.")
    removed: list[str] = Field(description="Words that are gone.")
    note: str | None = Field(description="What the user should know of the choice of files.")
    error: ErrorFacts | None


class Changes(BaseModel):
    """Of photos, in the order of the request."""

    changes: list[Change]


class LibraryStatus(BaseModel):
    """What is in the library."""

    folders: list[str]
    photos: dict[str, int] = Field(description="By state.")
    decisions: int
