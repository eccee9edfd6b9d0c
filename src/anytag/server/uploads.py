"""Parse the photos and options of a request: one photo as the body, or several in a form.

Everything stays in memory, which `limits` bounds; nothing is written to disk.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, Sequence
from typing import NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, ImmutableMultiDict, UploadFile
from starlette.formparsers import FormParser, MultiPartException, MultiPartParser
from starlette.requests import Request

from anytag.errors import brief, escaped
from anytag.results import Failure
from anytag.server.capacity import Reservation
from anytag.server.disconnect import cancel_on_disconnect
from anytag.server.fetch import Fetcher
from anytag.server.limits import RESERVATION
from anytag.server.refusals import Refusal

Opt = TypeVar("Opt", bound=BaseModel)

_MULTIPART = "multipart/form-data"
_URL_ENCODED = "application/x-www-form-urlencoded"
_URLS = "urls"
_BINARY = {"type": "string", "format": "binary"}


def openapi_of(options: type[BaseModel]) -> dict[str, object]:
    """The OpenAPI description of a request with photos: options are query parameters or form fields."""
    schema = options.model_json_schema()
    fields, required = schema["properties"], schema.get("required", [])
    files = {"type": "array", "items": _BINARY}
    urls = {
        "type": "array",
        "items": {"type": "string"},
        "description": "URLs of photos, if the server runs with --fetch-urls.",
    }
    linked = {"type": "object", "required": required, "properties": {_URLS: urls, **fields}}
    form = {**linked, "properties": {"files": files, _URLS: urls, **fields}}
    content = {
        "image/*": _BINARY,
        "application/octet-stream": _BINARY,
        _MULTIPART: form,
        _URL_ENCODED: linked,
    }
    return {
        "parameters": [
            {
                "name": name,
                "in": "query",
                "required": False,  # a form has its options in its fields
                "schema": field,
                "description": field.get("description", ""),
            }
            for name, field in fields.items()
        ],
        "requestBody": {
            "required": True,
            "description": "One photo as the body, or several as `files` (or `urls`) of a form.",
            "content": {kind: {"schema": schema} for kind, schema in content.items()},
        },
    }


class Photo(NamedTuple):
    """The content of an image file, or why it is missing, and the name that the client sent (not a path)."""

    data: bytes | Failure
    name: str | None


class _InMemory(MultiPartParser):
    spool_max_size = 1 << 62
    is_whole = False

    def on_end(self) -> None:
        self.is_whole = True

    async def parse(self) -> FormData:
        self.stream = self._to_its_end(self.stream)
        return await super().parse()

    async def _to_its_end(self, stream: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        async for part in stream:
            yield part
        if not self.is_whole:
            raise MultiPartException("its last boundary is missing, so photos may be, too")


async def read_upload(
    request: Request, options: type[Opt], *, max_files: int, fetcher: Fetcher | None
) -> tuple[list[Photo], Opt]:
    """Read the photos and options of a request.

    Args:
        request: with photos or their URLs.
        options: the model that validates the options.
        max_files: maximum number of photos.
        fetcher: fetches URLs; None refuses them.

    Raises:
        Refusal: 400 for a malformed form or too many photos, 415 for an unsupported content type, 422 for
            invalid options or no photo.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    fields: ImmutableMultiDict[str, str]
    if kind in (_MULTIPART, _URL_ENCODED):
        if request.query_params:
            name = brief(next(iter(request.query_params)))
            raise Refusal(422, "options", f"{name} is in the query: send it as a field of the form")
        photos, fields = await _read_form(request, kind, max_files)
    elif kind.startswith("image/") or kind == "application/octet-stream":
        photos, fields = [Photo(await request.body(), None)], request.query_params
    else:
        raise Refusal(
            415, "type", f"got the content type {kind[:80]!r}: send a photo as image/jpeg (or another image "
            "type), or photos as `files` of multipart/form-data",
        )  # fmt: skip
    urls = fields.getlist(_URLS)
    rest = ImmutableMultiDict([(name, text) for name, text in fields.multi_items() if name != _URLS])
    given_options = _options(options, rest, is_curl_default=kind == _URL_ENCODED)
    if len(photos) + len(urls) > max_files:
        raise Refusal(400, "form", f"a request takes {max_files} photos at most")
    if urls:
        photos = [*photos, *await _fetched(request, urls, fetcher)]
    if not any(photo.data or photo.name for photo in photos):
        raise Refusal(422, "empty", "no photo was sent")
    return photos, given_options


async def _fetched(request: Request, urls: Sequence[str], fetcher: Fetcher | None) -> list[Photo]:
    if fetcher is None:
        raise Refusal(
            422,
            "url",
            "this server does not fetch URLs: send the photo, or start the server with --fetch-urls",
        )
    reservation: Reservation = request.scope[RESERVATION]
    async with reservation.fetching():
        found = await cancel_on_disconnect(request, asyncio.ensure_future(fetcher.photos(urls, reservation)))
    return [Photo(data, escaped(url)) for data, url in zip(found, urls, strict=True)]


async def _read_form(
    request: Request, kind: str, max_files: int
) -> tuple[list[Photo], ImmutableMultiDict[str, str]]:
    _, params = parse_options_header(request.headers["content-type"])
    if params.get(b"charset", b"utf-8").lower() not in (b"utf-8", b"utf8"):
        raise Refusal(415, "type", "forms must be UTF-8: leave the charset out of the content type")
    parser: MultiPartParser | FormParser = FormParser(request.headers, request.stream())
    if kind == _MULTIPART:
        parser = _InMemory(request.headers, request.stream(), max_files=max_files, max_fields=2100)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Refusal(400, "form", f"the form cannot be read: {error.message}") from error
    photos, fields = [], []
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            with value.file:
                photos.append(Photo(value.file.read(), escaped(value.filename or "")))
        elif name == "files":
            raise Refusal(
                422, "options", "files: a photo lacks its file name, as in curl -F files=@photo.jpg"
            )
        else:
            fields.append((name, value))
    return photos, ImmutableMultiDict(fields)


def _options(
    options: type[Opt], fields: ImmutableMultiDict[str, str], *, is_curl_default: bool = False
) -> Opt:
    """Validate options from a query or form; those that are lists may be repeated.

    Args:
        is_curl_default: the content type is what curl calls any body; perhaps the body is a photo.
    """
    given: dict[str, object] = {}
    for name in fields:
        field, values = options.model_fields.get(name), fields.getlist(name)
        if field is None:
            hint = "; send a photo with the content type image/jpeg" if is_curl_default else ""
            known = ", ".join(options.model_fields)
            raise Refusal(422, "options", f"{brief(name)} is unknown, expected {known}{hint}")
        is_list = "list" in str(field.annotation)
        if len(values) > 1 and not is_list:
            raise Refusal(422, "options", f"{name} was given {len(values)} times: give it once")
        given[name] = values if is_list else values[0]
    try:
        return options.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise Refusal(422, "options", f"{place}: {first['msg']}") from error


def from_data_url(text: str) -> bytes:
    """Decode a data URL or plain base64.

    Raises:
        Refusal: 422 for any other URL, which is not fetched, and for invalid base64.
    """
    head, comma, data = text.rpartition(",")
    if (comma and not (head.startswith("data:") and head.endswith(";base64"))) or "://" in text[:100]:
        raise Refusal(
            422, "url", f"got {text[:60]!r}: expected data:image/jpeg;base64,...; URLs are not fetched here"
        )
    try:
        return base64.b64decode(data, validate=True)
    except ValueError:
        raise Refusal(422, "base64", f"got {text[:60]!r}: expected a photo in base64") from None
