"""Server capacity: the number of concurrent requests, and the memory that their bodies hold.

A request counts as arriving until its body is complete, and as working afterwards; only working requests
count towards `max_requests`. So slow uploads do not block work, and when the capacity for uploads is
exhausted, slow ones are dropped first.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

from anytag.server.metrics import Metrics
from anytag.server.refusals import Refusal
from anytag.server.settings import Settings

_ARRIVING_PER_WORKING = 4
"""Maximum number of arriving requests, as a multiple of `max_requests`."""
_PROGRESS_BYTES = 1 << 14
_SLOW_SECONDS = 1.0
"""An upload that took longer than this for its last `_PROGRESS_BYTES` is slow, and may be dropped."""


class BodyTimeouts:
    """Time limits for request bodies; `shorten` reduces them when the server stops.

    Args:
        seconds: limit for a whole body.
        stall: limit in seconds for its next part.
    """

    def __init__(self, seconds: float, *, stall: float) -> None:
        self._seconds, self._stall = seconds, stall
        self._end: float | None = None
        self._waits: set[asyncio.Timeout] = set()

    def deadline(self) -> float:
        """Deadline of a body that begins now, in the event loop's time."""
        return _now() + self._seconds

    def part(self, deadline: float) -> float:
        """Deadline of the next part of a body with this deadline."""
        return min(deadline, _now() + self._stall)

    @asynccontextmanager
    async def until(self, end: float | None) -> AsyncIterator[asyncio.Timeout]:
        """Raise TimeoutError in the block at `end`; None for no limit while the server runs."""
        async with asyncio.timeout_at(_earlier(end, self._end)) as wait:
            self._waits.add(wait)
            try:
                yield wait
            finally:
                self._waits.discard(wait)

    def shorten(self, seconds: float) -> None:
        """End all waits, current and future, after this time."""
        self._end = _now() + seconds
        for wait in self._waits:
            if not wait.expired():
                wait.reschedule(_earlier(wait.when(), self._end))


class Reservation:
    """The share of the capacity that a request holds: its slot, and memory for its body and fetched photos.

    Args:
        capacity: of the server.
        timeouts: for its body.

    Attributes:
        size: reserved bytes.
        since: time of the last progress, in the event loop's time.
    """

    def __init__(self, capacity: Capacity, timeouts: BodyTimeouts) -> None:
        self._capacity, self._timeouts, self._deadline = capacity, timeouts, timeouts.deadline()
        self.size, self.since, self._next = 0, _now(), _PROGRESS_BYTES
        self._wait: asyncio.Timeout | None = None

    def grow(self, count: int) -> None:
        """Reserve more bytes.

        Raises:
            Refusal: 413 if the request is too long, 429 if the server has no capacity left.
        """
        self._capacity.take(self, count)
        self.size += count
        if self.size >= self._next:
            self.since, self._next = _now(), self.size + _PROGRESS_BYTES

    def begin(self) -> None:
        """Count the request as working.

        Raises:
            Refusal: 429 if `max_requests` are working already.
        """
        self._capacity.begin(self)

    @asynccontextmanager
    async def receiving(self) -> AsyncIterator[None]:
        """Limit the wait in the block for the next part of the body.

        Raises:
            Refusal: 408 if it does not arrive in time, or if the upload is slow and was dropped.
        """
        async with self._waiting(self._timeouts.part(self._deadline)):
            yield

    @asynccontextmanager
    async def fetching(self) -> AsyncIterator[None]:
        """Count the request as arriving again while the block fetches its photos.

        Raises:
            Refusal: 408 if the fetch is slow and was dropped, 429 if `max_requests` are working afterwards.
        """
        self._capacity.pause(self)
        self.since = _now()
        async with self._waiting(None):
            yield
        self.begin()

    @property
    def is_slow(self) -> bool:
        """Whether it is waiting for data and has made no progress for `_SLOW_SECONDS`."""
        is_waiting = self._wait is not None and not self._wait.expired()
        return is_waiting and _now() - self.since > _SLOW_SECONDS

    def drop(self) -> None:
        """End its wait and release its capacity at once."""
        if self._wait is not None:
            self._wait.reschedule(_now())
        self._capacity.leave(self)

    @asynccontextmanager
    async def _waiting(self, end: float | None) -> AsyncIterator[None]:
        try:
            async with self._timeouts.until(end) as self._wait:
                yield
        except TimeoutError:
            raise _timeout_refusal() from None
        finally:
            self._wait = None


class Capacity:
    """The capacity of the server, shared by all requests.

    Args:
        settings, metrics: of the server.
        timeouts: for bodies.
    """

    def __init__(self, *, settings: Settings, metrics: Metrics, timeouts: BodyTimeouts) -> None:
        self._settings, self._metrics, self._timeouts = settings, metrics, timeouts
        self._arriving: dict[Reservation, None] = {}  # in order of arrival: the clock has milliseconds
        self._working: set[Reservation] = set()
        self._bytes = 0

    def enter(self, announced: int) -> Reservation:
        """Admit a request whose Content-Length is `announced` bytes.

        Raises:
            Refusal: 413 if that is too long, 429 if the server has no capacity left.
        """
        reservation = Reservation(self, self._timeouts)
        self._check_length(announced)
        self._check_work()
        self._fit(reservation, announced)
        while len(self._arriving) >= _ARRIVING_PER_WORKING * self._settings.max_requests:
            self._drop_slowest(partial(_waited, now=_now()))  # one time for all: it passes meanwhile
        self._arriving[reservation] = None
        self._count(0)
        return reservation

    def take(self, reservation: Reservation, count: int) -> None:
        """Reserve bytes; see `Reservation.grow`."""
        self._check_admitted(reservation)
        self._check_length(reservation.size + count)
        self._fit(reservation, count)
        self._count(count)

    def begin(self, reservation: Reservation) -> None:
        """Move a request from arriving to working; see `Reservation.begin`."""
        self._check_admitted(reservation)
        self._check_work()
        self._arriving.pop(reservation, None)
        self._working.add(reservation)

    def pause(self, reservation: Reservation) -> None:
        """Move a working request back to arriving."""
        self._working.discard(reservation)
        self._arriving[reservation] = None

    def leave(self, reservation: Reservation) -> None:
        """Release the capacity of a request."""
        self._arriving.pop(reservation, None)
        self._working.discard(reservation)
        self._count(-reservation.size)
        reservation.size = 0

    def _check_length(self, size: int) -> None:
        most = self._settings.max_body
        if size > most:
            raise Refusal(413, "size", f"the body has {size:,} bytes, the limit is {most:,}")

    def _check_work(self) -> None:
        if len(self._working) >= self._settings.max_requests:
            raise _busy_refusal()

    def _check_admitted(self, reservation: Reservation) -> None:
        """Refuse a request that was dropped just before its data arrived."""
        if reservation not in self._arriving and reservation not in self._working:
            raise _timeout_refusal()

    def _fit(self, reservation: Reservation, count: int) -> None:
        """Free memory for more bytes of a request; a request that is alone may exceed `max_bytes`."""
        while self._bytes > reservation.size and self._bytes + count > self._settings.max_bytes:
            self._drop_slowest(lambda one: 0 if one is reservation else one.size)

    def _drop_slowest(self, gain: Callable[[Reservation], float]) -> None:
        """Drop the slow upload with the highest gain, of several the first; Refusal if there is none."""
        slow = [one for one in self._arriving if one.is_slow and gain(one)]
        if not slow:
            raise _busy_refusal()
        max(slow, key=gain).drop()

    def _count(self, more: int) -> None:
        self._bytes += more
        self._metrics.in_flight.set(len(self._arriving) + len(self._working))
        self._metrics.in_flight_bytes.set(self._bytes)


def _waited(reservation: Reservation, *, now: float) -> float:
    return now - reservation.since


def _timeout_refusal() -> Refusal:
    return Refusal(408, "slow", "the body did not arrive in time")


def _busy_refusal() -> Refusal:
    return Refusal(429, "busy", "the server is at its capacity: try again in a second")


def _now() -> float:
    return asyncio.get_running_loop().time()


def _earlier(one: float | None, other: float | None) -> float | None:
    return min((end for end in (one, other) if end is not None), default=None)
