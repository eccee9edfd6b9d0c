"""A corpus larger than one machine: the data engine's stages over Ray Data (extra `ray`).

    import ray
    ray.init("auto")
    run("s3://bucket/rows", "s3://bucket/labelled", stages=("parse", "generate", "check"))

A pool of actors holds what the stages need (the model, say) and maps batches of rows; a batch goes through
all stages where it is. An actor that is lost with its machine is started again elsewhere, and its batches are
done again.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from anytag.data import check, formats
from anytag.data.engine import generate
from anytag.data.io import folder_of, is_folder, is_url, join, listing, refuse_filled
from anytag.data.labels import Labeler
from anytag.data.rows import Row, row_of
from anytag.data.tables import columns_of, read_parquet, row_groups, schema_of_rows
from anytag.errors import AnytagError, MissingExtraError
from anytag.models.folder import ModelFolder
from anytag.models.registry import resolve
from anytag.tagger import Tagger
from anytag.vocabulary import Vocabulary

BATCH = 64
"""Rows that an actor works on at once."""

Columns = dict[str, Any]
Batch = Any
"""A pyarrow.Table of the columns of rows, `error` and `hash`."""


class Parse:
    """Adds the tags that captions name: see `generate.parse`."""

    def __init__(self, *, model: str | None, root: str) -> None:
        folder = ModelFolder.open(resolve(model))
        self.labeler = Labeler(Vocabulary.read(folder.file("vocabulary.jsonl")))

    def __call__(self, batch: Batch) -> Batch:
        columns = batch.to_pylist()
        rows = generate.parse(map(_row, columns), self.labeler)
        return _table([{**one, **columns_of(row)} for one, row in zip(columns, rows, strict=True)])


class Generate:
    """Adds the tags that the model sees: see `generate.generate`."""

    def __init__(self, *, model: str | None, root: str) -> None:
        self.tagger, self.root = Tagger.load(model), root

    def __call__(self, batch: Batch) -> Batch:
        columns = batch.to_pylist()
        tagged = generate.generate_or_say(map(_row, columns), self.root, self.tagger, workers=1)
        return _table(
            [
                {**one, **columns_of(row), "error": one["error"] or error}
                for one, (row, error) in zip(columns, tagged, strict=True)
            ]
        )


class Check:
    """Says in `error` why a photo cannot be read, and in `hash` what it looks like: 64 hexadecimal digits."""

    def __init__(self, *, model: str | None, root: str) -> None:
        self.root = root

    def __call__(self, batch: Batch) -> Batch:
        columns = batch.to_pylist()
        looks = check.look_at_all((_row(one) for one in columns), self.root, workers=1)
        for one, seen in zip(columns, looks, strict=True):
            if not one["image"]:
                continue  # `error` says why
            if seen.finding is None:
                one["hash"] = seen.hash.tobytes().hex()
            else:
                one["error"] = f"{seen.finding.problem}: {seen.finding.says}"
        return _table(columns)


STAGES: dict[str, type[Parse | Generate | Check]] = {"parse": Parse, "generate": Generate, "check": Check}


class Stages:
    """Several stages, one after the other."""

    def __init__(self, *, stages: Sequence[str], model: str | None, root: str) -> None:
        self.stages = [STAGES[name](model=model, root=root) for name in stages]

    def __call__(self, batch: Batch) -> Batch:
        for stage in self.stages:
            batch = stage(batch)
        return batch


def run(
    source: str,
    output: str,
    *,
    stages: Sequence[str] = tuple(STAGES),
    model: str | None = None,
    root: str | None = None,
    actors: int = 2,
) -> None:
    """Runs stages over a corpus on the Ray cluster that this process is connected to.

    Args:
        source: data of any format that `formats.read` knows, or a folder of Parquet or JSON lines; a path or
            URL that all machines see. Every file is one piece of work, and every row group of Parquet.
        output: a folder or URL for Parquet files: the columns of rows, `error` and `hash`.
        stages: of `STAGES`, in this order.
        model: name or folder, seen by all machines; None is the embedded model.
        root: the folder that photos are relative to; by default that of the file that names them.
        actors: at most; a core each.

    Raises:
        AnytagError: an unknown stage, or nothing to read.
        OutputError: `output` has files.
        MissingExtraError: Ray is not installed.
    """
    ray_data = _ray_data()
    if unknown := [name for name in stages if name not in STAGES]:
        raise AnytagError(f"stage {unknown[0]!r} is unknown; known are {', '.join(STAGES)}")
    source, output = _absolute(source), _absolute(output)  # workers may begin in another folder
    root = _absolute(root) if root is not None else None
    refuse_filled(output)
    work = pieces(source)
    rows = ray_data.from_items(work, override_num_blocks=len(work)).map_batches(
        _read, fn_kwargs={"root": root, "output": output}, batch_format="pyarrow", batch_size=1
    )
    rows = rows.map_batches(
        Stages,
        fn_constructor_kwargs={"stages": list(stages), "model": model, "root": output},
        batch_format="pyarrow",
        batch_size=BATCH,
        compute=ray_data.ActorPoolStrategy(min_size=1, max_size=actors),
        num_cpus=1,
    )
    rows.write_parquet(output)


def _absolute(path: str) -> str:
    return path if is_url(path) else Path(path).absolute().as_posix()


def connect(address: str | None = None) -> None:
    """Joins a Ray cluster; starts one on this machine where no address is given and none is running."""
    _ray_data()
    import_module("ray").init(address=address, log_to_driver=False)


def _ray_data() -> Any:
    try:
        return import_module("ray.data")
    except ImportError as error:
        raise MissingExtraError("a corpus on many machines", "ray") from error


def pieces(source: str) -> list[Columns]:
    """What is read apart: {"path": a file, "group": of its row groups, or -1 for the whole file}.

    Raises:
        AnytagError: a folder without rows.
    """
    paths = [source]
    if is_folder(source):
        names = [name for name in listing(source) if name.endswith((".parquet", ".jsonl", ".ndjson"))]
        paths = [join(source, name) for name in names] or paths
    return [
        {"path": path, "group": group}
        for path in paths
        for group in (range(row_groups(path)) if path.endswith(".parquet") else [-1])
    ]


def _read(batch: Batch, *, root: str | None = None, output: str = "") -> Batch:
    """The rows of pieces, photos named relative to `output`; what is no row is named in `error`."""
    columns: list[Columns] = []
    nothing = columns_of(Row("", "", ""))

    def tell(message: str) -> None:
        columns.append({**nothing, "error": message})

    for piece in batch.to_pylist():
        if piece["group"] < 0:
            rows = formats.read(piece["path"], source="corpus", on_error=tell)
        else:
            group = [piece["group"]]
            rows = read_parquet(piece["path"], source="corpus", split="train", groups=group, on_error=tell)
        there = folder_of(piece["path"]) if root is None else root
        columns += map(columns_of, formats.moved(rows, there, output))
    return _table(columns)


def _known(columns: Columns) -> Columns:
    return {key: value for key, value in columns.items() if key in (*Row.__slots__, "caption")}


def _row(columns: Columns) -> Row:
    if not columns["image"]:  # in the place of what is no row
        return Row("", "", "")
    return row_of(_known(columns))


def _table(columns: list[Columns]) -> Batch:
    pyarrow = import_module("pyarrow")
    extra = [("error", pyarrow.string()), ("hash", pyarrow.string())]
    schema = pyarrow.schema([*schema_of_rows(), *extra])
    whole = [{"hash": None, "error": None, **one} for one in columns]
    return pyarrow.Table.from_pylist(whole, schema=schema)
