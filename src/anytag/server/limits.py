"""What is refused before it costs anything: pure ASGI, outside of routing and parsing.

In this order: a Host that is not ours (DNS rebinding), an Origin that is not ours (another site's script),
a missing or wrong key, more than the server takes at a time (429), a body that is too long (413) or too slow
(408). A body that is refused is not kept: a short one is dropped as it comes, so that the client need not
connect again; for a long one the connection is closed.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import logging
import math
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anytag.errors import escaped
from anytag.server.metrics import Metrics
from anytag.server.settings import Settings

_OPEN = frozenset({"/livez", "/readyz"})
"""Routes that a load balancer asks without a key."""
_PAGE = ("/", "/page/")
"""The page's own files: the page asks for the key."""
VISION = "/api/v1/vision"
"""Where PhotoPrism asks."""
CLAIM = "anytag.claim"
"""Where the scope of a request holds its `Claim`."""
_RETRY_SECONDS = 1
_SHORT = 1 << 18
"""Bytes of a body that is read to its end although it is refused."""
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


class Refusal(Exception):
    """A request that is not let in.

    Args:
        status: of HTTP.
        reason: a word, for the metrics and for programs.
        message: for people.
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message

    def response(self, scope: Scope) -> JSONResponse:
        """The answer to a request."""
        headers = {} if self.status != 408 and _is_short(scope) else {"connection": "close"}
        if self.status == 429:
            headers["retry-after"] = str(_RETRY_SECONDS)
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        body = error_body(scope["path"], self.status, self.reason, self.message)
        return JSONResponse(body, self.status, headers)


def _is_short(scope: Scope) -> bool:
    """Whether the rest of a request's body comes and costs less to read than another connection."""
    headers = Headers(scope=scope)
    length = headers.get("content-length", "0")
    is_unsure = "transfer-encoding" in headers or "expect" in headers
    return not is_unsure and length.isdigit() and int(length) <= _SHORT


def error_body(path: str, status: int, kind: str, message: str) -> dict[str, object]:
    """The JSON of every error; PhotoPrism takes no other than its own."""
    if path.startswith(VISION):
        return {"code": status, "error": escaped(message), "result": {}}
    return {"error": {"type": kind, "message": escaped(message)}}


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


class Patience:
    """How long bodies are waited for: less, when the server stops.

    Args:
        seconds: for a whole body.
        stall: seconds in which some of it must come.
    """

    def __init__(self, seconds: float, *, stall: float) -> None:
        self._seconds, self._stall, self._end = seconds, stall, math.inf
        self._waits: set[asyncio.Timeout] = set()

    def deadline(self) -> float:
        """Of a body that begins now, in the loop's time."""
        return asyncio.get_running_loop().time() + self._seconds

    @asynccontextmanager
    async def until(self, deadline: float) -> AsyncIterator[None]:
        """Waits within the block for the next part of a body, or raises TimeoutError."""
        now = asyncio.get_running_loop().time()
        async with asyncio.timeout_at(min(deadline, now + self._stall, self._end)) as wait:
            self._waits.add(wait)
            try:
                yield
            finally:
                self._waits.discard(wait)

    def hurry(self, seconds: float) -> None:
        """No body is waited for longer than that from now on."""
        self._end = asyncio.get_running_loop().time() + seconds
        for wait in self._waits:
            wait.reschedule(min(wait.when() or self._end, self._end))


class Claim:
    """The room that a request takes in memory: the bytes of its body, and of what is fetched for it.

    Args:
        admission: whose room it is.
    """

    def __init__(self, admission: Admission) -> None:
        self._admission, self.size = admission, 0

    def grow(self, count: int) -> None:
        """Takes more bytes.

        Raises:
            Refusal: 413 where the request would be too long, 429 where the server has no room.
        """
        self._admission.check(self.size + count, more=count, others=self._admission.requests - 1)
        self._admission.take(count)
        self.size += count


class Admission:
    """Middleware that lets a request in, or refuses it.

    Args:
        app: what requests are let in to.
        settings, metrics: of the server.
        patience: with bodies.
    """

    def __init__(self, app: ASGIApp, *, settings: Settings, metrics: Metrics, patience: Patience) -> None:
        self._patience = patience
        self._app, self._settings, self._metrics = app, settings, metrics
        self.requests = self._bytes = 0

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
        claim = scope[CLAIM] = self._admit(headers)
        try:
            await self._app(scope, self._limited(receive, claim), send)
        finally:
            self.requests -= 1
            self.take(-claim.size)

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

    def _admit(self, headers: Headers) -> Claim:
        size = self._size(headers)
        self.check(size, more=size, others=self.requests)
        self.requests += 1
        self.take(0)
        return Claim(self)

    def check(self, size: int, *, more: int, others: int) -> None:
        """Raises Refusal where a request of so many bytes, of which `more` are new, is not taken."""
        most = self._settings.max_body
        if size > most:
            raise Refusal(413, "size", f"the body has {size:,} bytes, the limit is {most:,}")
        is_full = others >= self._settings.max_requests
        if is_full or (others and self._bytes + more > self._settings.max_bytes):
            raise Refusal(429, "busy", "the server has as much work as it takes: try again in a second")

    def take(self, count: int) -> None:
        """Counts bytes that a request holds; below zero it gives them back."""
        self._bytes += count
        self._metrics.in_flight.set(self.requests)
        self._metrics.in_flight_bytes.set(self._bytes)

    def _limited(self, receive: Receive, claim: Claim) -> Receive:
        """`receive` that counts the body's bytes and seconds."""
        deadline, is_whole = self._patience.deadline(), False

        async def limited() -> Message:
            nonlocal is_whole
            if is_whole:
                return await receive()  # waits for the client to go
            try:
                async with self._patience.until(deadline):
                    message = await receive()
            except TimeoutError:
                raise Refusal(408, "slow", "the body did not arrive in time") from None
            claim.grow(len(message.get("body", b"")))
            is_whole = not message.get("more_body", False)
            return message

        return limited


def _netloc(origin: str) -> str:
    """Host and port of an Origin header; "" for what is no address."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""
