"""The ASGI application: the /v1 routes, health checks, metrics and the page."""

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
from anytag.server.capacity import BodyTimeouts
from anytag.server.limits import Admission
from anytag.server.metrics import Metrics
from anytag.server.photos import router
from anytag.server.refusals import Refusal, error_body
from anytag.server.service import Service, Serving, errors
from anytag.server.settings import Settings
from anytag.server.uploads import Photo, openapi_of, read_upload
from anytag.tagger import Encoded, Tagger

Opt = TypeVar("Opt", bound=BaseModel)
Row = dict[str, object]

_PAGE = Path(__file__).parent / "page"


def create_app(settings: Settings) -> FastAPI:
    """Load the model and create the ASGI application.

    Args:
        settings: of the server.

    Raises:
        AnytagError: the model cannot be loaded, or the device is not available.
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
        docs_url=None,  # these pages load scripts from other hosts
        redoc_url=None,
    )
    app.state.settings, app.state.metrics, app.state.service = settings, metrics, service
    timeouts = app.state.timeouts = BodyTimeouts(settings.body_seconds, stall=settings.stall_seconds)
    app.add_middleware(Admission, settings=settings, metrics=metrics, timeouts=timeouts)
    app.add_exception_handler(Refusal, _on_refusal)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(AnytagError, _on_anytag_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_error)
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
            path, response_model=answer, responses=errors(schemas.Error), openapi_extra=openapi_of(options)
        )(endpoint)
    app.get("/v1/models", response_model=schemas.ModelsAnswer, summary="The loaded model")(models)
    app.get("/v1/tags", response_model=schemas.TagNames, summary="Tag suggestions")(tag_names)
    app.get("/livez", response_model=schemas.State, summary="Liveness check")(livez)
    app.get("/readyz", response_model=schemas.State, summary="Readiness check")(readyz)
    app.get("/metrics", response_class=Response, summary="Prometheus metrics")(metrics_text)
    app.get("/", include_in_schema=False)(page)


async def tag(request: Request, service: Serving) -> Response:
    """Tag one or more photos; a photo that cannot be read has an `error` instead of tags."""
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
        return _row(found, service.parent_names, heat=options.heat)

    return await _answers(request, service, photos, answer)


async def caption(request: Request, service: Serving) -> Response:
    """Caption one or more photos, guided by their tags."""
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
    """Rank the photos for each text; a photo that cannot be read is not ranked."""
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

    return await service.in_thread(request, work)


async def models(service: Serving) -> Row:
    """The loaded model and what it can do."""
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
    """Suggest at most 20 tags by name in any language or synonym; with a library, its custom tags too."""
    own = await service.photos.run(Library.words) if service.photos is not None else []
    found = await asyncio.to_thread(lambda: service.suggestions.find(text, own))
    return {"tags": [one.to_dict() for one in found]}


async def livez() -> Row:
    """The process is running."""
    return {"status": "ok"}


async def readyz(service: Serving) -> Response:
    """The worker threads are running."""
    if service.batcher.is_alive:
        return JSONResponse({"status": "ok"})
    return JSONResponse({"status": "not ready"}, 503)


async def metrics_text(request: Request) -> Response:
    """Metrics in Prometheus's text format."""
    metrics: Metrics = request.app.state.metrics
    return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def page() -> Response:
    """The web page."""
    return FileResponse(_PAGE / "index.html")


async def _read(request: Request, options: type[Opt]) -> tuple[list[Photo], Opt]:
    settings: Settings = request.app.state.settings
    service: Service = request.app.state.service
    return await read_upload(request, options, max_files=settings.max_files, fetcher=service.fetcher)


async def _answers(
    request: Request, service: Service, photos: Sequence[Photo], answer: Callable[[Encoded], Row]
) -> Response:
    return _response(photos, await service.map_encoded(request, [photo.data for photo in photos], answer))


def _response(photos: Sequence[Photo], rows: Sequence[Row], **more: object) -> Response:
    """The rows of all photos; if the only photo cannot be read, an error response."""
    named: list[Row] = [_named(photo.name, row) for photo, row in zip(photos, rows, strict=True)]
    error = named[0]["error"]
    if len(named) == 1 and error is not None:
        return JSONResponse({"error": error}, 422)
    return JSONResponse({"photos": named, **more})


def _named(name: str | None, row: Row) -> Row:
    """The row of a photo with its name, in its error message too."""
    if isinstance(error := row["error"], dict):
        message = error["message"].replace("<bytes>: ", f"{name}: " if name else "the photo ", 1)
        row = {**row, "error": {**error, "message": message}}
    return {"name": name, **row}


async def _on_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    request.app.state.metrics.refused.labels(error.reason).inc()
    return error.response(request.scope)


async def _on_disconnect(request: Request, _: Exception) -> Response:
    """Count the request; nobody reads this response, whose status is nginx's."""
    request.app.state.metrics.refused.labels("gone").inc()
    return Response(status_code=499)


async def _on_anytag_error(request: Request, error: Exception) -> Response:
    """Report an error of the library, such as an invalid tag."""
    return JSONResponse(error_body(request.url.path, 422, type(error).__name__, str(error)), 422)


async def _on_invalid_request(request: Request, error: Exception) -> Response:
    """Report the first validation error of a query or JSON body."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"][1:])) or "body"
    return JSONResponse(error_body(request.url.path, 422, "options", f"{place}: {first['msg']}"), 422)


async def _on_http_error(request: Request, error: Exception) -> Response:
    """Report an unknown path or method, or JSON that cannot be parsed."""
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, Refusal):  # raised while FastAPI read the body
        return await _on_refusal(request, error.__cause__)
    kind = {404: "path", 405: "method"}.get(error.status_code, "http")
    message = f"{request.method} {request.url.path[:200]}: {error.detail}; /openapi.json lists the routes"
    return JSONResponse(
        error_body(request.url.path, error.status_code, kind, message), error.status_code, error.headers
    )


def _failed(encoded: Encoded, tagger: Tagger, **empty: object) -> Row:
    return {**_size(encoded, tagger), **empty}


def _size(encoded: Encoded, tagger: Tagger) -> Row:
    """The row of a photo without results: its size, or why it could not be read."""
    error = encoded.error and asdict(encoded.error)
    return {"width": encoded.width, "height": encoded.height, "model": tagger.card.name, "error": error}


def _match(match: Match, photos: Sequence[Photo]) -> Row:
    number = int(match.path)
    return {"photo": number, "name": photos[number].name, "score": match.score}


def _row(found: TagResult, parent_names: dict[str, list[str]], *, heat: bool) -> Row:
    """The row of `anytag tag --format jsonl` without the path, with parents' names and heat maps."""
    row = found.to_dict()
    del row["path"]
    row["tags"] = [_tag(one, parent_names, heat=heat) for one in found.tags]
    return row


def _tag(one: TagScore, parent_names: dict[str, list[str]], *, heat: bool) -> Row:
    row: Row = one.to_dict()
    if one.id in parent_names:
        row["parents"] = parent_names[one.id]
    if heat and one.heat is not None:
        row["heat"] = [[round(value, 3) for value in line] for line in one.heat.tolist()]
    return row
