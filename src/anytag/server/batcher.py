"""Dynamic batching: photos of many requests go through the network together.

One queue, a thread for each core. A thread takes what is there, never waits for more, and gives each job its
own answer or its own error. What is admitted to the queue, `anytag.server.limits` decides.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Condition, Thread, get_native_id
from typing import Generic, TypeVar

import numpy as np

from anytag.results import Failure
from anytag.server.metrics import Metrics
from anytag.tagger import Encoded, Tagger

R = TypeVar("R")

_NICENESS = 2  # with 1 the loop still waits; each costs photos where other programs want the cores, too
_NONE = np.zeros(0, np.float32)


def yield_to_loop() -> None:
    """Lets this thread get a core after the one that answers: refusals must not wait for photos."""
    if sys.platform == "linux":  # where threads have priorities
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + _NICENESS)


@dataclass(eq=False)
class Job(Generic[R]):
    """A photo and what is wanted of it.

    Attributes:
        image: the encoded file.
        finish: makes the answer from what the model saw; runs in a thread of the batcher.
        future: of the answer; cancelling it drops the job, if it has not begun.
    """

    image: bytes
    finish: Callable[[Encoded], R]
    future: Future[R] = field(default_factory=Future)
    submitted: float = field(default_factory=time.monotonic)


class Batcher:
    """Threads that encode photos in batches; `close` ends them when what is queued is done.

    Args:
        tagger: encodes.
        workers: threads.
        batch_size: photos a thread takes at most.
        metrics: told of waits and batches.
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
        """Whether every thread works."""
        return not self._is_closed and all(thread.is_alive() for thread in self._threads)

    def submit(self, image: bytes | Failure, finish: Callable[[Encoded], R]) -> Future[R]:
        """The future of an answer; `finish` finds in `Encoded.error` why a photo could not be read.

        Args:
            image: the encoded file; or why there is none, which needs no work.
            finish: as of `Job`.
        """
        if isinstance(image, Failure):
            done: Future[R] = Future()
            done.set_result(finish(Encoded(_NONE, _NONE, None, 0, 0, image)))
            return done
        job = Job(image, finish)
        with self._changed:
            if self._is_closed:
                raise RuntimeError("the batcher is closed")
            self._jobs.append(job)  # type: ignore[arg-type]  # each answer goes to its own future
            self._changed.notify()
        return job.future

    def close(self) -> None:
        """Waits until what is queued is done."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        yield_to_loop()
        while jobs := self._take():
            running = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            if running:
                self._metrics.batch_size.observe(len(running))
                self._run(running)

    def _take(self) -> list[Job[object]]:
        """What is there, shared fairly among the threads; empty when the batcher is closed."""
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
            for job in jobs:  # the photo that breaks a batch fails alone
                self._run([job])
            return
        for job, one in zip(jobs, encoded, strict=True):
            self._finish(job, one)

    def _finish(self, job: Job[object], encoded: Encoded) -> None:
        try:
            with self._metrics.stage("answer"):
                answer = job.finish(encoded)
        except BaseException as error:  # also SystemExit of some library: the thread must live
            job.future.set_exception(error)
        else:
            job.future.set_result(answer)
