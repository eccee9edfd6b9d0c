"""`anytag serve` within the test's process: a real server on a free port, and requests to it."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Thread
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from anytag.server.app import create_app
from anytag.server.run import Protocol
from anytag.server.settings import Settings

EXAMPLE_JPEG = {"content-type": "image/jpeg"}


@dataclass
class Served:
    """A running server."""

    app: FastAPI
    port: int
    client: httpx.Client = field(repr=False)

    @property
    def address(self) -> str:
        """Where a browser finds it."""
        return f"http://127.0.0.1:{self.port}"

    def tag(self, photo: bytes, **query: Any) -> Any:
        """The row of a photo that is sent as the body."""
        response = self.client.post("/v1/tag", content=photo, params=query, headers=EXAMPLE_JPEG)
        assert response.status_code == 200, response.text
        (row,) = response.json()["photos"]
        return row

    def connect(self) -> socket.socket:
        """A plain connection, for requests that no client would send."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)


@contextmanager
def serving(**settings: Any) -> Iterator[Served]:
    """A server until the end of the block; `settings` as of `Settings`."""
    app = create_app(Settings(workers=2, **settings))
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", lifespan="on", http=Protocol)
    server = uvicorn.Server(config)
    thread = Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started:
        assert thread.is_alive() and time.monotonic() < deadline, "the server did not start"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client:
        yield Served(app, port, client)
    server.should_exit = True
    thread.join(40)
    assert not thread.is_alive()
