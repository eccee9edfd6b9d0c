"""Run the data engine's stages over a large corpus with Ray Data (extra `ray`).

    import ray
    ray.init("auto")
    run("s3://bucket/rows", "s3://bucket/labelled", stages=("parse", "generate", "check"))

A pool of actors holds what the stages need, such as the model, and maps batches of rows through all stages.
An actor lost with its machine is restarted elsewhere, and its batches are repeated.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from anytag.batching import batches
from anytag.data import check, cluster, formats
from anytag.data.engine import generate
from anytag.data.io import absolute, files_at, folder_of, is_folder, listing, public
from anytag.data.labels import Labeler
from anytag.data.parts import Parts, UnitResult, place
from anytag.data.rows import OnError, Row, row_of
from anytag.data.tables import columns_of, read_parquet, schema_of_rows
from anytag.data.units import ROWS, Unit, units
from anytag.errors import AnytagError
from anytag.models.card import FILE_NAME, Card
from anytag.models.folder import ModelFolder
from anytag.models.registry import resolve
from anytag.tagger import Tagger
from anytag.vocabulary import Vocabulary

BATCH = 64
"""Number of rows that an actor processes at once."""

Columns = dict[str, Any]
Batch = Any
"""A pyarrow.Table with the columns of rows, `error` and `hash`."""


class Parse:
    """Adds the tags in captions: see `generate.parse`."""

    def __init__(self, *, model: str | None, root: str) -> None:
        folder = ModelFolder.open(resolve(model))
        self.labeler = Labeler(Vocabulary.read(folder.file("vocabulary.jsonl")))

    def __call__(self, batch: Batch) -> Batch:
        columns = batch.to_pylist()
        rows = generate.parse(map(_row, columns), self.labeler)
        return _table([{**one, **columns_of(row)} for one, row in zip(columns, rows, strict=True)])


class Generate:
    """Adds the tags that the model predicts: see `generate.generate`."""

    def __init__(self, *, model: str | None, root: str) -> None:
        self.tagger, self.root = Tagger.load(model), root

    def __call__(self, batch: Batch) -> Batch:
        columns = batch.to_pylist()
        tagged = generate.generate_with_errors(map(_row, columns), self.root, self.tagger, workers=1)
        return _table(
            [
                {**one, **columns_of(row), "error": one["error"] or error}
                for one, (row, error) in zip(columns, tagged, strict=True)
            ]
        )


class Check:
    """Sets `error` for unreadable photos, and `hash`, the difference hash in 64 hexadecimal digits."""

    def __init__(self, *, model: str | None, root: str) -> None:
        self.root = root

    def __call__(self, batch: Batch) -> Batch:
        columns = batch.to_pylist()
        photos = check.check_photos((_row(one) for one in columns), self.root, workers=1)
        for one, photo in zip(columns, photos, strict=True):
            if not one["image"]:
                continue  # `error` is set already
            if photo.finding is None:
                one["hash"] = photo.hash.tobytes().hex()
            else:
                one["error"] = f"{photo.finding.problem}: {photo.finding.says}"
        return _table(columns)


STAGES: dict[str, type[Parse | Generate | Check]] = {"parse": Parse, "generate": Generate, "check": Check}


class Stages:
    """Applies several stages in order."""

    def __init__(self, *, stages: Sequence[str], model: str | None, root: str) -> None:
        self.stages = [STAGES[name](model=model, root=root) for name in stages]

    def __call__(self, batch: Batch) -> Batch:
        for stage in self.stages:
            batch = stage(batch)
        return batch


@dataclass(frozen=True)
class Maker:
    """Sent to the workers of a cluster, each of which creates its `Labelling` from it."""

    parts: Parts
    stages: tuple[str, ...]
    model: str | None
    root: str | None

    def __call__(self) -> Labelling:
        stages = Stages(stages=self.stages, model=self.model, root=self.parts.folder)
        return Labelling(self.parts, stages, self.root)


class Labelling:
    """Processes units of rows; see `anytag.data.cluster.Work`."""

    def __init__(self, parts: Parts, stages: Stages, root: str | None) -> None:
        self.parts, self._stages, self._root = parts, stages, root

    def do(self, unit: Unit) -> UnitResult:
        """Process all rows of the unit with all stages."""
        with self.parts.writing(unit, _schema()) as part:
            for some in batches(columns_in(unit, root=self._root, output=self.parts.folder), BATCH):
                for row in self._stages(_table(some)).to_pylist():
                    part.write(row)
        return UnitResult(self.parts.file(unit), unit.name, unit.stamp, part.rows, part.failed)

    def again(self, unit: Unit, earlier: UnitResult) -> UnitResult:
        """Process the unit again; its failures did not come from a server, so all rows are repeated."""
        return self.do(unit)


def run(
    source: str,
    output: str,
    *,
    stages: Sequence[str] = tuple(STAGES),
    model: str | None = None,
    root: str | None = None,
    actors: int = 2,
) -> None:
    """Run stages over a corpus on the Ray cluster that this process is connected to.

    An interrupted run is resumed.

    Args:
        source: data in any format of `formats.read`, or a folder of Parquet or JSON lines; a path or URL that
            all machines can read. Every file is a unit, or every row group of a Parquet file.
        output: a folder or URL for Parquet files, one per unit: the columns of rows, `error` and `hash`.
        stages: of `STAGES`, in this order.
        model: name or folder, available on all machines; None is the embedded model.
        root: folder that the photos' paths are relative to; by default that of the file that names them.
        actors: maximum number, with one core each.

    Raises:
        AnytagError: an unknown stage, nothing to read, or, after all others are processed, unreadable units.
        OutputError: `output` has other files, or rows of other stages or another model.
        MissingExtraError: Ray is not installed.
    """
    cluster.ray_data()
    if unknown := [name for name in stages if name not in STAGES]:
        raise AnytagError(f"stage {unknown[0]!r} is unknown; expected one of {', '.join(STAGES)}")
    source, root = absolute(source), absolute(root) if root is not None else None
    card = Card.read(resolve(model) / FILE_NAME)
    work = {"anytag": "data ray", "stages": list(stages), "model": repr(card), "images": public(root or "")}
    parts = Parts(place(output), work)
    parts.check()
    found = corpus_units(source)
    parts.begin()  # after the input has been checked
    make = Maker(parts, tuple(stages), model, root)
    results = cluster.run(found, make, actors=actors)
    done = list(cluster.follow(parts, results, parts.manifest()))
    if bad := [one for one in done if one.error]:
        raise AnytagError(
            f"{len(bad)} of {len(done)} files could not be read, as {bad[0].unit}: {bad[0].error}"
        )


def corpus_units(source: str) -> list[Unit]:
    """The units of a corpus; anything but Parquet and folders of rows is a single unit.

    Raises:
        AnytagError: it does not exist, or a Parquet file cannot be read.
    """
    whole = not is_folder(source) and not source.endswith(".parquet")
    if whole or not any(name.endswith((".parquet", *ROWS)) for name in _names(source)):
        return [Unit(source, public(source), "rows", stamp=" ".join(one.stamp for one in files_at(source)))]
    made = units([source], kinds=ROWS)
    if made.unreadable:
        raise AnytagError(made.unreadable[0])
    return list(made.units)


def _names(source: str) -> Iterator[str]:
    return listing(source) if is_folder(source) else iter([source])


def columns_in(unit: Unit, *, root: str | None, output: str) -> Iterator[Columns]:
    """Yield the rows of a unit, with paths relative to `output`; invalid rows are reported in `error`."""
    messages: deque[str] = deque()
    rows = _rows(unit, messages.append)
    base = folder_of(unit.url) if root is None else root
    for row in formats.moved(rows, base, output):
        yield from _errors(messages)
        yield columns_of(row)
    yield from _errors(messages)


def _errors(messages: deque[str]) -> Iterator[Columns]:
    while messages:
        yield {**columns_of(Row("", "", "")), "error": public(messages.popleft())}


def _rows(unit: Unit, on_error: OnError) -> Iterator[Row]:
    if unit.kind != "parquet":
        return formats.read(unit.url, source="corpus", on_error=on_error)
    return read_parquet(unit.url, source="corpus", split="train", groups=[unit.part], on_error=on_error)


def _known(columns: Columns) -> Columns:
    return {key: value for key, value in columns.items() if key in (*Row.__slots__, "caption")}


def _row(columns: Columns) -> Row:
    if not columns["image"]:  # a placeholder for an invalid row
        return Row("", "", "")
    return row_of(_known(columns))


def _schema() -> Any:
    pyarrow = import_module("pyarrow")
    extra = [("error", pyarrow.string()), ("hash", pyarrow.string())]
    return pyarrow.schema([*schema_of_rows(), *extra])


def _table(columns: list[Columns]) -> Batch:
    whole = [{"hash": None, "error": None, **one} for one in columns]
    return import_module("pyarrow").Table.from_pylist(whole, schema=_schema())
