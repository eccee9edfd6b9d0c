"""The loaded model and its workers, shared by all routes."""

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
from anytag.server.batcher import Batcher, lower_priority
from anytag.server.disconnect import cancel_on_disconnect
from anytag.server.fetch import Fetcher
from anytag.server.matches import Matching
from anytag.server.metrics import Metrics
from anytag.server.photos import Photos
from anytag.server.settings import Settings
from anytag.server.suggestions import Suggestions
from anytag.tagger import Encoded, Tagger

R = TypeVar("R")

_ERRORS = {
    400: "Malformed form",
    401: "Missing or wrong key",
    403: "Request from a page of another site",
    408: "The body arrived too slowly",
    413: "The body is too long",
    415: "Unsupported content type",
    422: "Invalid options, or the only photo cannot be read",
    429: "Too many requests: see Retry-After",
}


def errors(body: type[BaseModel]) -> dict[int | str, dict[str, object]]:
    """The OpenAPI error responses of routes that take photos."""
    return {status: {"model": body, "description": text} for status, text in _ERRORS.items()}


class Service:
    """The model and its worker threads, for the lifetime of the server."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        name, device, max_pixels = settings.model, settings.device, settings.max_pixels
        self.captioner: Captioner | None = None
        self._folder = ModelFolder.open(resolve(name))
        if self._folder.card.captions:
            self.captioner = Captioner.load(name, device=device, max_pixels=max_pixels)
            self.tagger = self.captioner.tagger
        else:
            self.tagger = Tagger.load(name, device=device, max_pixels=max_pixels)
        self.parent_names = _parent_names(self.tagger)
        self.fetcher = Fetcher(seconds=settings.fetch_seconds) if settings.fetch_urls else None
        self.photos: Photos | None = None
        if settings.has_library:
            self.photos = Photos(settings.library, model=name, max_pixels=max_pixels)
        workers = settings.workers or len(os.sched_getaffinity(0))
        self._batch_size = settings.batch_size
        self.batcher = Batcher(self.tagger, workers=workers, batch_size=self._batch_size, metrics=metrics)
        self._executor = ThreadPoolExecutor(2 * workers, "anytag request", lower_priority)

    @cached_property
    def matching(self) -> Matching:
        """Ranks photos for texts; created at first use, since alignment heads are large.

        Raises:
            AnytagError: the model cannot match; see `Matching`.
        """
        return Matching(self._folder, self.tagger, self.batcher, batch_size=self._batch_size)

    async def map_encoded(
        self, request: Request, images: Sequence[bytes | Failure], finish: Callable[[Encoded], R]
    ) -> list[R]:
        """Encode images in the batcher and apply `finish` to each; a disconnect skips the rest of them.

        Raises:
            ClientDisconnect: the client disconnected.
        """
        stop = Event()
        futures = [self.batcher.submit(image, finish, stop=stop) for image in images]
        try:
            return await cancel_on_disconnect(request, asyncio.gather(*map(asyncio.wrap_future, futures)))
        finally:
            stop.set()
            for future in futures:
                future.cancel()

    async def in_thread(self, request: Request, work: Callable[[Event], R]) -> R:
        """Run `work` in a thread; its event is set when the client disconnects.

        Raises:
            ClientDisconnect: the client disconnected.
        """
        stop = Event()
        try:
            return await cancel_on_disconnect(request, asyncio.wrap_future(self._executor.submit(work, stop)))
        finally:
            stop.set()

    @cached_property
    def suggestions(self) -> Suggestions:
        """Type-ahead suggestions; built at first use."""
        return Suggestions(self.tagger.vocabulary)

    def close(self) -> None:
        """Finish queued work, then stop the threads."""
        self._executor.shutdown()
        self.batcher.close()
        if self.photos is not None:
            self.photos.close()


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Serving = Annotated[Service, Depends(_service)]


def _parent_names(tagger: Tagger) -> dict[str, list[str]]:
    """Map each tag id to the names of its direct parents."""
    names = {tag.id: tag.name for tag in tagger.vocabulary}
    return {
        tag.id: [names[parent] for parent in tag.parents if parent in names]
        for tag in tagger.vocabulary
        if tag.parents
    }
