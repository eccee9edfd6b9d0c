"""The model and what runs it: what every route asks."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from threading import Event
from typing import Annotated, TypeVar

from fastapi import Depends, Request
from pydantic import BaseModel

from anytag.captioner import Captioner
from anytag.models.folder import ModelFolder
from anytag.models.registry import resolve
from anytag.results import Failure
from anytag.server.batcher import Batcher, yield_to_loop
from anytag.server.clients import while_there
from anytag.server.fetch import Fetcher
from anytag.server.matches import Matching
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
        self._folder = ModelFolder.open(resolve(name))
        if self._folder.card.captions:
            self.captioner = Captioner.load(name, device=device, max_pixels=max_pixels)
            self.tagger = self.captioner.tagger
        else:
            self.tagger = Tagger.load(name, device=device, max_pixels=max_pixels)
        self.broader = _broader(self.tagger)
        self.fetcher = Fetcher(seconds=settings.fetch_seconds) if settings.fetch_urls else None
        self.photos: Photos | None = None
        if settings.has_library:
            self.photos = Photos(settings.library, model=name, max_pixels=max_pixels)
        workers = settings.workers or len(os.sched_getaffinity(0))
        self._batch_size = settings.batch_size
        self.batcher = Batcher(self.tagger, workers=workers, batch_size=self._batch_size, metrics=metrics)
        self._beside = ThreadPoolExecutor(2 * workers, "anytag request", yield_to_loop)

    @cached_property
    def matching(self) -> Matching:
        """Made when it is first asked for: alignment heads are large.

        Raises:
            AnytagError: the model does not match; see `Matching`.
        """
        return Matching(self._folder, self.tagger, self.batcher, batch_size=self._batch_size)

    async def answers(
        self, request: Request, images: Sequence[bytes | Failure], finish: Callable[[Encoded], R]
    ) -> list[R]:
        """What `finish` makes of each encoded image; what has not begun is dropped when the client goes.

        Raises:
            ClientDisconnect: the client went away.
        """
        futures = [self.batcher.submit(image, finish) for image in images]
        try:
            return await while_there(request, asyncio.gather(*map(asyncio.wrap_future, futures)))
        finally:
            for future in futures:
                future.cancel()

    async def beside(self, request: Request, work: Callable[[Event], R]) -> R:
        """What `work` gives, in a thread; it is told by the event when the client has gone.

        Raises:
            ClientDisconnect: the client went away.
        """
        stop = Event()
        try:
            return await while_there(request, asyncio.wrap_future(self._beside.submit(work, stop)))
        finally:
            stop.set()

    @cached_property
    def suggestions(self) -> Suggestions:
        """Type-ahead; read when the first letter is typed."""
        return Suggestions(self.tagger.vocabulary)

    def close(self) -> None:
        """Waits until what is queued is done."""
        self._beside.shutdown()
        self.batcher.close()
        if self.photos is not None:
            self.photos.close()


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Serving = Annotated[Service, Depends(_service)]


def _broader(tagger: Tagger) -> dict[str, list[str]]:
    """Id -> names of the tags directly above it."""
    names = {tag.id: tag.name for tag in tagger.vocabulary}
    return {
        tag.id: [names[parent] for parent in tag.parents if parent in names]
        for tag in tagger.vocabulary
        if tag.parents
    }
