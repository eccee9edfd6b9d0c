from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from anytag import Tagger
from anytag.server.batcher import Batcher
from anytag.server.metrics import Metrics
from anytag.tagger import Encoded
from tests.tiny import make_tiny_model


class Broken(Tagger):
    """A tagger whose network breaks on a red photo, with all that are in the batch."""

    def encode_many(self, images: Any, **options: Any) -> Any:
        some = list(images)
        self.batches.append(len(some))
        if any(image == RED for image in some):
            raise RuntimeError("out of memory")
        return super().encode_many(some, **options)

    batches: list[int]


def png(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, "PNG")
    return file.getvalue()


RED, BLUE = png("red"), png("blue")


@pytest.fixture
def tagger(tmp_path: Path) -> Broken:
    made = Broken.load(make_tiny_model(tmp_path / "tiny"))
    assert isinstance(made, Broken)
    made.batches = []
    return made


@pytest.fixture
def batcher(tagger: Broken) -> Iterator[Batcher]:
    made = Batcher(tagger, workers=1, batch_size=8, metrics=Metrics())
    yield made
    made.close()


def held(batcher: Batcher, images: Sequence[bytes]) -> list[Any]:
    """Futures of photos that wait together behind one that is in work."""
    going = threading.Event()

    def wait(_: Encoded) -> None:
        going.wait(10)

    first = batcher.submit(BLUE, wait)
    while not first.running():
        pass
    futures = [batcher.submit(image, lambda encoded: encoded.width) for image in images]
    yielded = [first, *futures]
    batcher_release.append(going)
    return yielded


batcher_release: list[threading.Event] = []


def release() -> None:
    while batcher_release:
        batcher_release.pop().set()


def test_photos_that_wait_go_together(tagger: Broken, batcher: Batcher) -> None:
    _, *futures = held(batcher, [BLUE] * 11)
    release()
    assert [future.result(10) for future in futures] == [8] * 11
    assert tagger.batches == [1, 8, 3]


def test_a_photo_that_breaks_a_batch_fails_alone(batcher: Batcher) -> None:
    _, *futures = held(batcher, [BLUE, RED, BLUE])
    release()
    assert [futures[0].result(10), futures[2].result(10)] == [8, 8]
    with pytest.raises(RuntimeError, match="out of memory"):
        futures[1].result(10)
    assert batcher.is_alive


def test_a_job_that_is_cancelled_before_its_work_is_dropped(tagger: Broken, batcher: Batcher) -> None:
    _, *futures = held(batcher, [BLUE, BLUE, BLUE])
    futures[1].cancel()
    release()
    assert [futures[0].result(10), futures[2].result(10)] == [8, 8]
    assert tagger.batches == [1, 2]


def test_work_that_nobody_waits_for_is_skipped_though_it_has_started(
    tagger: Broken, batcher: Batcher
) -> None:
    stop, done = threading.Event(), []

    def finish(encoded: Encoded) -> None:
        done.append(encoded.width)
        stop.set()

    held(batcher, [])
    futures = [batcher.submit(BLUE, finish, stop=stop) for _ in range(5)]
    release()
    assert futures[0].result(10) is None
    for future in futures[1:]:
        with pytest.raises(CancelledError):
            future.result(10)
    assert done == [8] and tagger.batches == [1, 5] and batcher.is_alive


def test_an_answer_that_raises_harms_nobody_else(batcher: Batcher) -> None:
    def fail(_: Encoded) -> None:
        raise SystemExit

    failing, good = batcher.submit(BLUE, fail), batcher.submit(BLUE, lambda encoded: encoded.width)
    assert good.result(10) == 8
    with pytest.raises(SystemExit):
        failing.result(10)
    assert batcher.is_alive


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priorities")
def test_photos_come_after_the_loop(batcher: Batcher) -> None:
    nice = batcher.submit(BLUE, lambda _: os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
    assert nice.result(10) > os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_closing_ends_what_waits(tagger: Broken) -> None:
    batcher = Batcher(tagger, workers=2, batch_size=2, metrics=Metrics())
    futures = [batcher.submit(BLUE, lambda encoded: encoded.width) for _ in range(20)]
    batcher.close()
    assert [future.result(0) for future in futures] == [8] * 20
    assert not batcher.is_alive
    with pytest.raises(RuntimeError):
        batcher.submit(BLUE, lambda encoded: encoded.width)
