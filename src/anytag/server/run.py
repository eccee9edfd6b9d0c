"""Runs the application in uvicorn until SIGTERM or Ctrl-C."""

from __future__ import annotations

import socket
from collections.abc import Callable

import uvicorn

from anytag.errors import AnytagError
from anytag.server.app import create_app
from anytag.server.settings import Settings

_STOP_SECONDS = 30
_BACKLOG = 2048


class _Server(uvicorn.Server):
    """uvicorn, which says when it answers."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

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
    listening = _listen(settings.host, settings.port)
    host, port = listening.getsockname()[:2]
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    config = uvicorn.Config(
        create_app(settings),
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=_STOP_SECONDS,
        h11_max_incomplete_event_size=32 << 10,
    )
    server = _Server(config, lambda: ready(address))
    with listening:
        server.run(sockets=[listening])
    if not server.started:
        raise AnytagError("the server did not start: see the message above")


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens; bound before the model is loaded, so that a taken port is told at once."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except OSError as error:
        raise AnytagError(
            f"cannot listen at {host} port {port} ({error.strerror or error}): give another --host or --port"
        ) from error
    return listening
