"""The application: routes of version 1, health, metrics and the page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from threading import Event
from typing import Annotated, TypeVar

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.staticfiles import StaticFiles

from anytag import __version__
from anytag.errors import AnytagError
from anytag.library.library import Library
from anytag.results import Match, TagResult, TagScore
from anytag.server import label_studio, photoprism, schemas
from anytag.server.limits import Admission
from anytag.server.metrics import Metrics
from anytag.server.photos import router
from anytag.server.refusals import Refusal, error_body
from anytag.server.room import Patience
from anytag.server.service import Service, Serving, errors
from anytag.server.settings import Settings
from anytag.server.uploads import Photo, described, read_upload
from anytag.tagger import Encoded, Tagger

Opt = TypeVar("Opt", bound=BaseModel)
Row = dict[str, object]

_PAGE = Path(__file__).parent / "page"


def create_app(settings: Settings) -> FastAPI:
    """The ASGI application, with its model loaded.

    Args:
        settings: of the server.

    Raises:
        AnytagError: the model or the device is not there.
    """
    metrics = Metrics()
    service = Service(settings, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close)

    app = FastAPI(
        title="anytag",
        version=__version__,
        summary="Tags, captions and matches for photos.",
        lifespan=lifespan,
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
    )
    app.state.settings, app.state.metrics, app.state.service = settings, metrics, service
    patience = app.state.patience = Patience(settings.body_seconds, stall=settings.stall_seconds)
    app.add_middleware(Admission, settings=settings, metrics=metrics, patience=patience)
    app.add_exception_handler(Refusal, _refuse)
    app.add_exception_handler(ClientDisconnect, _gone_away)
    app.add_exception_handler(AnytagError, _wrong)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    _add_routes(app)
    if service.photos is not None:
        app.include_router(router(service.photos))
    app.include_router(photoprism.routes)
    if settings.label_studio:
        app.include_router(label_studio.routes)
    app.mount("/page", StaticFiles(directory=_PAGE), name="page")
    return app


def _add_routes(app: FastAPI) -> None:
    for path, answer, options, endpoint in (
        ("/v1/tag", schemas.TagAnswer, schemas.TagOptions, tag),
        ("/v1/caption", schemas.CaptionAnswer, schemas.CaptionOptions, caption),
        ("/v1/match", schemas.MatchAnswer, schemas.MatchOptions, match),
    ):
        app.post(
            path, response_model=answer, responses=errors(schemas.Error), openapi_extra=described(options)
        )(endpoint)
    app.get("/v1/models", response_model=schemas.ModelsAnswer, summary="The model that answers")(models)
    app.get("/v1/tags", response_model=schemas.TagNames, summary="Tags for what was typed so far")(tag_names)
    app.get("/livez", response_model=schemas.State, summary="Whether the process lives")(livez)
    app.get("/readyz", response_model=schemas.State, summary="Whether photos are tagged")(readyz)
    app.get("/metrics", response_class=Response, summary="Figures for Prometheus")(metrics_text)
    app.get("/", include_in_schema=False)(page)


async def tag(request: Request, service: Serving) -> Response:
    """Tags of one or many photos; a photo that cannot be read has an `error`, the others their tags."""
    photos, options = await _read(request, schemas.TagOptions)

    def answer(encoded: Encoded) -> Row:
        if encoded.error is not None:
            return _failed(encoded, service.tagger, tags=[])
        found = service.tagger.score(
            encoded,
            options.tags,
            also=options.also,
            top_k=options.top_k,
            threshold=options.threshold,
            where=options.where or options.heat,
        )
        return _row(found, service.broader, heat=options.heat)

    return await _answers(request, service, photos, answer)


async def caption(request: Request, service: Serving) -> Response:
    """Sentences about one or many photos, guided by tags."""
    photos, options = await _read(request, schemas.CaptionOptions)
    captioner = service.captioner
    if captioner is None:
        raise Refusal(422, "model", f"the model {service.tagger.card.name} writes no captions")

    def answer(encoded: Encoded) -> Row:
        if encoded.error is not None:
            return _failed(encoded, service.tagger, text="", tags=[])
        (written,) = captioner.write([encoded], **options.model_dump())
        row = written.to_dict()
        del row["path"]
        return row

    return await _answers(request, service, photos, answer)


async def match(request: Request, service: Serving) -> Response:
    """Which photos fit a text best, for each text; a photo that cannot be read is not ranked."""
    photos, options = await _read(request, schemas.MatchOptions)
    images, texts = [photo.data for photo in photos], options.texts

    def work(stop: Event) -> Response:
        matching = service.matching
        unknown = matching.unknown_words(texts)
        seen, found = matching.rank(images, texts, top_k=options.top_k, stop=stop)
        rows = [
            {"text": text, "unknown_words": words, "matches": [_match(one, photos) for one in best]}
            for text, words, best in zip(texts, unknown, found, strict=True)
        ]
        return _response(photos, [_size(one, service.tagger) for one in seen], texts=rows)

    return await service.beside(request, work)


async def models(service: Serving) -> Row:
    """Which model answers."""
    tagger = service.tagger
    card = tagger.card
    facts = schemas.Model(
        name=card.name,
        version=str(card.version),
        family=card.family,
        tags=len(tagger.vocabulary),
        captions=service.captioner is not None,
        library=service.photos is not None,
        device=tagger.runtime.device,
    )
    return {"models": [facts]}


async def tag_names(service: Serving, text: Annotated[str, Query(max_length=100)] = "") -> Row:
    """At most twenty, by names in any language and synonyms; with a library, its custom tags, too."""
    own = await service.photos.ask(Library.words) if service.photos is not None else []
    found = await asyncio.to_thread(lambda: service.suggestions.find(text, own))
    return {"tags": [one.to_dict() for one in found]}


async def livez() -> Row:
    """The process answers."""
    return {"status": "ok"}


async def readyz(service: Serving) -> Response:
    """The threads that tag are alive."""
    if service.batcher.is_alive:
        return JSONResponse({"status": "ok"})
    return JSONResponse({"status": "not ready"}, 503)


async def metrics_text(request: Request) -> Response:
    """In the text format of Prometheus."""
    metrics: Metrics = request.app.state.metrics
    return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def page() -> Response:
    """The page."""
    return FileResponse(_PAGE / "index.html")


async def _read(request: Request, options: type[Opt]) -> tuple[list[Photo], Opt]:
    settings: Settings = request.app.state.settings
    service: Service = request.app.state.service
    return await read_upload(request, options, max_files=settings.max_files, fetcher=service.fetcher)


async def _answers(
    request: Request, service: Service, photos: Sequence[Photo], answer: Callable[[Encoded], Row]
) -> Response:
    return _response(photos, await service.answers(request, [photo.data for photo in photos], answer))


def _response(photos: Sequence[Photo], rows: Sequence[Row], **more: object) -> Response:
    """The rows of all photos; a photo that was sent alone and cannot be read is an error of the request."""
    named: list[Row] = [{"name": photo.name, **row} for photo, row in zip(photos, rows, strict=True)]
    error = named[0]["error"]
    if len(named) == 1 and error is not None:
        return JSONResponse({"error": error}, 422)
    return JSONResponse({"photos": named, **more})


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    request.app.state.metrics.refused.labels(error.reason).inc()
    return error.response(request.scope)


async def _gone_away(request: Request, _: Exception) -> Response:
    """Nobody reads this answer; 499 is what nginx counts."""
    request.app.state.metrics.refused.labels("gone").inc()
    return Response(status_code=499)


async def _wrong(request: Request, error: Exception) -> Response:
    """Wrong tags, lengths and the like: what the library says of them."""
    return JSONResponse(error_body(request.url.path, 422, type(error).__name__, str(error)), 422)


async def _invalid(request: Request, error: Exception) -> Response:
    """Query or JSON that is not as described: the first thing that is wrong, in the form of every error."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"][1:])) or "body"
    return JSONResponse(error_body(request.url.path, 422, "options", f"{place}: {first['msg']}"), 422)


async def _http(request: Request, error: Exception) -> Response:
    """A path or method that is not there, or JSON that cannot be parsed."""
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, Refusal):  # while FastAPI read JSON
        return await _refuse(request, error.__cause__)
    kind = {404: "path", 405: "method"}.get(error.status_code, "http")
    message = f"{request.method} {request.url.path[:200]}: {error.detail}; /openapi.json says what there is"
    return JSONResponse(
        error_body(request.url.path, error.status_code, kind, message), error.status_code, error.headers
    )


def _failed(encoded: Encoded, tagger: Tagger, **empty: object) -> Row:
    return {**_size(encoded, tagger), **empty}


def _size(encoded: Encoded, tagger: Tagger) -> Row:
    """The row of a photo of which no more is said than whether it was read."""
    error = encoded.error and asdict(encoded.error)
    return {"width": encoded.width, "height": encoded.height, "model": tagger.card.name, "error": error}


def _match(match: Match, photos: Sequence[Photo]) -> Row:
    number = int(match.path)
    return {"photo": number, "name": photos[number].name, "score": match.score}


def _row(found: TagResult, broader: dict[str, list[str]], *, heat: bool) -> Row:
    """The row of `anytag tag --format jsonl`, without a path, with broader tags' names and heat maps."""
    row = found.to_dict()
    del row["path"]
    row["tags"] = [_tag(one, broader, heat=heat) for one in found.tags]
    return row


def _tag(one: TagScore, broader: dict[str, list[str]], *, heat: bool) -> Row:
    row: Row = one.to_dict()
    if one.id in broader:
        row["parents"] = broader[one.id]
    if heat and one.heat is not None:
        row["heat"] = [[round(value, 3) for value in line] for line in one.heat.tolist()]
    return row
