from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anytag import AnytagError
from anytag.batching import batches, in_batches
from tests.command import ENVIRONMENT


@given(st.lists(st.integers(), max_size=60), st.integers(1, 9), st.integers(1, 4), st.booleans())
@settings(deadline=None)
def test_order_and_number_stay(items: list[int], batch_size: int, workers: int, lazy: bool) -> None:
    found = list(in_batches(list, iter(items) if lazy else items, batch_size=batch_size, workers=workers))
    assert [item for batch in found for item in batch] == items
    assert all(0 < len(batch) <= batch_size for batch in found)


@given(count=st.integers(1, 200), batch_size=st.integers(1, 14), workers=st.integers(1, 4))
@settings(deadline=None)
def test_no_worker_waits_for_another_at_the_end(count: int, batch_size: int, workers: int) -> None:
    sizes = list(in_batches(len, list(range(count)), batch_size=batch_size, workers=workers))
    assert sum(sizes) == count and max(sizes) <= batch_size and len({*sizes[:-1]}) <= 1
    busy = min(workers, count)
    needed = -(-count // (busy * batch_size))
    assert -(-len(sizes) // busy) == needed


@pytest.mark.parametrize("workers", [1, 3])
def test_an_item_of_a_stream_is_worked_on_though_no_other_follows(workers: int) -> None:
    sent: SimpleQueue[int | None] = SimpleQueue()
    results = in_batches(list, iter(sent.get, None), batch_size=8, workers=workers)
    for number in range(5):  # each is sent after the result of the one before
        sent.put(number)
        assert next(results) == [number]
    sent.put(None)
    assert list(results) == []


def test_a_stream_that_says_nothing_more_can_be_left(workers: int = 2) -> None:
    sent: SimpleQueue[int] = SimpleQueue()
    results = in_batches(list, iter(sent.get, None), batch_size=8, workers=workers)
    sent.put(1)
    assert next(results) == [1]
    results.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name in ("anytag 0", "anytag 1")]
    sent.put(2)  # its reader ends


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("lazy", [False, True])
def test_what_work_and_input_raise_comes_after_what_was_done(workers: int, lazy: bool) -> None:
    def work(batch: list[int]) -> list[int]:
        if 3 in batch:
            raise ZeroDivisionError
        return batch

    numbers = range(5)
    found: list[int] = []
    with pytest.raises(ZeroDivisionError):
        for batch in in_batches(work, iter(numbers) if lazy else numbers, batch_size=1, workers=workers):
            found += batch
    assert found == [0, 1, 2]

    def stream() -> Iterator[int]:
        yield from range(3)
        raise RuntimeError("the camera is gone")

    found.clear()
    with pytest.raises(RuntimeError, match="camera"):
        for batch in in_batches(work, stream(), batch_size=2, workers=workers):
            found += batch
    assert found == [0, 1, 2]


@pytest.mark.parametrize("numbers", [(0, 1), (1, 0), (1.5, 1), (1, "2"), (True, 1), (None, 1)])
def test_wrong_use_is_refused_at_once(numbers: tuple[Any, Any]) -> None:
    with pytest.raises(AnytagError, match="expected a whole number, 1 or more"):
        in_batches(list, [1], batch_size=numbers[0], workers=numbers[1])


def test_batches_are_lists_the_last_one_shorter() -> None:
    assert list(batches(range(5), 2)) == [[0, 1], [2, 3], [4]]


def test_no_thread_of_ours_is_left_when_libraries_are_torn_down() -> None:
    script = """if True:
        import atexit, threading
        atexit.register(lambda: print([one.name for one in threading.enumerate()]))  # is called last
        from anytag.batching import in_batches
        left = in_batches(list, range(1000), batch_size=1, workers=2)
        next(left)
        streamed = in_batches(list, iter(range(1000)), batch_size=1, workers=2)
        next(streamed)
    """
    done = subprocess.run(
        [sys.executable, "-c", script], env=ENVIRONMENT, capture_output=True, timeout=60, check=True
    )
    assert done.stdout.split() == [b"['MainThread']"], done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_ends_without_the_threads_of_its_parent() -> None:
    script = """if True:
        import os, sys
        from anytag.batching import in_batches
        left = in_batches(list, iter(range(1000)), batch_size=1, workers=2)
        next(left)
        child = os.fork()
        if child:
            sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], env=ENVIRONMENT, timeout=60, check=True)
