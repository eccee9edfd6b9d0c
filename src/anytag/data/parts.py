"""An output that grows by whole files: one for each unit of the input, under a name that says which.

    FOLDER/part-0f3a….parquet      the rows of a unit; when it lies there, the unit is done
    FOLDER/_anytag/work.json       what made them: command, model, options
    FOLDER/_anytag/units.jsonl     the manifest: a line for each unit that is done
    FOLDER/_anytag/photos-*.parquet  listings that were cut into slices

A name is the hash of the unit, its stamp and the work. So whoever does a unit again, after whatever was
killed, writes the same file again: nothing doubles, and nobody has to agree with anybody.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import blake2b
from importlib import import_module
from pathlib import Path
from typing import Any

from anytag.batching import in_batches
from anytag.data.backoff import patiently
from anytag.data.io import (
    absolute,
    draft,
    exists,
    files_at,
    is_folder,
    is_url,
    join,
    listing,
    open_read,
    public,
)
from anytag.data.tables import parquet_file
from anytag.data.units import Unit
from anytag.errors import AnytagError, RefusedOutputError, brief

_ROWS = 1000  # that a part holds in memory while it is written
_FOOTERS = 16  # of parts that are read at once
_UNIT = b"anytag unit"  # the key of a part's metadata


@dataclass(frozen=True, slots=True)
class UnitResult:
    """A line of the manifest.

    Attributes:
        file: the part's name; "" where the unit could not be read.
        unit, stamp: as of the unit.
        rows: of the part.
        failed: rows of it that have an error.
        error: why there is no part.
    """

    file: str
    unit: str
    stamp: str
    rows: int = 0
    failed: int = 0
    error: str = ""


@dataclass(frozen=True)
class Parts:
    """A folder of parts, on disk or in an object store.

    Attributes:
        folder: path or URL.
        work: what makes the rows, as plain JSON.
    """

    folder: str
    work: Mapping[str, Any]

    @property
    def notes(self) -> str:
        """The folder of what is no rows; readers of Parquet folders pass over a name that begins with _."""
        return join(self.folder, "_anytag")

    def file(self, unit: Unit) -> str:
        """The name of a unit's part."""
        key = json.dumps([unit.name, unit.stamp, self.work], sort_keys=True)
        return f"part-{blake2b(key.encode(), digest_size=16).hexdigest()}.parquet"

    def begin(self) -> None:
        """Says in the folder what it will hold; errors as of `check`."""
        if not self.check():
            with draft(join(self.notes, "work.json")) as file:
                file.write_text(json.dumps(self.work, indent=1, sort_keys=True) + "\n", encoding="utf-8")

    def check(self) -> bool:
        """Does the folder say that it holds these rows? If not, it is empty.

        Raises:
            RefusedOutputError: it holds something else, or rows of another model or of other options.
        """
        place = join(self.notes, "work.json")
        if exists(place):
            with open_read(place) as file:
                self._compare(json.load(file))
            return True
        if exists(self.folder) and (not is_folder(self.folder) or any(listing(self.folder))):
            raise RefusedOutputError(
                f"{public(self.folder)} is not empty and holds no rows of this command: give another folder"
            )
        return False

    def _compare(self, earlier: Mapping[str, Any]) -> None:
        mine = json.loads(json.dumps(self.work))
        other = [key for key in sorted({*mine, *earlier}) if mine.get(key) != earlier.get(key)]
        if other:
            told = ", ".join(
                f"{key} was {brief(earlier.get(key))} and is {brief(mine.get(key))}" for key in other
            )
            raise RefusedOutputError(
                f"{public(self.folder)} holds rows of another work ({told}): give another --output, or the "
                "same model and options"
            )

    def there(self) -> set[str]:
        """The names of all parts, freshly listed."""
        if not exists(self.folder):
            return set()
        names = (one.path.rpartition("/")[2] for one in files_at(self.folder))
        return {name for name in names if name.startswith("part-")}

    def manifest(self) -> dict[str, UnitResult]:
        """The lines of the manifest by file; a run that was killed may have written more files than lines."""
        place = join(self.notes, "units.jsonl")
        if not exists(place):
            return {}
        with open_read(place) as file:
            lines = [UnitResult(**json.loads(line)) for line in file]
        return {line.file: line for line in lines}

    def write_manifest(self, lines: Iterable[UnitResult]) -> None:
        """Replaces the manifest."""
        with draft(join(self.notes, "units.jsonl")) as file, file.open("w", encoding="utf-8") as text:
            text.writelines(json.dumps(asdict(line), ensure_ascii=False) + "\n" for line in lines)

    def facts(self, names: Sequence[str]) -> list[UnitResult]:
        """What parts say of themselves, read from their footers."""
        if not names:
            return []
        return [
            one for some in in_batches(self._facts, names, batch_size=1, workers=_FOOTERS) for one in some
        ]

    def _facts(self, names: Sequence[str]) -> list[UnitResult]:
        return [patiently(lambda name=name: self.fact(name)) for name in names]  # type: ignore[misc]

    def fact(self, name: str) -> UnitResult:
        """The same of one."""
        with parquet_file(join(self.folder, name)) as table:
            facts = table.metadata
            unit, stamp = json.loads(facts.metadata[_UNIT])
            groups = [facts.row_group(number) for number in range(facts.num_row_groups)]
            return UnitResult(name, unit, stamp, facts.num_rows, sum(map(_failed, groups)))

    @contextmanager
    def writing(self, unit: Unit, schema: Any) -> Iterator[_Writer]:
        """The part of a unit to write rows into; it appears whole at the end, or not at all."""
        parquet = import_module("pyarrow.parquet")
        said = {_UNIT: json.dumps([unit.name, unit.stamp]).encode()}
        with (
            draft(join(self.folder, self.file(unit))) as file,
            parquet.ParquetWriter(file, schema.with_metadata(said), compression="zstd") as writer,
        ):
            rows = _Writer(writer, schema)
            yield rows
            rows.flush()

    def read(self, name: str) -> Iterator[dict[str, Any]]:
        """The rows of a part."""
        with parquet_file(join(self.folder, name)) as table:
            for batch in table.iter_batches(batch_size=_ROWS):
                yield from batch.to_pylist()

    def sweep(self) -> None:
        """Removes drafts that killed processes left on disk; of object stores there are none."""
        if not is_url(self.folder):
            for rubbish in Path(self.folder).glob(".part-*.new"):
                rubbish.unlink(missing_ok=True)


class _Writer:
    """Rows into Parquet, a block at a time."""

    def __init__(self, writer: Any, schema: Any) -> None:
        self._writer, self._schema = writer, schema
        self._rows: list[dict[str, Any]] = []
        self.rows = self.failed = 0

    def write(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        self.rows += 1
        self.failed += row["error"] is not None
        if len(self._rows) == _ROWS:
            self.flush()

    def flush(self) -> None:
        if self._rows:
            table = import_module("pyarrow").Table.from_pylist(self._rows, schema=self._schema)
            self._writer.write_table(table)
            self._rows = []


def _failed(group: Any) -> int:
    """Rows of a row group that have an error: those whose `error.type`, or `error`, is not null."""
    columns = (group.column(number) for number in range(group.num_columns))
    column = next(one for one in columns if one.path_in_schema in ("error.type", "error"))
    return int(group.num_rows - column.statistics.null_count)


def place(folder: str) -> str:
    """A folder of parts as all processes know it.

    Raises:
        AnytagError: the web takes no files.
    """
    if folder.startswith(("http://", "https://")):
        raise AnytagError(f"{public(folder)}: the web takes no files; give a folder, s3://… or gs://…")
    return absolute(folder).rstrip("/")
