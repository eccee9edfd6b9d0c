"""What is refused before it costs anything: pure ASGI, outside of routing and parsing.

In this order: a Host that is not ours (DNS rebinding), an Origin that is not ours (another site's script),
a missing or wrong key, more than the server takes at a time (429), a body that is too long (413) or too slow
(408). A body that is refused is not kept: a short one is dropped as it comes, so that the client need not
connect again; for a long one the connection is closed.
"""

from __future__ import annotations

import base64
import hmac
import logging
import os
import time
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anytag.server.metrics import Metrics
from anytag.server.refusals import Refusal
from anytag.server.room import Claim, Patience, Room
from anytag.server.settings import Settings

_OPEN = frozenset({"/livez", "/readyz"})
"""Routes that a load balancer asks without a key."""
_PAGE = ("/", "/page/")
"""The page's own files: the page asks for the key."""
CLAIM = "anytag.claim"
"""Where the scope of a request holds its `Claim`."""
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_METHODS = _READING | {"POST", "PUT", "PATCH", "DELETE"}
_HEADERS = [
    (b"content-security-policy", b"default-src 'self'; img-src 'self' blob:; object-src 'none'; "
     b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]  # fmt: skip
_FAULT = "the server failed at this request, and its log says how; others are served"


def _key(authorization: str) -> bytes:
    """The key that a client sends; Label Studio can send it as a password only, with any name."""
    scheme, _, given = authorization.partition(" ")
    sent = given.strip().encode("latin-1")  # bytes of any kind, as they came
    if scheme.lower() == "bearer":
        return sent
    try:
        return base64.b64decode(sent, validate=True).partition(b":")[2] if scheme.lower() == "basic" else b""
    except ValueError:
        return b""


class Admission:
    """Middleware that lets a request in, or refuses it.

    Args:
        app: what requests are let in to.
        settings, metrics: of the server.
        patience: with bodies.
    """

    def __init__(self, app: ASGIApp, *, settings: Settings, metrics: Metrics, patience: Patience) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics
        self._room = Room(settings=settings, metrics=metrics, patience=patience)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        status = 0
        method = scope["method"] if scope["method"] in _METHODS else "other"
        scope = {**scope, "method": "GET"} if method == "HEAD" else scope  # uvicorn leaves the body out

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        try:
            await self._let_in(scope, receive, watched)
        except Refusal as refusal:
            self._metrics.refused.labels(refusal.reason).inc()
            await refusal.response(scope)(scope, receive, watched)
        except Exception:
            logging.getLogger("uvicorn.error").exception(
                "an answer failed: a fault of anytag, please report it"
            )
            if status:  # a part of an answer is out: only its end can tell
                raise
            await Refusal(500, "internal", _FAULT).response(scope)(scope, receive, watched)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self._metrics.requests.labels(route, method, str(status)).inc()
            self._metrics.request_seconds.labels(route).observe(time.perf_counter() - start)

    async def _let_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        self._check_host(headers)
        self._check_origin(headers)
        self._check_key(scope["path"], headers)
        if scope["method"] in _READING:
            await self._app(scope, receive, send)
            return
        claim = scope[CLAIM] = self._room.enter(self._size(headers))
        try:
            await self._app(scope, _counted(receive, claim), send)
        finally:
            self._room.leave(claim)

    def _check_host(self, headers: Headers) -> None:
        host = ",".join(headers.getlist("host"))  # several are none
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if self._settings.key is None and name.lower() not in self._settings.allowed_hosts:
            raise Refusal(
                421, "host", "this server is not known under that name: start it with --allow-host NAME"
            )

    def _check_origin(self, headers: Headers) -> None:
        host = headers.get("host", "").lower()
        if any(_netloc(origin) != host for origin in headers.getlist("origin")):
            raise Refusal(403, "origin", "pages of other sites may not use this server")

    def _check_key(self, path: str, headers: Headers) -> None:
        key = self._settings.key
        if key is None or path in _OPEN or path == _PAGE[0] or path.startswith(_PAGE[1]):
            return
        given = _key(headers.get("authorization", ""))
        if not hmac.compare_digest(given, os.fsencode(key)):
            raise Refusal(401, "key", "send the server's key as 'Authorization: Bearer KEY'")

    def _size(self, headers: Headers) -> int:
        """Bytes of the body; the most that may come, where it does not say."""
        most, given = self._settings.max_body, headers.get("content-length")
        return int(given) if given is not None and given.isdigit() else most


def _counted(receive: Receive, claim: Claim) -> Receive:
    """`receive` that counts the body's bytes and seconds; at its end the work begins."""
    is_whole = False

    async def counted() -> Message:
        nonlocal is_whole
        if is_whole:
            return await receive()  # waits for the client to go
        async with claim.receiving():
            message = await receive()
        claim.grow(len(message.get("body", b"")))
        is_whole = not message.get("more_body", False)
        if is_whole:
            claim.begin()
        return message

    return counted


def _netloc(origin: str) -> str:
    """Host and port of an Origin header; "" for what is no address."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""
