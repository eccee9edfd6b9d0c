"""Runs the application in uvicorn until SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from anytag.errors import AnytagError
from anytag.server.app import create_app
from anytag.server.settings import Settings

_STOP_SECONDS = 30
_BACKLOG = 2048
_HEADER_SECONDS = 15.0


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP, which closes connections whose request does not get to the end of its headers in time.

    The body's time is counted by `anytag.server.limits`.
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

    def connection_lost(self, exc: Exception | None) -> None:
        self._watch(None)
        super().connection_lost(exc)

    def _watch(self, seconds: float | None) -> None:
        if self._late is not None:
            self._late.cancel()
        self._late = None if seconds is None else self.loop.call_later(seconds, self.transport.close)


class _Server(uvicorn.Server):
    """uvicorn, which says when it answers."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

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


def serve(settings: Settings, *, ready: Callable[[str], None]) -> None:
    """Serves until it is told to stop; requests that run then have 30 seconds to end.

    Args:
        settings: of the server.
        ready: called with the address when the server answers.

    Raises:
        AnytagError: the address cannot be listened at, or the model cannot be loaded.
    """
    with _listen(settings.host, settings.port) as listening:
        host, port = listening.getsockname()[:2]
        address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        server = _Server(_config(settings), lambda: ready(address))
        server.run(sockets=[listening])
    if not server.started:
        raise AnytagError("the server did not start: see the message above")


def _config(settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        create_app(settings),
        http=Protocol,
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=15,
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
