"""What maps over batches of others: Ray Data's `map_batches`, Spark's `mapInPandas`, datasets' `map`."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from importlib import import_module
from typing import Any, TypeVar

import numpy as np

from anytag.data import cluster
from anytag.results import Failure
from anytag.scale.photos import columns_of
from anytag.scale.stages import Look, Task, card_of, schema

Batch = TypeVar("Batch")
Table = Any
"""A `pyarrow.Table`."""


class Decode:
    """The first stage, on CPUs: adds `pixels`, a photo as the model's square, and `error`, why there is none.

    Args:
        column: of photos: encoded bytes or paths; by default the one that looks like it.
        task: what will be asked.
    """

    def __init__(self, column: str | None, task: Task) -> None:
        self._column, self._look = column, Look(task)

    def __call__(self, table: Table) -> Table:
        column = columns_of(table.schema, self._column, "the batch").photo
        looked = [self._look(_source(value)) for value in table[column].to_pylist()]
        bad = [asdict(one) if isinstance(one, Failure) else None for one in looked]
        pixels = [None if isinstance(one, Failure) else one.tobytes() for one in looked]
        return _with(
            table, [{"pixels": one, "error": why} for one, why in zip(pixels, bad, strict=True)], _decoded()
        )


class TagLike:
    """The second, on GPUs where there are some: the columns of a task in the place of `pixels`."""

    def __init__(self, task: Task) -> None:
        self._model, self._schema = task.open(), schema(task).remove(0)
        self._shape = (*[card_of(task.model).image.size] * 2, 3)

    def __call__(self, table: Table) -> Table:
        errors, given = table["error"].to_pylist(), table["pixels"].to_pylist()
        good = [np.frombuffer(one, np.uint8).reshape(self._shape) for one in given if one is not None]
        answers = iter(self._model(good))
        rows = [{"error": why} if why else {**next(answers), "error": None} for why in errors]
        return _with(table.drop_columns(["pixels"]), rows, self._schema)


class Tag:
    """Adds the columns of a task (tags and scores, say, and error) to batches: both stages in one.

    It holds names alone, so it can be pickled; the model is loaded where it is first called, once a process.

    Args:
        column: of photos: encoded bytes or paths; by default the one that looks like it.
        task: what to ask; by default the tags of the embedded model.
    """

    def __init__(self, column: str | None = None, *, task: Task | None = None) -> None:
        self._given = pickle.dumps((column, task or Task(device="cpu")))

    def __call__(self, batch: Batch) -> Batch:
        """The same batch with more columns: a `pyarrow.Table`, a pandas `DataFrame`, or a dict of columns."""
        decode, ask = _stages(self._given)
        like: Batch = _like(batch, ask(decode(_table(batch))))
        return like


@cache
def _stages(given: bytes) -> tuple[Decode, TagLike]:
    column, task = pickle.loads(given)
    return Decode(column, task), TagLike(task)


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


def _with(table: Table, rows: Sequence[dict[str, Any]], schema: Any) -> Table:
    """The table with these columns, which replace those of their names."""
    new = import_module("pyarrow").Table.from_pylist(list(rows), schema=schema)
    table = table.drop_columns([name for name in new.column_names if name in table.column_names])
    for name in new.column_names:
        table = table.append_column(schema.field(name), new[name])
    return table


def _like(batch: Any, table: Table) -> Any:
    if isinstance(batch, import_module("pyarrow").Table):
        return table
    if isinstance(batch, Mapping):
        return {
            name: batch[name] if name in batch else table[name].to_pylist() for name in table.column_names
        }
    return table.to_pandas()


def tag(
    dataset: Any, *, column: str | None = None, actors: int | None = None, task: Task | None = None
) -> Any:
    """A `ray.data.Dataset` with tags: columns tags, scores and error more, and vector where the task embeds.

    On a cluster with GPUs photos are decoded on CPUs and asked on GPUs; else both by one actor a core.

    Args:
        dataset: with photos as encoded bytes, or paths that every machine sees.
        column: of the photos; by default the one that looks like it.
        actors: on CPUs at most, a core each; by default as many as the cluster has cores.
        task: what to ask; by default the tags of the embedded model.
    """
    task, data = task or Task(), cluster.ray_data()
    count = cluster.gpus() if task.device != "cpu" else 0
    pool = data.ActorPoolStrategy(min_size=1, max_size=actors or cluster.cores())
    how = {"batch_format": "pyarrow", "batch_size": 64}
    on_cpu = {**how, "compute": pool, "num_cpus": 1, "memory": cluster.MEMORY}
    if not count:
        task = replace(task, device="cpu")
        return dataset.map_batches(
            Tag, fn_constructor_args=(column,), fn_constructor_kwargs={"task": task}, **on_cpu
        )
    on_gpu = {**how, "compute": data.ActorPoolStrategy(min_size=1, max_size=count), "num_gpus": 1}
    decoded = dataset.map_batches(Decode, fn_constructor_args=(column, task), **on_cpu)
    return decoded.map_batches(TagLike, fn_constructor_args=(task,), **on_gpu)


def caption(
    dataset: Any, *, column: str | None = None, actors: int | None = None, task: Task | None = None
) -> Any:
    """The same with captions: columns caption, tags and error."""
    return tag(dataset, column=column, actors=actors, task=task or Task("caption"))
