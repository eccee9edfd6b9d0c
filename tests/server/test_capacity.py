from __future__ import annotations

import asyncio
from itertools import count

import pytest

from anytag.server.capacity import BodyTimeouts, Capacity, Reservation
from anytag.server.metrics import Metrics
from anytag.server.refusals import Refusal
from anytag.server.settings import Settings


def test_the_oldest_slow_request_is_dropped_though_time_passes_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a busy computer, where much time can pass between two looks at the clock."""
    clock = count()
    monkeypatch.setattr("anytag.server.capacity._now", lambda: 1e-12 * 1.6 ** next(clock))
    monkeypatch.setattr("anytag.server.capacity._SLOW_SECONDS", 0)

    async def fetch(reservation: Reservation) -> None:
        async with reservation.fetching():
            await asyncio.sleep(60)

    async def work() -> None:
        timeouts = BodyTimeouts(60, stall=60)
        capacity = Capacity(settings=Settings(max_requests=3), metrics=Metrics(), timeouts=timeouts)
        fetches = []
        for _ in range(12):
            fetches.append(asyncio.create_task(fetch(capacity.enter(0))))
            await asyncio.sleep(0)
        capacity.enter(0)
        with pytest.raises(Refusal):
            await asyncio.wait_for(fetches[0], 5)
        assert not any(one.done() for one in fetches[1:])
        for one in fetches[1:]:
            one.cancel()

    asyncio.run(work())
