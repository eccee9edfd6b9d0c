"""Routes of a library: its photos, thumbnails, search, decisions about tags, and sidecars."""

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
from anytag.images.thumbnail import thumbnail as make_thumbnail
from anytag.library import keywords, thumbnails
from anytag.library.filters import Filters
from anytag.library.library import Library, embedded_vocabulary
from anytag.library.photo import Photo
from anytag.library.roots import holds_photos, is_synced
from anytag.library.search import Searcher
from anytag.metadata import Change
from anytag.metadata.exiftool import find as find_exiftool
from anytag.server import schemas
from anytag.server.disconnect import cancel_on_disconnect
from anytag.vocabulary import Vocabulary

R = TypeVar("R")
Row = dict[str, object]
Order = schemas.Order
IfNoneMatch = Annotated[str | None, Header()]

PREVIEW = 1600
"""Longer side of a preview in pixels."""
_CACHE = "private, no-cache"  # the file of an id can change, and shared caches must not store it


class Photos:
    """A library served by one database thread, one thread that writes sidecars, and threads that decode.

    Args:
        path: the database; None for the user's default library.
        model: the model that the library was synced with, as for `Tagger.load`.
        max_pixels: maximum pixels of a decoded photo.
    """

    def __init__(self, path: Path | None, *, model: str | None, max_pixels: int) -> None:
        self.library = Library.open(path)
        self._searcher = Searcher(self.library, model)
        self._max_pixels = max_pixels
        self._library_executor = ThreadPoolExecutor(1, "library")
        self._write_executor = ThreadPoolExecutor(1, "sidecars")
        self._decode_executor = ThreadPoolExecutor(len(os.sched_getaffinity(0)), "thumbnails")
        self._thumbnails = thumbnails.Thumbnails(self.library.database.path)

    async def run(self, question: Callable[[Library], R]) -> R:
        """Run a function in the library's thread, which owns its only SQLite connection."""
        return await asyncio.get_running_loop().run_in_executor(
            self._library_executor, question, self.library
        )

    def close(self) -> None:
        """Finish running work, stop the threads and close the database."""
        self._write_executor.shutdown()
        self._decode_executor.shutdown()
        self._library_executor.submit(self.library.close)
        self._library_executor.shutdown()

    async def status(self) -> Row:
        """Count the library's content, on a separate connection so that thumbnails do not wait for it."""

        def count() -> Row:
            with Library.open(self.library.database.path) as library:
                return _status(library)

        return await asyncio.to_thread(count)

    async def search(self, query: schemas.Search) -> Row:
        """Ids of the photos that fit, best first; if none fits the text, of the nearest ones."""
        return await self.run(lambda library: self._search(library, query))

    def _search(self, library: Library, query: schemas.Search) -> Row:
        filters = Filters(tuple(query.tag), tuple(query.exclude), query.folder, query.after, query.before)
        _check_folder(library, query.folder)
        filters.check(library.database, self._searcher.tag_id)
        if query.text is None and query.like is None:
            ids = self._searcher.ids(filters, order=query.order)
            return {"total": len(ids), "ids": ids, "scores": None, "fits": True}
        like = None if query.like is None else library.find(query.like).path
        found = self._searcher.search(query.text, filters=filters, like=like, top_k=query.top_k)
        hits = found.hits or found.nearest
        return {
            "total": len(hits),
            "ids": [hit.photo.id for hit in hits],
            "scores": [hit.score for hit in hits],
            "fits": bool(found.hits),
        }

    async def write(self, payload: schemas.Write) -> list[Row]:
        """Write sidecars, or report what would change; one row per photo.

        Raises:
            LibraryError: a photo is not in the library.
            MissingToolError: exiftool is not installed.
        """
        ids = dict.fromkeys(payload.photos)
        photos = await self.run(lambda library: [library.find(one) for one in ids])

        def work() -> list[Row]:
            find_exiftool()
            vocabulary, dry_run = self._vocabulary, payload.dry_run
            return [
                _change_row(photo, keywords.write(photo, vocabulary, dry_run=dry_run)) for photo in photos
            ]

        return await asyncio.get_running_loop().run_in_executor(self._write_executor, work)

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return embedded_vocabulary()

    async def picture(self, number: int, side: int, request: Request, if_none_match: str | None) -> Response:
        """A photo as a JPEG, upright; not decoded if the client disconnects first.

        Args:
            number: id of the photo.
            side: maximum length of the longer side in pixels.
            request: of the client.
            if_none_match: its If-None-Match header; 304 if it has the current picture.

        Raises:
            ClientDisconnect: the client disconnected.
            LibraryError: the photo is not in the library.
            ImageError: it cannot be read.
        """
        path, key = await self.run(lambda library: _path_and_key(library, number))
        headers = {"cache-control": _CACHE, "etag": f'"{key}-{side}"'}
        if if_none_match == headers["etag"]:
            return Response(status_code=304, headers=headers)
        decoding = self._decode_executor.submit(self._picture, path, key, side)
        data = await cancel_on_disconnect(request, asyncio.wrap_future(decoding))
        return Response(data, media_type="image/jpeg", headers=headers)

    def _picture(self, path: str, key: str, side: int) -> bytes:
        kept = self._thumbnails.read(key) if side == thumbnails.SIDE else None
        if kept is not None:
            return kept
        # a shorter side of 3/4 gives most photos, of aspect ratio 4:3 or wider, the whole longer side
        made = make_thumbnail(load(path, min_side=side * 3 // 4, max_pixels=self._max_pixels), side)
        if side == thumbnails.SIDE:
            self._thumbnails.keep(key, made)
        return made


def _check_folder(library: Library, folder: str | None) -> None:
    """Raise LibraryError for a folder outside the library, without revealing whether it exists."""
    database = library.database
    if folder is not None and not (holds_photos(database, folder) or is_synced(database, folder)):
        raise LibraryError(f"the folder {folder} is not in the library: /v1/library lists its folders")


def _path_and_key(library: Library, number: int) -> tuple[str, str]:
    """The path of a photo and the key of its thumbnail, which changes with the picture."""
    photo = library.find(number)
    (facts,) = library.database.query("SELECT picture, size, mtime_ns FROM photos WHERE id = ?", (number,))
    return photo.path, thumbnails.key(*facts)


def router(photos: Photos) -> APIRouter:
    """The routes of a library."""
    routes = APIRouter(tags=["library"])

    @routes.get("/v1/search", response_model=schemas.Found)
    async def search(query: Annotated[schemas.Search, Query()]) -> Row:
        """Search by text, by similarity to a photo, or by filters alone."""
        return await photos.search(query)

    @routes.get("/v1/photos", response_model=schemas.LibraryPhotos)
    async def some(id: Annotated[list[int], Query(max_length=500)]) -> Row:
        """Get photos by id, in this order; unknown ids are left out."""
        return {"photos": await photos.run(lambda library: [_row(one) for one in library.get(id)])}

    @routes.get("/v1/photos/{number}/thumbnail", response_class=Response)
    async def thumbnail(number: int, request: Request, if_none_match: IfNoneMatch = None) -> Response:
        """The photo as an upright JPEG of at most 320 pixels on the longer side."""
        return await photos.picture(number, thumbnails.SIDE, request, if_none_match)

    @routes.get("/v1/photos/{number}/preview", response_class=Response)
    async def preview(number: int, request: Request, if_none_match: IfNoneMatch = None) -> Response:
        """The photo as an upright JPEG of at most 1,600 pixels on the longer side."""
        return await photos.picture(number, PREVIEW, request, if_none_match)

    @routes.post("/v1/decisions", response_model=schemas.LibraryPhotos)
    async def decide(payload: schemas.Decisions) -> Row:
        """Accept, reject or add a tag for photos; stored before the response is sent."""

        def write(library: Library) -> list[Row]:
            library.decide(payload.photos, [payload.tag], payload.kind)
            return [_row(one) for one in library.get(dict.fromkeys(payload.photos))]

        return {"photos": await photos.run(write)}

    @routes.post("/v1/decisions/undo", response_model=schemas.LibraryPhotos)
    async def undo() -> Row:
        """Undo the last decision, for all its photos; returns none if there is nothing to undo."""
        return {"photos": await photos.run(lambda library: [_row(one) for one in library.undo()])}

    @routes.post("/v1/library/write", response_model=schemas.Changes)
    async def write(payload: schemas.Write) -> Row:
        """Write the tags of photos into XMP sidecars, as `anytag library write` does."""
        return {"changes": await photos.write(payload)}

    @routes.get("/v1/library", response_model=schemas.LibraryStatus)
    async def status() -> Row:
        """The folders of the library and the number of photos and decisions."""
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
    """The row of a photo, as the page shows it."""
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


def _change_row(photo: Photo, change: Change) -> Row:
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
