"""Batches, and work on them by threads, in order: of lists in equal shares, of streams as they arrive."""

from __future__ import annotations

import atexit
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from itertools import islice
from queue import SimpleQueue
from threading import Condition, Event, Lock, Semaphore, Thread
from typing import Generic, Protocol, TypeVar

from anytag.errors import AnytagError, brief, is_whole

In = TypeVar("In")
Out = TypeVar("Out")

LINGER = 0.005
"""Seconds that a batch which is not full waits for each further item."""


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def batches(items: Iterable[In], size: int) -> Iterator[list[In]]:
    """Lists of `size` items, the last one shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def in_batches(
    work: Callable[[list[In]], Out], items: Iterable[In], *, batch_size: int, workers: int | None
) -> Iterator[Out]:
    """`work` on batches of items by threads, in order, reading the items as the work goes on.

    Items without a length are a stream: a thread reads it, and a batch begins with what has arrived, so that
    nothing waits for an item that may come much later.

    Args:
        workers: threads; by default one a usable core.

    Raises:
        AnytagError: a number is none, or below 1.
    """
    workers = usable_cores() if workers is None else workers
    for name, number in (("batch_size", batch_size), ("workers", workers)):
        if not is_whole(number) or number < 1:
            raise AnytagError(f"{name} is {brief(number)}: expected a whole number, 1 or more")
    if not isinstance(items, Sized):
        return _in_order(work, _Stream(items, batch_size), workers)
    # batches of one size, and as many for every worker: none waits at the end
    workers = max(1, min(workers, len(items)))
    rounds = max(1, -(-len(items) // (workers * batch_size)))
    shares = batches(items, max(1, -(-len(items) // (workers * rounds))))
    return map(work, shares) if workers == 1 else _in_order(work, _List(shares), workers)


class _Source(Protocol[In]):
    """Where batches come from; one thread asks at a time."""

    def take(self) -> list[In]:
        """The next batch, empty at the end."""
        ...

    def close(self) -> None:
        """Nothing more is wanted."""


class _List(Generic[In]):
    def __init__(self, shares: Iterator[list[In]]) -> None:
        self._shares = shares

    def take(self) -> list[In]:
        return next(self._shares, [])

    def close(self) -> None:
        pass


class _Stream(Generic[In]):
    """A stream that a thread reads a batch ahead."""

    def __init__(self, items: Iterable[In], size: int) -> None:
        self._size = size
        self._arrived: deque[In] = deque()
        self._error: BaseException | None = None
        self._ended = False
        self._changed = Condition()
        # of a daemon: it may wait for an item for ever, and then nobody waits for it
        self._reader = Thread(target=self._read, args=(items,), name="anytag input", daemon=True)

    def take(self) -> list[In]:
        with self._changed:
            if self._reader.ident is None and not self._ended:
                self._reader.start()
            self._changed.wait_for(lambda: self._arrived or self._ended)
            while 0 < len(self._arrived) < self._size and not self._ended and self._changed.wait(LINGER):
                pass  # each wait ends with a new item, or with the time
            batch = [self._arrived.popleft() for _ in range(min(self._size, len(self._arrived)))]
            self._changed.notify_all()
            if not batch and (error := self._error) is not None:
                self._error = None
                raise error
            return batch

    def close(self) -> None:
        with self._changed:
            self._ended = True
            self._arrived.clear()
            self._changed.notify_all()
        if self._reader.ident is not None:
            self._reader.join(10 * LINGER)

    def _read(self, items: Iterable[In]) -> None:
        try:
            for item in items:
                with self._changed:
                    self._changed.wait_for(lambda: len(self._arrived) < self._size or self._ended)
                    if self._ended:
                        return
                    self._arrived.append(item)
                    self._changed.notify_all()
        except BaseException as error:  # reaches whoever takes the results
            self._error = error
        with self._changed:
            self._ended = True
            self._changed.notify_all()


_running: list[Callable[[], None]] = []
"""What stops the threads of each run that nobody has ended."""


@atexit.register
def _stop_all() -> None:
    """Ends runs that were left open: no thread may be within a C++ library that is torn down."""
    for stop in tuple(_running):
        stop()


if hasattr(os, "register_at_fork"):  # the threads stay with the parent
    os.register_at_fork(after_in_child=_running.clear)


def _in_order(work: Callable[[list[In]], Out], source: _Source[In], workers: int) -> Iterator[Out]:
    """`work` on all that a source gives by threads, at most two batches each ahead of the results' taker."""
    order: SimpleQueue[SimpleQueue[tuple[Out | None, BaseException | None]] | None] = SimpleQueue()
    ahead, turn, stopped = Semaphore(2 * workers), Lock(), Event()

    def serve() -> None:
        while True:
            ahead.acquire()
            slot: SimpleQueue[tuple[Out | None, BaseException | None]] = SimpleQueue()
            with turn:
                try:
                    batch = [] if stopped.is_set() else source.take()
                except BaseException as error:
                    slot.put((None, error))
                    order.put(slot)
                    return
                order.put(slot if batch else None)
            if not batch:
                return
            try:
                slot.put((work(batch), None))
            except BaseException as error:
                slot.put((None, error))

    threads = [Thread(target=serve, name=f"anytag {number}", daemon=True) for number in range(workers)]

    def stop() -> None:
        stopped.set()
        source.close()
        ahead.release(workers)
        for thread in threads:
            if thread.ident is not None:
                thread.join()

    _running.append(stop)
    try:
        for thread in threads:
            thread.start()
        while (done := order.get()) is not None:
            result, error = done.get()
            if error is not None:
                raise error
            ahead.release()
            yield result  # type: ignore[misc]  # None is a result where there is no error
    finally:  # also when the user stops: what has not begun is dropped
        stop()
        if stop in _running:
            _running.remove(stop)
