"""Units on a Ray cluster: actors of Ray Data, each of which does one unit at a time and writes its part.

No rows pass between machines, only units and what became of them. An actor that is lost with its machine is
started again elsewhere, and its unit done again; a unit whose part is there is not.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

from anytag.batching import usable_cores
from anytag.data.backoff import patiently
from anytag.data.io import exists, join, public
from anytag.data.parts import Parts, UnitResult
from anytag.data.units import Unit
from anytag.errors import AnytagError, MissingExtraError

MEMORY = 600 << 20
"""Bytes that an actor takes at most with the embedded model; measured by benchmarks/scale.py, told to Ray."""
_KNOCK_SECONDS = 10
_BLOCKS = 2000  # tasks at most: Ray keeps an account of each
_SAVED = 60.0  # seconds between two writings of the manifest


class Work(Protocol):
    """Does a unit of `parts` on the machine where it is called."""

    parts: Parts

    def do(self, unit: Unit) -> UnitResult: ...

    def again(self, unit: Unit, earlier: UnitResult) -> UnitResult: ...


class Worker:
    """What Ray Data maps over units, told and answered as JSON.

    Args:
        make: makes the work, in the actor.
        retry: parts that are there are looked at again for rows that failed.
    """

    def __init__(self, make: Callable[[], Work], *, retry: bool) -> None:
        self._work, self._retry = make(), retry

    def __call__(self, batch: Any) -> Any:
        units = [_unit(text) for text in batch["unit"].to_pylist()]
        answers = [json.dumps(asdict(self.do(unit))) for unit in units]
        return import_module("pyarrow").table({"done": answers})

    def do(self, unit: Unit) -> UnitResult:
        """The unit's part, or in the answer why there is none: the others go on."""
        try:
            return patiently(lambda: self._do(unit))
        except AnytagError as error:
            return UnitResult("", unit.name, unit.stamp, error=public(str(error)))

    def _do(self, unit: Unit) -> UnitResult:
        parts = self._work.parts
        name = parts.file(unit)
        if not exists(join(parts.folder, name)):
            return self._work.do(unit)
        earlier = parts.fact(name)
        return self._work.again(unit, earlier) if self._retry and earlier.failed else earlier


def _unit(text: str) -> Unit:
    values = json.loads(text)
    return Unit(**{**values, "addresses": tuple(values["addresses"])})


def run(
    units: Iterable[Unit],
    make: Callable[[], Work],
    *,
    retry: bool = False,
    actors: int | None = None,
    memory: int = MEMORY,
) -> Iterator[UnitResult]:
    """What became of units, as they are done, on the cluster that this process is connected to.

    Args:
        make: makes the work; it is sent to every actor.
        retry: see `Worker`.
        actors: at most, a core each; by default as many as the cluster has cores.
        memory: bytes that Ray sets aside for each.

    Raises:
        AnytagError: no actor could begin, or the cluster is gone.
    """
    data = ray_data()
    items = [{"unit": json.dumps(asdict(unit))} for unit in units]
    if not items:
        return
    blocks = min(len(items), _BLOCKS)
    most = min(actors or cores(), len(items))
    done = data.from_items(items, override_num_blocks=blocks).map_batches(
        Worker,
        fn_constructor_args=(make,),
        fn_constructor_kwargs={"retry": retry},
        batch_format="pyarrow",
        batch_size=1,
        # All begin at once. Ray would start the second when the first has more to do than it can.
        compute=data.ActorPoolStrategy(min_size=1, max_size=most, initial_size=most),
        num_cpus=1,
        memory=memory,
    )
    try:
        for row in done.iter_rows():
            yield UnitResult(**json.loads(row["done"]))
    except import_module("ray.exceptions").RayError as error:
        why = public(str(error).strip().splitlines()[-1])
        raise AnytagError(
            f"the cluster gave up ({why}): what is done stays, the same command goes on"
        ) from error


def follow(parts: Parts, results: Iterable[UnitResult], known: dict[str, UnitResult]) -> Iterator[UnitResult]:
    """The same results; the manifest holds them, and what is known besides, soon after."""
    lines, saved = dict(known), time.monotonic()
    try:
        for one in results:
            if one.file:
                lines[one.file] = one
            yield one
            if time.monotonic() - saved > _SAVED:
                parts.write_manifest(lines.values())
                saved = time.monotonic()
    finally:
        parts.write_manifest(lines.values())


def cores() -> int:
    """Cores of the cluster."""
    return max(1, int(import_module("ray").cluster_resources().get("CPU", 1)))


def cores_at(address: str | None) -> int:
    """Cores that a run has at an address: the cluster's, or where none is named this machine's.

    Raises:
        AnytagError: no cluster answers.
    """
    if address in (None, "local"):
        return usable_cores()
    connect(address)
    return cores()


def gpus() -> int:
    """GPUs of the cluster."""
    return int(import_module("ray").cluster_resources().get("GPU", 0))


def connect(address: str | None = None) -> None:
    """Joins a Ray cluster; starts one on this machine where no address is given and none is running.

    Raises:
        AnytagError: no cluster answers at the address, or Ray does not start.
        MissingExtraError: Ray is not installed.
    """
    ray_data()
    for name in ("ray", "ray.data._internal.progress"):  # stderr is the user's
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    options = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        options["include_dashboard"] = False
    knock(address)
    with _answering(address):
        import_module("ray").init(address=address, **options)


def knock(address: str | None) -> None:
    """Is somebody there? Of HOST:PORT, for which Ray itself waits many minutes.

    Raises:
        AnytagError: nobody listens.
    """
    with _answering(address):
        if found := re.fullmatch(r"(?:ray://)?\[?([^/]+?)\]?:(\d+)", address or ""):
            socket.create_connection((found[1], int(found[2])), timeout=_KNOCK_SECONDS).close()


@contextmanager
def _answering(address: str | None) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise AnytagError(
            f"no Ray cluster answers at {address!r} ({error}): start one (ray start --head), or leave the "
            "address out to run on this machine"
        ) from error
    except Exception as error:  # as Ray raises it where processes of its own do not come up in time
        raise AnytagError(f"Ray did not start ({error}): try again when the machine is less busy") from error


def check_installed(*paths: str | None) -> None:
    """Holds what is installed against what a run over these files or URLs needs: one error names all of it.

    Raises:
        MissingExtraError: a package is not installed.
    """
    wanted: dict[str, tuple[str, ...]] = {"ray": ("ray", "pandas", "pyarrow", "fsspec")}
    if any(path and path.startswith(("s3://", "s3a://")) for path in paths):
        wanted["s3"] = ("s3fs",)
    missing = [extra for extra, names in wanted.items() if not all(map(find_spec, names))]
    if missing:
        raise MissingExtraError("work on many machines", ",".join(missing))


def ray_data() -> Any:
    """Ray Data.

    Raises:
        MissingExtraError: it is not installed.
    """
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")  # whoever calls shows its own
    try:
        return import_module("ray.data")
    except ImportError as error:
        raise MissingExtraError("work on many machines", "ray") from error
