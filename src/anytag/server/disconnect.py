"""Cancel work whose client has disconnected."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

R = TypeVar("R")


async def cancel_on_disconnect(request: Request, work: asyncio.Future[R]) -> R:
    """Await `work`, and cancel it if the client disconnects.

    Raises:
        ClientDisconnect: the client disconnected.
    """
    gone = asyncio.ensure_future(_wait_for_disconnect(request))
    gone.add_done_callback(lambda _: work.cancel())
    try:
        return await work
    except asyncio.CancelledError:
        if not gone.done():  # cancelled for another reason
            raise
        raise ClientDisconnect from None
    finally:
        gone.cancel()


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
