"""Room for requests: how many are read or done at a time, and what they hold in memory.

A request is counted among those that arrive until its body is there, and then among those in work, which
alone make others wait. So a slow upload takes no place of the work; and where room for uploads is short, it
is the first to give way.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from anytag.server.metrics import Metrics
from anytag.server.refusals import Refusal
from anytag.server.settings import Settings

_ARRIVING = 4
"""Requests that arrive, for each that may be in work."""
_PIECE = 1 << 14
_SLOW_SECONDS = 1.0
"""An upload of which no further `_PIECE` came for so long gives way to others."""


class Patience:
    """How long bodies are waited for: less, when the server stops.

    Args:
        seconds: for a whole body.
        stall: seconds in which some of it must come.
    """

    def __init__(self, seconds: float, *, stall: float) -> None:
        self._seconds, self._stall = seconds, stall
        self._end: float | None = None
        self._waits: set[asyncio.Timeout] = set()

    def deadline(self) -> float:
        """Of a body that begins now, in the loop's time."""
        return _now() + self._seconds

    def part(self, deadline: float) -> float:
        """When the next part of a body with this deadline must be there."""
        return min(deadline, _now() + self._stall)

    @asynccontextmanager
    async def until(self, end: float | None) -> AsyncIterator[asyncio.Timeout]:
        """Waits within the block until then, or raises TimeoutError; None waits while the server runs."""
        async with asyncio.timeout_at(_sooner(end, self._end)) as wait:
            self._waits.add(wait)
            try:
                yield wait
            finally:
                self._waits.discard(wait)

    def hurry(self, seconds: float) -> None:
        """No body is waited for longer than that from now on."""
        self._end = _now() + seconds
        for wait in self._waits:
            if not wait.expired():
                wait.reschedule(_sooner(wait.when(), self._end))


class Claim:
    """What a request takes: a place, and memory for its body and for what is fetched for it.

    Args:
        room: of which it takes.
        patience: with its body.

    Attributes:
        size: bytes that it holds.
        since: when it last made progress, in the loop's time.
    """

    def __init__(self, room: Room, patience: Patience) -> None:
        self._room, self._patience, self._deadline = room, patience, patience.deadline()
        self.size, self.since, self._next = 0, _now(), _PIECE
        self._wait: asyncio.Timeout | None = None

    def grow(self, count: int) -> None:
        """Takes more bytes.

        Raises:
            Refusal: 413 where the request would be too long, 429 where the server has no room.
        """
        self._room.take(self, count)
        self.size += count
        if self.size >= self._next:
            self.since, self._next = _now(), self.size + _PIECE

    def begin(self) -> None:
        """Takes a place among those in work.

        Raises:
            Refusal: 429 where none is free.
        """
        self._room.begin(self)

    @asynccontextmanager
    async def receiving(self) -> AsyncIterator[None]:
        """Waits within the block for the next part of the body.

        Raises:
            Refusal: 408 where it does not come in time, or the body is slow and others need the room.
        """
        async with self._waiting(self._patience.part(self._deadline)):
            yield

    @asynccontextmanager
    async def fetching(self) -> AsyncIterator[None]:
        """Waits within the block for photos from elsewhere, which is no work yet.

        Raises:
            Refusal: 408 where they are slow and others need the room, 429 where no place is free then.
        """
        self._room.pause(self)
        self.since = _now()
        async with self._waiting(None):
            yield
        self.begin()

    @property
    def is_slow(self) -> bool:
        """Whether it waits, and has made no progress for long."""
        is_waiting = self._wait is not None and not self._wait.expired()
        return is_waiting and _now() - self.since > _SLOW_SECONDS

    def drop(self) -> None:
        """Ends its wait, and gives back at once what it took."""
        if self._wait is not None:
            self._wait.reschedule(_now())
        self._room.leave(self)

    @asynccontextmanager
    async def _waiting(self, end: float | None) -> AsyncIterator[None]:
        try:
            async with self._patience.until(end) as self._wait:
                yield
        except TimeoutError:
            raise _too_slow() from None
        finally:
            self._wait = None


class Room:
    """What all requests take together.

    Args:
        settings, metrics: of the server.
        patience: with bodies.
    """

    def __init__(self, *, settings: Settings, metrics: Metrics, patience: Patience) -> None:
        self._settings, self._metrics, self._patience = settings, metrics, patience
        self._arriving: set[Claim] = set()
        self._working: set[Claim] = set()
        self._bytes = 0

    def enter(self, announced: int) -> Claim:
        """Lets a request in whose body has so many bytes, as it says.

        Raises:
            Refusal: 413 where that is too long, 429 where the server has as much work as it takes.
        """
        claim = Claim(self, self._patience)
        self._check_length(announced)
        self._check_work()
        self._fit(claim, announced)
        while len(self._arriving) >= _ARRIVING * self._settings.max_requests:
            self._drop_slowest(lambda one: _now() - one.since)
        self._arriving.add(claim)
        self._count(0)
        return claim

    def take(self, claim: Claim, count: int) -> None:
        """Counts bytes; see `Claim.grow`."""
        self._check_is_in(claim)
        self._check_length(claim.size + count)
        self._fit(claim, count)
        self._count(count)

    def begin(self, claim: Claim) -> None:
        """What a request needs is there; see `Claim.begin`."""
        self._check_is_in(claim)
        self._check_work()
        self._arriving.discard(claim)
        self._working.add(claim)

    def pause(self, claim: Claim) -> None:
        """A request that is in work waits for more of what it needs."""
        self._working.discard(claim)
        self._arriving.add(claim)

    def leave(self, claim: Claim) -> None:
        """A request gives back what it took."""
        self._arriving.discard(claim)
        self._working.discard(claim)
        self._count(-claim.size)
        claim.size = 0

    def _check_length(self, size: int) -> None:
        most = self._settings.max_body
        if size > most:
            raise Refusal(413, "size", f"the body has {size:,} bytes, the limit is {most:,}")

    def _check_work(self) -> None:
        if len(self._working) >= self._settings.max_requests:
            raise _busy()

    def _check_is_in(self, claim: Claim) -> None:
        """One that was dropped in the moment that something came for it is out."""
        if claim not in self._arriving and claim not in self._working:
            raise _too_slow()

    def _fit(self, claim: Claim, count: int) -> None:
        """Makes room for more bytes of a request, which may have all of it where it is the only one."""
        while self._bytes > claim.size and self._bytes + count > self._settings.max_bytes:
            self._drop_slowest(lambda one: 0 if one is claim else one.size)

    def _drop_slowest(self, gain: Callable[[Claim], float]) -> None:
        """Drops the slow upload with which most is gained, or raises Refusal where there is none."""
        slow = [one for one in self._arriving if one.is_slow and gain(one)]
        if not slow:
            raise _busy()
        max(slow, key=gain).drop()

    def _count(self, more: int) -> None:
        self._bytes += more
        self._metrics.in_flight.set(len(self._arriving) + len(self._working))
        self._metrics.in_flight_bytes.set(self._bytes)


def _too_slow() -> Refusal:
    """Of a body."""
    return Refusal(408, "slow", "the body did not arrive in time")


def _busy() -> Refusal:
    return Refusal(429, "busy", "the server has as much work as it takes: try again in a second")


def _now() -> float:
    return asyncio.get_running_loop().time()


def _sooner(one: float | None, other: float | None) -> float | None:
    return min((end for end in (one, other) if end is not None), default=None)
