"""Functions for `map_batches` of Ray Data, `mapInPandas` of Spark and `map` of datasets."""

from __future__ import annotations

import pickle
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from importlib import import_module
from typing import Any, TypeVar

import numpy as np

from anytag.data import cluster
from anytag.results import Failure
from anytag.scale.photos import columns_of
from anytag.scale.stages import Preprocess, Task, card_of, schema

Batch = TypeVar("Batch")
Table = Any
"""A `pyarrow.Table`."""


class Decode:
    """The first stage, on CPUs: adds `pixels`, the preprocessed photo, and `error`.

    Args:
        column: column of photos, as encoded bytes or paths; by default detected by name and type.
        task: the task of the second stage.
    """

    def __init__(self, column: str | None, task: Task) -> None:
        self._column, self._preprocess = column, Preprocess(task)

    def __call__(self, table: Table) -> Table:
        column = columns_of(table.schema, self._column, "the batch").photo
        preprocessed = [self._preprocess(_source(value)) for value in table[column].to_pylist()]
        bad = [asdict(one) if isinstance(one, Failure) else None for one in preprocessed]
        pixels = [None if isinstance(one, Failure) else one.tobytes() for one in preprocessed]
        return _with_columns(
            table, [{"pixels": one, "error": why} for one, why in zip(pixels, bad, strict=True)], _decoded()
        )


class Predict:
    """The second stage, on GPUs if there are any: replaces `pixels` by the columns of a task.

    Attributes:
        produced: names of these columns.
    """

    def __init__(self, task: Task) -> None:
        self._model, self._schema = task.open(), schema(task).remove(0)
        self.produced = frozenset(self._schema.names)
        self._shape = (*[card_of(task.model).image.size] * 2, 3)

    def __call__(self, table: Table) -> Table:
        errors, given = table["error"].to_pylist(), table["pixels"].to_pylist()
        good = [np.frombuffer(one, np.uint8).reshape(self._shape) for one in given if one is not None]
        answers = iter(self._model(good))
        rows = [{"error": why} if why else {**next(answers), "error": None} for why in errors]
        return _with_columns(table.drop_columns(["pixels"]), rows, self._schema)


class Tag:
    """Adds the columns of a task, such as tags, scores and error, to batches: both stages in one.

    It can be pickled; the model is loaded at the first call, once per process.

    Args:
        column: column of photos, as encoded bytes or paths; by default detected by name and type.
        task: by default tags by the embedded model, on CPU.
    """

    def __init__(self, column: str | None = None, *, task: Task | None = None) -> None:
        self._given = pickle.dumps((column, task or Task(device="cpu")))

    def __call__(self, batch: Batch) -> Batch:
        """Add columns to a batch: a `pyarrow.Table`, a pandas `DataFrame`, or a dict of columns."""
        decode, ask = _stages(self._given)
        like: Batch = _as_type_of(batch, ask(decode(_table(batch))), ask.produced)
        return like


@cache
def _stages(given: bytes) -> tuple[Decode, Predict]:
    column, task = pickle.loads(given)
    return Decode(column, task), Predict(task)


def _decoded() -> Any:
    pyarrow = import_module("pyarrow")
    return pyarrow.schema([("pixels", pyarrow.binary()), schema(Task()).field("error")])


def _source(value: Any) -> Any:
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    return b"" if value is None else value


def _table(batch: Any) -> Any:
    pyarrow = import_module("pyarrow")
    if isinstance(batch, pyarrow.Table):
        return batch
    if isinstance(batch, Mapping):
        return pyarrow.table({name: list(values) for name, values in batch.items()})
    return pyarrow.Table.from_pandas(batch, preserve_index=False)


def _with_columns(table: Table, rows: Sequence[dict[str, Any]], schema: Any) -> Table:
    """The table with added columns, which replace those of the same names."""
    new = import_module("pyarrow").Table.from_pylist(list(rows), schema=schema)
    table = table.drop_columns([name for name in new.column_names if name in table.column_names])
    for name in new.column_names:
        table = table.append_column(schema.field(name), new[name])
    return table


def _as_type_of(batch: Any, table: Table, produced: Container[str]) -> Any:
    """The table as the type of the batch, with the batch's own columns except for those that are produced."""
    if isinstance(batch, import_module("pyarrow").Table):
        return table
    if isinstance(batch, Mapping):
        return {
            name: batch[name] if name in batch and name not in produced else table[name].to_pylist()
            for name in table.column_names
        }
    own = batch.drop(columns=[name for name in batch.columns if name in produced]).reset_index(drop=True)
    return own.assign(**{name: table[name].to_pandas() for name in table.column_names if name in produced})


def tag(
    dataset: Any, *, column: str | None = None, actors: int | None = None, task: Task | None = None
) -> Any:
    """Add the columns tags, scores and error, and vector if the task embeds, to a `ray.data.Dataset`.

    On a cluster with GPUs, photos are decoded on CPUs and tagged on GPUs; otherwise one actor per core does
    both.

    Args:
        dataset: with photos as encoded bytes, or paths that all machines can read.
        column: column of the photos; by default detected by name and type.
        actors: maximum number of CPU actors, one per core; by default the number of cores of the cluster.
        task: by default tags by the embedded model.
    """
    task, data = task or Task(), cluster.ray_data()
    count = cluster.gpus() if task.device != "cpu" else 0
    pool = data.ActorPoolStrategy(min_size=1, max_size=actors or cluster.cores())
    options = {"batch_format": "pyarrow", "batch_size": 64}
    on_cpu = {**options, "compute": pool, "num_cpus": 1, "memory": cluster.MEMORY}
    if not count:
        task = replace(task, device="cpu")
        return dataset.map_batches(
            Tag, fn_constructor_args=(column,), fn_constructor_kwargs={"task": task}, **on_cpu
        )
    on_gpu = {**options, "compute": data.ActorPoolStrategy(min_size=1, max_size=count), "num_gpus": 1}
    decoded = dataset.map_batches(Decode, fn_constructor_args=(column, task), **on_cpu)
    return decoded.map_batches(Predict, fn_constructor_args=(task,), **on_gpu)


def caption(
    dataset: Any, *, column: str | None = None, actors: int | None = None, task: Task | None = None
) -> Any:
    """Add the columns caption, tags and error to a `ray.data.Dataset`; arguments as for `tag`."""
    return tag(dataset, column=column, actors=actors, task=task or Task("caption"))
