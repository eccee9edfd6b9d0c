"""Routes of a library: what is in it, thumbnails, search, and what the user says of tags."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Annotated, TypeVar

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response

from anytag.errors import LibraryError, escaped
from anytag.images import load
from anytag.images.thumbnail import thumbnail as small
from anytag.library import keywords, thumbnails
from anytag.library.filters import Filters
from anytag.library.library import Library, embedded_vocabulary
from anytag.library.photo import Photo
from anytag.library.roots import holds_photos, is_synced
from anytag.library.search import Searcher
from anytag.metadata import Change
from anytag.metadata.exiftool import find as find_exiftool
from anytag.server import schemas
from anytag.server.clients import while_there
from anytag.vocabulary import Vocabulary

R = TypeVar("R")
Row = dict[str, object]
Order = schemas.Order
Known = Annotated[str | None, Header()]

PREVIEW = 1600
"""Pixels of the longer side."""
_CACHE = "private, no-cache"  # a file under the same id can change; nobody else's cache may keep it


class Photos:
    """A library that one thread reads and writes, and whose pictures others decode.

    Args:
        path: the database, None for the user's own.
        model: that it was synced with, as for `Tagger.load`.
        max_pixels: of a photo as it is decoded.
    """

    def __init__(self, path: Path | None, *, model: str | None, max_pixels: int) -> None:
        self.library = Library.open(path)
        self._searcher = Searcher(self.library, model)
        self._max_pixels = max_pixels
        self._one = ThreadPoolExecutor(1, "library")
        self._writer = ThreadPoolExecutor(1, "sidecars")
        self._decoders = ThreadPoolExecutor(len(os.sched_getaffinity(0)), "thumbnails")
        self._thumbnails = thumbnails.Thumbnails(self.library.database.path)

    async def ask(self, question: Callable[[Library], R]) -> R:
        """The answer of the library's own thread: SQLite's connection is one, and so is its transaction."""
        return await asyncio.get_running_loop().run_in_executor(self._one, question, self.library)

    def close(self) -> None:
        """Ends the threads, when their work is done, and closes the database."""
        self._writer.shutdown()
        self._decoders.shutdown()
        self._one.submit(self.library.close)
        self._one.shutdown()

    async def status(self) -> Row:
        """What is in the library, counted on a connection of its own, which no picture waits for."""

        def count() -> Row:
            with Library.open(self.library.database.path) as library:
                return _status(library)

        return await asyncio.to_thread(count)

    async def search(self, wanted: schemas.Search) -> Row:
        """Ids of photos, best first; of a sentence that fits none, of the nearest."""
        return await self.ask(lambda library: self._search(library, wanted))

    def _search(self, library: Library, wanted: schemas.Search) -> Row:
        filters = Filters(
            tuple(wanted.tag), tuple(wanted.exclude), wanted.folder, wanted.after, wanted.before
        )
        _check_place(library, wanted.folder)
        filters.check(library.database, self._searcher.tag_id)
        if wanted.text is None and wanted.like is None:
            ids = self._searcher.ids(filters, order=wanted.order)
            return {"total": len(ids), "ids": ids, "scores": None, "fits": True}
        like = None if wanted.like is None else library.find(wanted.like).path
        found = self._searcher.search(wanted.text, filters=filters, like=like, top_k=wanted.top_k)
        hits = found.hits or found.nearest
        return {
            "total": len(hits),
            "ids": [hit.photo.id for hit in hits],
            "scores": [hit.score for hit in hits],
            "fits": bool(found.hits),
        }

    async def write(self, wanted: schemas.Write) -> list[Row]:
        """Writes sidecars, or shows what that would change, a row a photo.

        Raises:
            LibraryError: a photo is not in the library.
            MissingToolError: exiftool is not installed.
        """
        ids = dict.fromkeys(wanted.photos)
        photos = await self.ask(lambda library: [library.find(one) for one in ids])

        def work() -> list[Row]:
            find_exiftool()
            known = self._vocabulary
            return [_changed(photo, keywords.write(photo, known, dry_run=wanted.dry_run)) for photo in photos]

        return await asyncio.get_running_loop().run_in_executor(self._writer, work)

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return embedded_vocabulary()

    async def picture(self, number: int, side: int, request: Request, known: str | None) -> Response:
        """A photo, upright, with at most `side` pixels a side; not made where the client has gone.

        Args:
            number: its id.
            side: pixels.
            request: of the client.
            known: its If-None-Match: a client that has the picture gets none.

        Raises:
            ClientDisconnect: the client went away.
            LibraryError: it is not in the library.
            ImageError: it cannot be read.
        """
        path, key = await self.ask(lambda library: _place(library, number))
        headers = {"cache-control": _CACHE, "etag": f'"{key}-{side}"'}
        if known == headers["etag"]:
            return Response(status_code=304, headers=headers)
        decoding = self._decoders.submit(self._picture, path, key, side)
        data = await while_there(request, asyncio.wrap_future(decoding))
        return Response(data, media_type="image/jpeg", headers=headers)

    def _picture(self, path: str, key: str, side: int) -> bytes:
        kept = self._thumbnails.read(key) if side == thumbnails.SIDE else None
        if kept is not None:
            return kept
        # the shorter side at three quarters at least, which is the longer one whole of most photos
        made = small(load(path, min_side=side * 3 // 4, max_pixels=self._max_pixels), side)
        if side == thumbnails.SIDE:
            self._thumbnails.keep(key, made)
        return made


def _check_place(library: Library, folder: str | None) -> None:
    """Raises LibraryError for a folder outside of the library; whether the disk has it is not told."""
    known = library.database
    if folder is not None and not (holds_photos(known, folder) or is_synced(known, folder)):
        raise LibraryError(f"the folder {folder} is not in the library: /v1/library names its folders")


def _place(library: Library, number: int) -> tuple[str, str]:
    """The path of a photo, and what its thumbnail is known by: another picture has another."""
    photo = library.find(number)
    (facts,) = library.database.query("SELECT picture, size, mtime_ns FROM photos WHERE id = ?", (number,))
    return photo.path, thumbnails.key(*facts)


def router(photos: Photos) -> APIRouter:
    """The routes of a library."""
    routes = APIRouter(tags=["library"])

    @routes.get("/v1/search", response_model=schemas.Found)
    async def search(wanted: Annotated[schemas.Search, Query()]) -> Row:
        """Photos for a sentence, like a photo, or by filters alone."""
        return await photos.search(wanted)

    @routes.get("/v1/photos", response_model=schemas.LibraryPhotos)
    async def some(id: Annotated[list[int], Query(max_length=500)]) -> Row:
        """Photos by their ids, in this order; those that are not there are left out."""
        return {"photos": await photos.ask(lambda library: [_row(one) for one in library.get(id)])}

    @routes.get("/v1/photos/{number}/thumbnail", response_class=Response)
    async def thumbnail(number: int, request: Request, if_none_match: Known = None) -> Response:
        """At most 320 pixels a side, upright."""
        return await photos.picture(number, thumbnails.SIDE, request, if_none_match)

    @routes.get("/v1/photos/{number}/preview", response_class=Response)
    async def preview(number: int, request: Request, if_none_match: Known = None) -> Response:
        """At most 1,600 pixels a side, upright."""
        return await photos.picture(number, PREVIEW, request, if_none_match)

    @routes.post("/v1/decisions", response_model=schemas.LibraryPhotos)
    async def decide(said: schemas.Decisions) -> Row:
        """Says of a tag that photos have it or have it not; it is in the database when this answers."""

        def write(library: Library) -> list[Row]:
            library.decide(said.photos, [said.tag], said.kind)
            return [_row(one) for one in library.get(dict.fromkeys(said.photos))]

        return {"photos": await photos.ask(write)}

    @routes.post("/v1/decisions/undo", response_model=schemas.LibraryPhotos)
    async def undo() -> Row:
        """Takes the last decision back, of as many photos as it was of; none where nothing is left."""
        return {"photos": await photos.ask(lambda library: [_row(one) for one in library.undo()])}

    @routes.post("/v1/library/write", response_model=schemas.Changes)
    async def write(wanted: schemas.Write) -> Row:
        """Writes what the library says of photos into XMP sidecars, as `anytag library write` does."""
        return {"changes": await photos.write(wanted)}

    @routes.get("/v1/library", response_model=schemas.LibraryStatus)
    async def status() -> Row:
        """What is in the library, counted."""
        return await photos.status()

    return routes


def _status(library: Library) -> Row:
    status = library.status()
    states: dict[str, int] = {}
    for folder in status.folders:
        for state, count in folder.states.items():
            states[state] = states.get(state, 0) + count
    return {
        "folders": [escaped(folder.path) for folder in status.folders],
        "photos": states,
        "decisions": status.decisions,
    }


def _row(photo: Photo) -> Row:
    """What the page shows of a photo."""
    people = {**dict.fromkeys(photo.accepted, "accepted"), **dict.fromkeys(photo.added, "added")}
    scores = {tag.name: tag.score for tag in photo.scores}
    tags = [
        {"name": name, "score": scores.get(name), "decision": people.get(name)}
        for name in dict.fromkeys((*photo.tags, *photo.added, *photo.accepted))
    ]
    tags += [{"name": name, "score": None, "decision": "rejected"} for name in photo.rejected]
    return {
        "id": photo.id,
        "name": Path(photo.name).name,
        "path": escaped(photo.path),
        "state": photo.state,
        "width": photo.width,
        "height": photo.height,
        "taken": photo.taken,
        "caption": photo.caption,
        "tags": tags,
        "keywords": [path.replace("|", " > ") for path in photo.keywords],
        "error": photo.error and photo.error.message,
    }


def _changed(photo: Photo, change: Change) -> Row:
    error = change.error and {"type": change.error.type, "message": escaped(change.error.message)}
    return {
        "id": photo.id,
        "name": Path(photo.name).name,
        "files": [escaped(file) for file in change.files],
        "added": change.added,
        "removed": change.removed,
        "note": change.note and escaped(change.note),
        "error": error,
    }
