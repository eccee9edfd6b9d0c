"""PhotoPrism's vision service API: labels and captions.

These routes are always enabled: like /v1/tag, they use only the photos in the request.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field

from anytag.results import Failure, TagScore
from anytag.server.refusals import VISION, Refusal
from anytag.server.service import Service, Serving, errors
from anytag.server.settings import Settings
from anytag.server.uploads import from_data_url
from anytag.tagger import Encoded, Tagger

Row = dict[str, object]


class VisionRequest(BaseModel):
    """A request of PhotoPrism; its other fields (prompt, options, ...) are ignored."""

    id: str = Field("", max_length=200)
    images: list[str] = Field(
        [], description="One photo, or square crops of it, as data URLs or base64: JPEG, PNG, ..."
    )
    url: str = Field("", max_length=10_000, description="Refused: these routes do not fetch URLs.")


class VisionLabel(BaseModel):
    """A tag."""

    name: str
    source: str
    confidence: float = Field(ge=0, le=1)
    topicality: float = Field(ge=0, le=1)
    categories: list[str] = Field(description="Names of broader tags.")


class VisionCaption(BaseModel):
    """A caption, without a confidence, since the model has no calibrated one."""

    text: str
    source: str


class VisionResult(BaseModel):
    """Labels by descending confidence, or a caption."""

    labels: list[VisionLabel] | None = None
    caption: VisionCaption | None = None


class VisionModel(BaseModel):
    """The model that produced the result."""

    type: str
    name: str
    version: str
    resolution: int


class VisionAnswer(BaseModel):
    """The response; of a failed request: `code`, `error` and an empty result."""

    id: str | None = None
    code: int
    error: str | None = None
    model: VisionModel | None = None
    result: VisionResult


def _known(request: Request, service: Serving) -> None:
    """Refuse a path that names another model or version."""
    card = service.tagger.card
    name, version = (request.path_params.get(part) for part in ("name", "version"))
    if name not in (None, card.name) or version not in (None, "latest", str(card.version)):
        raise Refusal(
            404, "model", f"this server runs {card.name}/{card.version}: use that path, or leave it out"
        )


routes = APIRouter(prefix=VISION, tags=["PhotoPrism"], dependencies=[Depends(_known)])


async def labels(payload: VisionRequest, request: Request, service: Serving) -> Row:
    """Tags of a photo; with several crops of it, the best score of each tag."""
    tagger = service.tagger

    def answer(encoded: Encoded) -> _Square | Failure:
        return encoded.error or _square(tagger, encoded)

    found = await service.map_encoded(request, _images(payload, request), answer)
    squares = [one for one in found if isinstance(one, _Square)]
    if not squares:
        raise _unreadable(found[0])
    best = _best_tags(squares) or _best_tags(squares, fallback=True)[:1]
    return _answer(payload, service, "labels", [_label(tag, service) for tag in best])


async def caption(payload: VisionRequest, request: Request, service: Serving) -> Row:
    """A caption of the first photo of the request."""
    captioner = service.captioner
    if captioner is None:
        raise Refusal(422, "model", f"the model {service.tagger.card.name} writes no captions")

    def answer(encoded: Encoded) -> str | Failure:
        return encoded.error or captioner.write([encoded])[0].text

    (text,) = await service.map_encoded(request, _images(payload, request)[:1], answer)
    if isinstance(text, Failure):
        raise _unreadable(text)
    return _answer(payload, service, "caption", {"text": text, "source": "image"})


for _path, _endpoint in (("/labels", labels), ("/caption", caption)):
    routes.post(
        _path, response_model=VisionAnswer, response_model_exclude_none=True, responses=errors(VisionAnswer)
    )(_endpoint)
    routes.post(_path + "/{name}/{version}", response_model_exclude_none=True, include_in_schema=False)(
        _endpoint
    )


def _images(payload: VisionRequest, request: Request) -> list[bytes]:
    settings: Settings = request.app.state.settings
    if payload.url:
        raise Refusal(
            422,
            "url",
            "URLs are not fetched here: set FileScheme: data in vision.yml",
        )
    if not payload.images:
        raise Refusal(422, "empty", "no photo was sent: expected data URLs in images")
    if len(payload.images) > settings.max_files:
        raise Refusal(422, "images", f"got {len(payload.images)} images, the limit is {settings.max_files}")
    return [from_data_url(image) for image in payload.images]


class _Square(NamedTuple):
    """Tags of one image, or else its likeliest tag: PhotoPrism rejects a result without labels."""

    tags: tuple[TagScore, ...]
    fallback: tuple[TagScore, ...]


def _square(tagger: Tagger, encoded: Encoded) -> _Square:
    tags = tagger.score(encoded).tags
    return _Square(tags, () if tags else tagger.score(encoded, threshold=0, top_k=1).tags)


def _best_tags(squares: Sequence[_Square], *, fallback: bool = False) -> list[TagScore]:
    """Each tag once with its highest score, by descending score."""
    best: dict[str, TagScore] = {}
    for tag in (tag for square in squares for tag in (square.fallback if fallback else square.tags)):
        best[tag.id] = max(tag, best.get(tag.id, tag), key=lambda one: one.score)
    return sorted(best.values(), key=lambda one: -one.score)


def _label(tag: TagScore, service: Service) -> Row:
    confidence = max(tag.score, 1e-6)  # PhotoPrism treats 0 as missing and replaces it by 80 %
    return {
        "name": tag.name,
        "source": "image",
        "confidence": confidence,
        "topicality": confidence,
        "categories": service.parent_names.get(tag.id, []),
    }


def _answer(payload: VisionRequest, service: Service, kind: str, result: object) -> Row:
    card = service.tagger.card
    model = {
        "type": kind,
        "name": card.name,
        "version": str(card.version),
        "resolution": card.image.size,
    }
    return {"id": payload.id or None, "code": 200, "model": model, "result": {kind: result}}


def _unreadable(failure: object) -> Refusal:
    assert isinstance(failure, Failure)
    return Refusal(422, failure.type, failure.message)
