"""Process units on a Ray cluster with actors of Ray Data, each of which writes one part at a time.

Only units and their results are sent between machines, no rows. An actor lost with its machine is restarted
elsewhere and its unit is repeated, unless the unit's part exists already.
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
from anytag.data.backoff import with_retries
from anytag.data.io import exists, join, public
from anytag.data.parts import Parts, UnitResult
from anytag.data.units import Unit
from anytag.errors import AnytagError, MissingExtraError

MEMORY = 600 << 20
"""Memory limit in bytes of an actor with the embedded model; measured by benchmarks/scale.py."""
_CONNECT_SECONDS = 10
_BLOCKS = 2000  # maximum number of tasks, because Ray keeps records of each
_SAVE_SECONDS = 60.0  # between two writes of the manifest


class Work(Protocol):
    """Processes a unit of `parts` on the machine where it is called."""

    parts: Parts

    def do(self, unit: Unit) -> UnitResult: ...

    def again(self, unit: Unit, earlier: UnitResult) -> UnitResult: ...


class Worker:
    """The callable that Ray Data maps over units; input and output are JSON.

    Args:
        make: creates the work in the actor.
        retry: process failed rows of existing parts again.
    """

    def __init__(self, make: Callable[[], Work], *, retry: bool) -> None:
        self._work, self._retry = make(), retry

    def __call__(self, batch: Any) -> Any:
        units = [_unit(text) for text in batch["unit"].to_pylist()]
        answers = [json.dumps(asdict(self.do(unit))) for unit in units]
        return import_module("pyarrow").table({"done": answers})

    def do(self, unit: Unit) -> UnitResult:
        """Write the unit's part, or return the error, so that other units are processed."""
        try:
            return with_retries(lambda: self._do(unit))
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
    """Process units on the cluster that this process is connected to, and yield the results as they finish.

    Args:
        make: creates the work; it is sent to every actor.
        retry: see `Worker`.
        actors: maximum number, with one core each; by default one per core of the cluster.
        memory: bytes that Ray reserves for each.

    Raises:
        AnytagError: no actor could start, or the cluster is gone.
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
        # Start all actors at once; Ray would add them only when the first ones are saturated.
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
            f"the cluster failed ({why}): finished units are kept, repeat the command to resume"
        ) from error


def follow(parts: Parts, results: Iterable[UnitResult], known: dict[str, UnitResult]) -> Iterator[UnitResult]:
    """Yield the results, and save them and the known ones to the manifest, regularly and at the end."""
    lines, saved = dict(known), time.monotonic()
    try:
        for one in results:
            if one.file:
                lines[one.file] = one
            yield one
            if time.monotonic() - saved > _SAVE_SECONDS:
                parts.write_manifest(lines.values())
                saved = time.monotonic()
    finally:
        parts.write_manifest(lines.values())


def cores() -> int:
    """Number of cores of the cluster."""
    return max(1, int(import_module("ray").cluster_resources().get("CPU", 1)))


def cores_at(address: str | None) -> int:
    """Number of cores at an address: of the cluster, or of this machine if no address is given.

    Raises:
        AnytagError: no cluster is reachable.
    """
    if address in (None, "local"):
        return usable_cores()
    connect(address)
    return cores()


def gpus() -> int:
    """Number of GPUs of the cluster."""
    return int(import_module("ray").cluster_resources().get("GPU", 0))


def connect(address: str | None = None) -> None:
    """Connect to a Ray cluster; starts one on this machine if no address is given and none is running.

    Raises:
        AnytagError: no cluster is reachable at the address, or Ray does not start.
        MissingExtraError: Ray is not installed.
    """
    ray_data()
    for name in ("ray", "ray.data._internal.progress"):  # keeps stderr for anytag's messages
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    options = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        options["include_dashboard"] = False
    check_reachable(address)
    with _connection_errors(address):
        import_module("ray").init(address=address, **options)


def check_reachable(address: str | None) -> None:
    """Check that HOST:PORT accepts connections, for which Ray itself would wait many minutes.

    Raises:
        AnytagError: it does not.
    """
    with _connection_errors(address):
        if found := re.fullmatch(r"(?:ray://)?\[?([^/]+?)\]?:(\d+)", address or ""):
            socket.create_connection((found[1], int(found[2])), timeout=_CONNECT_SECONDS).close()


@contextmanager
def _connection_errors(address: str | None) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise AnytagError(
            f"no Ray cluster is reachable at {address!r} ({error}): start one (ray start --head), or leave "
            "the address out to run on this machine"
        ) from error
    except Exception as error:  # raised by Ray if its own processes do not start in time
        raise AnytagError(f"Ray did not start ({error}): try again when the machine is less busy") from error


def check_installed(*paths: str | None) -> None:
    """Check that all packages for a run over these files or URLs are installed; one error names all extras.

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
    """Import Ray Data.

    Raises:
        MissingExtraError: it is not installed.
    """
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")  # the caller shows its own
    try:
        return import_module("ray.data")
    except ImportError as error:
        raise MissingExtraError("work on many machines", "ray") from error
