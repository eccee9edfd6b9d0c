"""Run the application in uvicorn until SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from anytag.errors import AnytagError
from anytag.server.app import create_app
from anytag.server.capacity import BodyTimeouts
from anytag.server.refusals import error_body
from anytag.server.settings import Settings

_STOP_SECONDS = 25  # requests that still run after this are cancelled
_LAST_BODY_SECONDS = 5.0
_SWITCH_SECONDS = 0.0005  # how long encoding threads may hold the GIL while the event loop waits
_BACKLOG = 2048
_HEADER_SECONDS = 15.0
_IDLE_SECONDS = 15
_OPEN_FILES = 1 << 16


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with time limits for request headers and for the rest of refused bodies.

    `anytag.server.limits` applies the time limits for other bodies.
    """

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        self._watch(_HEADER_SECONDS)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._watch(_HEADER_SECONDS)

    def on_headers_complete(self) -> None:
        self._watch(None)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        # uvicorn cancelled its keep-alive timer when more of this body arrived after the refusal
        self._watch(_IDLE_SECONDS if self.cycle.response_complete else None)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        is_last = not self.pipeline
        super().on_response_complete()
        if is_last and self.cycle.more_body:
            self._watch(_HEADER_SECONDS)

    def send_400_response(self, msg: str) -> None:
        """Answer invalid HTTP with the JSON body of all errors."""
        body = json.dumps(error_body("", 400, "http", msg)).encode()
        head = f"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
        self.transport.write(f"{head}\r\nconnection: close\r\n\r\n".encode() + body)
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._watch(None)
        super().connection_lost(exc)

    def _watch(self, seconds: float | None) -> None:
        if self._late is not None:
            self._late.cancel()
        self._late = None if seconds is None else self.loop.call_later(seconds, self.transport.close)


class _Server(uvicorn.Server):
    """uvicorn's server with a callback when it is ready and shorter body timeouts on shutdown."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None], timeouts: BodyTimeouts) -> None:
        super().__init__(config)
        self._ready, self._timeouts = ready, timeouts

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals without raising them again at the end, as uvicorn does: the exit code must be 0."""
        earlier = {sign: signal.signal(sign, self.handle_exit) for sign in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for sign, handler in earlier.items():
                signal.signal(sign, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._timeouts.shorten(_LAST_BODY_SECONDS)
        await super().shutdown(sockets)


def serve(settings: Settings, *, ready: Callable[[str], None]) -> None:
    """Serve until a stop signal; then running requests have 25 seconds to finish, and bodies 5 to arrive.

    Args:
        settings: of the server.
        ready: called with the URL when the server accepts requests.

    Raises:
        AnytagError: the address cannot be bound, or the model cannot be loaded.
    """
    with _listen(settings.host, settings.port) as listening:
        host, port = listening.getsockname()[:2]
        address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        app = create_app(settings)
        _reduce_pauses()
        _raise_file_limit()
        server = _Server(_config(app), lambda: ready(address), app.state.timeouts)
        server.run(sockets=[listening])
    if not server.started:
        raise AnytagError("the server did not start: see the message above")


def _reduce_pauses() -> None:
    """Shorten the pauses that garbage collection and the GIL cause."""
    gc.collect()
    gc.freeze()  # else each full collection traverses the model's 90,000 objects, which takes 40 ms
    sys.setswitchinterval(_SWITCH_SECONDS)


def _raise_file_limit() -> None:
    """Raise the soft limit of open files, usually 1024: each connection is an open file."""
    if sys.platform != "win32":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
        if soft != resource.RLIM_INFINITY and soft < most:
            with suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _config(app: FastAPI) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=Protocol,
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=_STOP_SECONDS,
    )


def _listen(host: str, port: int) -> socket.socket:
    """Bind a socket; done before the model is loaded, so that a port in use is reported at once."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise AnytagError(
            f"cannot listen on {host} port {port} ({error.strerror or error}): try another --host or --port"
        ) from error
