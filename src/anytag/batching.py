"""Process batches in threads, with results in order: lists in equal shares, streams as items arrive."""

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
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def batches(items: Iterable[In], size: int) -> Iterator[list[In]]:
    """Yield lists of `size` items; the last one may be shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def in_batches(
    work: Callable[[list[In]], Out], items: Iterable[In], *, batch_size: int, workers: int | None
) -> Iterator[Out]:
    """Apply `work` to batches of items in threads, with results in order; items are read lazily.

    Items without a length are a stream: a separate thread reads it, and a batch starts with what has arrived,
    so that no item waits for one that may come much later.

    Args:
        workers: number of threads; by default one per usable core.

    Raises:
        AnytagError: `batch_size` or `workers` is not a whole number, or below 1.
    """
    workers = usable_cores() if workers is None else workers
    for name, number in (("batch_size", batch_size), ("workers", workers)):
        if not is_whole(number) or number < 1:
            raise AnytagError(f"{name} is {brief(number)}: expected a whole number, 1 or more")
    if not isinstance(items, Sized):
        return _in_order(work, _Stream(items, batch_size), workers)
    # equal batches, and equally many for each worker, so that none is idle at the end
    workers = max(1, min(workers, len(items)))
    rounds = max(1, -(-len(items) // (workers * batch_size)))
    shares = batches(items, max(1, -(-len(items) // (workers * rounds))))
    return map(work, shares) if workers == 1 else _in_order(work, _List(shares), workers)


class _Source(Protocol[In]):
    """A source of batches; `take` is called by one thread at a time."""

    def take(self) -> list[In]:
        """Return the next batch; empty at the end."""
        ...

    def close(self) -> None:
        """Stop reading."""


class _List(Generic[In]):
    def __init__(self, shares: Iterator[list[In]]) -> None:
        self._shares = shares

    def take(self) -> list[In]:
        return next(self._shares, [])

    def close(self) -> None:
        pass


class _Stream(Generic[In]):
    """A stream that a thread reads one batch ahead."""

    def __init__(self, items: Iterable[In], size: int) -> None:
        self._size = size
        self._arrived: deque[In] = deque()
        self._error: BaseException | None = None
        self._ended = False
        self._changed = Condition()
        # a daemon thread, since it may wait for an item forever
        self._reader = Thread(target=self._read, args=(items,), name="anytag input", daemon=True)

    def take(self) -> list[In]:
        with self._changed:
            if self._reader.ident is None and not self._ended:
                self._reader.start()
            self._changed.wait_for(lambda: self._arrived or self._ended)
            while 0 < len(self._arrived) < self._size and not self._ended and self._changed.wait(LINGER):
                pass  # each wait ends with a new item or with the timeout
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
        except BaseException as error:  # raised again in `take`
            self._error = error
        with self._changed:
            self._ended = True
            self._changed.notify_all()


_running: list[Callable[[], None]] = []
"""Functions that stop the threads of each unfinished run."""


@atexit.register
def _stop_all() -> None:
    """Stop unfinished runs at exit, so that no thread is inside a C++ library that is being torn down."""
    for stop in tuple(_running):
        stop()


if hasattr(os, "register_at_fork"):  # threads do not survive a fork
    os.register_at_fork(after_in_child=_running.clear)


def _in_order(work: Callable[[list[In]], Out], source: _Source[In], workers: int) -> Iterator[Out]:
    """Apply `work` to all batches of a source in threads, at most two per worker ahead of the consumer."""
    order: SimpleQueue[SimpleQueue[tuple[Out | None, BaseException | None]] | None] = SimpleQueue()
    ahead, turn, stopped = Semaphore(2 * workers), Lock(), Event()

    def run_worker() -> None:
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

    threads = [Thread(target=run_worker, name=f"anytag {number}", daemon=True) for number in range(workers)]

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
    finally:  # also when the consumer stops early: batches not started yet are dropped
        stop()
        if stop in _running:
            _running.remove(stop)
