"""ASGI middleware that refuses requests before routing and parsing.

It checks in this order: the Host header (DNS rebinding), the Origin header (scripts of other sites), the key,
the capacity of the server (429), the length (413) and the speed (408) of the body. The body of a refused
request is discarded: a short one is read to its end, so that the client can reuse the connection; for a long
one the connection is closed.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import logging
import os
import time
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anytag.server.capacity import BodyTimeouts, Capacity, Reservation
from anytag.server.metrics import Metrics
from anytag.server.refusals import Refusal
from anytag.server.settings import Settings

_PUBLIC_PATHS = frozenset({"/livez", "/readyz"})
"""Health checks, which need no key."""
_PAGE = ("/", "/page/")
"""Files of the page, which need no key: the page asks the user for it."""
RESERVATION = "anytag.reservation"
"""Key of the request's `Reservation` in its ASGI scope."""
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_METHODS = _SAFE_METHODS | {"POST", "PUT", "PATCH", "DELETE"}
_SECURITY_HEADERS = [
    (b"content-security-policy", b"default-src 'self'; img-src 'self' blob:; object-src 'none'; "
     b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]  # fmt: skip
_STOPPING = "the server stopped before it could finish this request: send it again"
_INTERNAL_ERROR = "internal error while handling this request: see the server's log"


def _key(authorization: str) -> bytes:
    """The key in an Authorization header: a bearer token, or a basic password, as Label Studio sends it."""
    scheme, _, given = authorization.partition(" ")
    sent = given.strip().encode("latin-1")  # the bytes as received
    if scheme.lower() == "bearer":
        return sent
    try:
        return base64.b64decode(sent, validate=True).partition(b":")[2] if scheme.lower() == "basic" else b""
    except ValueError:
        return b""


class Admission:
    """Middleware that admits or refuses requests.

    Args:
        app: the application behind it.
        settings, metrics: of the server.
        timeouts: for bodies.
    """

    def __init__(self, app: ASGIApp, *, settings: Settings, metrics: Metrics, timeouts: BodyTimeouts) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics
        self._capacity = Capacity(settings=settings, metrics=metrics, timeouts=timeouts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request as an ASGI application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        status = 0
        method = scope["method"] if scope["method"] in _METHODS else "other"
        scope = {**scope, "method": "GET"} if method == "HEAD" else scope  # uvicorn leaves the body out

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *_SECURITY_HEADERS]
            await send(message)

        try:
            await self._admit(scope, receive, send_with_headers)
        except Refusal as refusal:
            self._metrics.refused.labels(refusal.reason).inc()
            await refusal.response(scope)(scope, receive, send_with_headers)
        except asyncio.CancelledError:  # by uvicorn, some time after the stop signal
            if status:
                raise
            await Refusal(503, "stopping", _STOPPING).response(scope)(scope, receive, send_with_headers)
        except Exception:
            logging.getLogger("uvicorn.error").exception(
                "internal error while handling a request: please report it as a bug of anytag"
            )
            if status:  # the response has begun: closing the connection is the only way to report the error
                raise
            await Refusal(500, "internal", _INTERNAL_ERROR).response(scope)(scope, receive, send_with_headers)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self._metrics.requests.labels(route, method, str(status)).inc()
            self._metrics.request_seconds.labels(route).observe(time.perf_counter() - start)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        self._check_host(headers)
        self._check_origin(headers)
        self._check_key(scope["path"], headers)
        if scope["method"] in _SAFE_METHODS:
            await self._app(scope, receive, send)
            return
        reservation = scope[RESERVATION] = self._capacity.enter(self._size(headers))
        try:
            await self._app(scope, _counted(receive, reservation), send)
        finally:
            self._capacity.leave(reservation)

    def _check_host(self, headers: Headers) -> None:
        host = ",".join(headers.getlist("host"))  # several match no allowed name
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if self._settings.key is None and name.lower() not in self._settings.allowed_hosts:
            raise Refusal(
                421, "host", "this host name is not allowed: start the server with --allow-host NAME"
            )

    def _check_origin(self, headers: Headers) -> None:
        host = headers.get("host", "").lower()
        if any(_netloc(origin) != host for origin in headers.getlist("origin")):
            raise Refusal(403, "origin", "requests from pages of other sites are not allowed")

    def _check_key(self, path: str, headers: Headers) -> None:
        key = self._settings.key
        if key is None or path in _PUBLIC_PATHS or path == _PAGE[0] or path.startswith(_PAGE[1]):
            return
        given = _key(headers.get("authorization", ""))
        if not hmac.compare_digest(given, os.fsencode(key)):
            raise Refusal(401, "key", "send the server's key as 'Authorization: Bearer KEY'")

    def _size(self, headers: Headers) -> int:
        """Content-Length in bytes; the maximum where the header is missing."""
        most, given = self._settings.max_body, headers.get("content-length")
        return int(given) if given is not None and given.isdigit() else most


def _counted(receive: Receive, reservation: Reservation) -> Receive:
    """Wrap `receive` to apply limits to the body; at its end the request counts as working."""
    is_whole = False

    async def counted() -> Message:
        nonlocal is_whole
        if is_whole:
            return await receive()  # waits for the disconnect
        async with reservation.receiving():
            message = await receive()
        reservation.grow(len(message.get("body", b"")))
        is_whole = not message.get("more_body", False)
        if is_whole:
            reservation.begin()
        return message

    return counted


def _netloc(origin: str) -> str:
    """Host and port of an Origin header; "" if it is not a valid URL."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""
