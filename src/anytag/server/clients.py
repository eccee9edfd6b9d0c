"""Work for clients that may go away before it is done."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

R = TypeVar("R")


async def while_there(request: Request, work: asyncio.Future[R]) -> R:
    """The result of work, which is cancelled when the client goes.

    Raises:
        ClientDisconnect: the client went away.
    """
    gone = asyncio.ensure_future(_gone(request))
    gone.add_done_callback(lambda _: work.cancel())
    try:
        return await work
    except asyncio.CancelledError:
        if not gone.done():  # somebody else has no more patience
            raise
        raise ClientDisconnect from None
    finally:
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
