"""Dynamic batching: photos of concurrent requests are encoded together.

There is one queue, and one thread per core. A thread takes the jobs that are queued, does not wait for more,
and gives each job its own result or error. `anytag.server.limits` decides which requests are admitted.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Condition, Event, Thread, get_native_id
from typing import Generic, TypeVar

import numpy as np

from anytag.results import Failure
from anytag.server.metrics import Metrics
from anytag.tagger import Encoded, Tagger

R = TypeVar("R")

_NICENESS = 2  # 1 still delays the event loop; higher values lose throughput when other programs are busy
_NONE = np.zeros(0, np.float32)


def lower_priority() -> None:
    """Lower the priority of this thread below the event loop's, so that refusals do not wait for encoding."""
    if sys.platform == "linux":  # the only system on which niceness is per thread
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + _NICENESS)


@dataclass(eq=False)
class Job(Generic[R]):
    """A queued photo.

    Attributes:
        image: content of the image file.
        finish: computes the result from the encoded photo, in a thread of the batcher.
        stop: when set, the rest of the work on the photo is skipped.
        future: of the result; cancelling it drops a job that has not started.
        submitted: `time.monotonic()` at submission.
    """

    image: bytes
    finish: Callable[[Encoded], R]
    stop: Event = field(default_factory=Event)
    future: Future[R] = field(default_factory=Future)
    submitted: float = field(default_factory=time.monotonic)


class Batcher:
    """Threads that encode photos in batches; `close` stops them when the queue is empty.

    Args:
        tagger: encodes the photos.
        workers: number of threads.
        batch_size: maximum number of photos in a batch.
        metrics: records waiting times and batch sizes.
    """

    def __init__(self, tagger: Tagger, *, workers: int, batch_size: int, metrics: Metrics) -> None:
        self._tagger, self._batch_size, self._metrics = tagger, batch_size, metrics
        self._jobs: deque[Job[object]] = deque()
        self._changed = Condition()
        self._is_closed = False
        self._threads = [Thread(target=self._work, name=f"batcher-{n}", daemon=True) for n in range(workers)]
        for thread in self._threads:
            thread.start()
        metrics.queue_depth.set_function(lambda: len(self._jobs))

    @property
    def is_alive(self) -> bool:
        """Whether all threads are running."""
        return not self._is_closed and all(thread.is_alive() for thread in self._threads)

    def submit(
        self, image: bytes | Failure, finish: Callable[[Encoded], R], *, stop: Event | None = None
    ) -> Future[R]:
        """Queue a photo and return the future of its result.

        Args:
            image: content of the image file; a `Failure` is passed on to `finish` at once.
            finish: as for `Job`; `Encoded.error` is set where the photo could not be read.
            stop: as for `Job`; unlike a cancelled future it also skips what has started.

        Raises:
            RuntimeError: the batcher is closed.
        """
        if isinstance(image, Failure):
            done: Future[R] = Future()
            done.set_result(finish(Encoded(_NONE, _NONE, None, 0, 0, image)))
            return done
        job = Job(image, finish, stop or Event())
        with self._changed:
            if self._is_closed:
                raise RuntimeError("the batcher is closed")
            self._jobs.append(job)  # type: ignore[arg-type]  # results are of different types
            self._changed.notify()
        return job.future

    def close(self) -> None:
        """Finish queued jobs, then stop the threads."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        lower_priority()
        while jobs := self._take():
            running = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            if running:
                self._metrics.batch_size.observe(len(running))
                self._run(running)

    def _take(self) -> list[Job[object]]:
        """Wait for jobs and take this thread's share of them; empty when the batcher is closed."""
        with self._changed:
            while not self._jobs and not self._is_closed:
                self._changed.wait()
            share = -(-len(self._jobs) // len(self._threads))
            return [self._jobs.popleft() for _ in range(min(share, self._batch_size))]

    def _run(self, jobs: Sequence[Job[object]]) -> None:
        now = time.monotonic()
        for job in jobs:
            self._metrics.wait_seconds.observe(now - job.submitted)
        try:
            with self._metrics.stage("encode"):
                images = [job.image for job in jobs]
                encoded = list(self._tagger.encode_many(images, batch_size=len(images), workers=1))
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].future.set_exception(error)
                return
            for job in jobs:  # so that only the photo that caused the error fails
                self._run([job])
            return
        for job, one in zip(jobs, encoded, strict=True):
            self._finish(job, one)

    def _finish(self, job: Job[object], encoded: Encoded) -> None:
        try:
            if job.stop.is_set():
                raise CancelledError
            with self._metrics.stage("answer"):
                answer = job.finish(encoded)
        except BaseException as error:  # even SystemExit of a library must not end the thread
            job.future.set_exception(error)
        else:
            job.future.set_result(answer)
