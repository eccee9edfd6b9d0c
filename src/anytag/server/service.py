"""The model and what runs it: what every route asks."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Annotated, TypeVar

from fastapi import Depends, Request
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from anytag.captioner import Captioner
from anytag.models.folder import ModelFolder
from anytag.models.registry import resolve
from anytag.server.batcher import Batcher
from anytag.server.metrics import Metrics
from anytag.server.photos import Photos
from anytag.server.settings import Settings
from anytag.server.suggestions import Suggestions
from anytag.tagger import Encoded, Tagger

R = TypeVar("R")

_ERRORS = {
    400: "A broken form",
    401: "A missing or wrong key",
    403: "A page of another site",
    408: "The body came too slowly",
    413: "The body is too long",
    415: "Another content type",
    422: "Wrong options, or the only photo cannot be read",
    429: "Too much work at once: see Retry-After",
}


def errors(body: type[BaseModel]) -> dict[int | str, dict[str, object]]:
    """What a route that takes photos answers besides success, for OpenAPI."""
    return {status: {"model": body, "description": text} for status, text in _ERRORS.items()}


class Service:
    """The model and what runs it, for as long as the server lives."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        name, device, max_pixels = settings.model, settings.device, settings.max_pixels
        self.captioner: Captioner | None = None
        if ModelFolder.open(resolve(name)).card.captions:
            self.captioner = Captioner.load(name, device=device, max_pixels=max_pixels)
            self.tagger = self.captioner.tagger
        else:
            self.tagger = Tagger.load(name, device=device, max_pixels=max_pixels)
        self.broader = _broader(self.tagger)
        self.photos: Photos | None = None
        if settings.has_library:
            self.photos = Photos(settings.library, model=name, max_pixels=max_pixels)
        workers = settings.workers or len(os.sched_getaffinity(0))
        self.batcher = Batcher(self.tagger, workers=workers, batch_size=settings.batch_size, metrics=metrics)

    async def answers(
        self, request: Request, images: Sequence[bytes], finish: Callable[[Encoded], R]
    ) -> list[R]:
        """What `finish` makes of each encoded image; what has not begun is dropped when the client goes.

        Raises:
            ClientDisconnect: the client went away.
        """
        futures = [self.batcher.submit(image, finish) for image in images]
        work = asyncio.gather(*map(asyncio.wrap_future, futures))
        gone = asyncio.ensure_future(_gone(request))
        gone.add_done_callback(lambda _: work.cancel())
        try:
            return await work
        except asyncio.CancelledError:
            raise ClientDisconnect from None
        finally:
            gone.cancel()
            for future in futures:
                future.cancel()

    @cached_property
    def suggestions(self) -> Suggestions:
        """Type-ahead; read when the first letter is typed."""
        return Suggestions(self.tagger.vocabulary)

    def close(self) -> None:
        """Waits until what is queued is done."""
        self.batcher.close()
        if self.photos is not None:
            self.photos.close()


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Serving = Annotated[Service, Depends(_service)]


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _broader(tagger: Tagger) -> dict[str, list[str]]:
    """Id -> names of the tags directly above it."""
    names = {tag.id: tag.name for tag in tagger.vocabulary}
    return {
        tag.id: [names[parent] for parent in tag.parents if parent in names]
        for tag in tagger.vocabulary
        if tag.parents
    }
