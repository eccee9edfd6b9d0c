"""How processes of a run are started: together or not at all, and one run in a folder."""

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
    """Joins the processes, and looks whether there are as many as were launched.

    Raises:
        AnytagError: each of them would train alone; says what to type.
    """
    launched = int(os.environ.get("WORLD_SIZE") or 1)
    count = join()
    if launched > 1 and count == 1:
        raise AnytagError(
            f"{launched} processes were launched, but each would train alone: accelerate joins those of "
            f"GPUs, and finds none here; on CPUs type {_ON_CPU}"
        )
    several = {"ACCELERATE_MIXED_PRECISION", "MASTER_PORT"} <= os.environ.keys()  # set for more than one
    if several and "WORLD_SIZE" not in os.environ and count == 1:
        report.say(
            "accelerate launch was asked for several processes and starts one, as it does without GPUs; "
            f"on CPUs type {_ON_CPU}"
        )


@contextmanager
def folder_of_run(out: Path) -> Iterator[None]:
    """The run's folder, for this run alone; the lock goes with its process, however that ends.

    Raises:
        OutputError: another run writes there, or it cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = (out / LOCK).open("ab")
    except OSError as error:
        raise OutputError(f"{out} cannot be written: {error.strerror}; name another folder") from error
    with file:
        if process_index() == 0 and not lock(file):
            raise OutputError(f"another run writes to {out}: wait for its end, or name another folder")
        yield
