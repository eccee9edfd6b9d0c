"""Checks at the launch of a run: all processes are joined, and a folder has one run at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from anytag._io import lock
from anytag.errors import AnytagError, OutputError
from anytag.torch.training.distributed import join, process_index
from anytag.torch.training.report import Reporter

LOCK = ".lock"
_ON_CPU = "ACCELERATE_USE_CPU=true torchrun --nproc_per_node N -m anytag -- train ..."


def check_launch(report: Reporter) -> None:
    """Join the processes and check that there are as many as were launched.

    Raises:
        AnytagError: each process would train alone; the message says what to type.
    """
    launched = int(os.environ.get("WORLD_SIZE") or 1)
    count = join()
    if launched > 1 and count == 1:
        raise AnytagError(
            f"{launched} processes were launched, but each would train alone, since accelerate joins "
            f"processes on GPUs only and finds none; on CPUs type {_ON_CPU}"
        )
    several = {"ACCELERATE_MIXED_PRECISION", "MASTER_PORT"} <= os.environ.keys()  # set for several processes
    if several and "WORLD_SIZE" not in os.environ and count == 1:
        report.say(
            "accelerate launch was given several processes, but starts only one without GPUs; on CPUs type "
            f"{_ON_CPU}"
        )


@contextmanager
def locked_run_folder(out: Path) -> Iterator[None]:
    """Create and lock the folder of a run; the lock is released when the process ends.

    Raises:
        OutputError: another run writes there, or the folder cannot be created.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = (out / LOCK).open("ab")
    except OSError as error:
        raise OutputError(f"{out} cannot be written: {error.strerror}; give another folder") from error
    with file:
        if process_index() == 0 and not lock(file):
            raise OutputError(f"another run writes to {out}: wait until it ends, or give another folder")
        yield
