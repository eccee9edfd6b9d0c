"""Runs the application in uvicorn until SIGTERM or Ctrl-C."""

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
from anytag.server.refusals import error_body
from anytag.server.room import Patience
from anytag.server.settings import Settings

_STOP_SECONDS = 25  # then what still runs is cancelled
_LAST_BODY_SECONDS = 5.0
_SWITCH_SECONDS = 0.0005  # threads that encode hold the interpreter's lock so long; the loop waits for it
_BACKLOG = 2048
_HEADER_SECONDS = 15.0
_IDLE_SECONDS = 15
_OPEN_FILES = 1 << 16


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP, which closes connections whose request does not get to the end of its headers in time.

    So too where the rest of a refused body does not come. The time of other bodies is counted by
    `anytag.server.limits`.
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
        # uvicorn's own time for an idle connection ended when this body went on after its refusal
        self._watch(_IDLE_SECONDS if self.cycle.response_complete else None)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        is_last = not self.pipeline
        super().on_response_complete()
        if is_last and self.cycle.more_body:
            self._watch(_HEADER_SECONDS)

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP is answered as every error is."""
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
    """uvicorn, which says when it answers, and when it stops waits for no body that does not come."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None], patience: Patience) -> None:
        super().__init__(config)
        self._ready, self._patience = ready, patience

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn would raise the signal again at the end, and the exit code would be a failure's."""
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
        self._patience.hurry(_LAST_BODY_SECONDS)
        await super().shutdown(sockets)


def serve(settings: Settings, *, ready: Callable[[str], None]) -> None:
    """Serves until it is told to stop; requests that run then have 25 seconds, bodies 5 to arrive.

    Args:
        settings: of the server.
        ready: called with the address when the server answers.

    Raises:
        AnytagError: the address cannot be listened at, or the model cannot be loaded.
    """
    with _listen(settings.host, settings.port) as listening:
        host, port = listening.getsockname()[:2]
        address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        app = create_app(settings)
        _settle()
        _open_more_files()
        server = _Server(_config(app), lambda: ready(address), app.state.patience)
        server.run(sockets=[listening])
    if not server.started:
        raise AnytagError("the server did not start: see the message above")


def _settle() -> None:
    """Shortens what the interpreter makes requests wait for."""
    gc.collect()
    gc.freeze()  # else the collector looks at the model's 90,000 objects again and again, 40 ms each time
    sys.setswitchinterval(_SWITCH_SECONDS)


def _open_more_files() -> None:
    """Each connection is an open file; the usual limit of 1024 was made for programs that call select."""
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
    """A socket that listens; bound before the model is loaded, so that a taken port is told at once."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise AnytagError(
            f"cannot listen at {host} port {port} ({error.strerror or error}): give another --host or --port"
        ) from error
