"""An output folder with one file per unit of the input.

    FOLDER/part-0f3a….parquet      the rows of a unit; its existence means that the unit is done
    FOLDER/_anytag/work.json       command, model and options
    FOLDER/_anytag/units.jsonl     the manifest: one line per finished unit
    FOLDER/_anytag/photos-*.parquet  listings that were split into slices

File names are hashes of the unit, its stamp and the work. So a repeated unit writes the same file, nothing is
duplicated, and processes need no coordination.
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
from anytag.data.backoff import with_retries
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

_ROWS = 1000  # rows in memory while a part is written
_FOOTERS = 16  # Parquet footers read in parallel
_UNIT = b"anytag unit"  # metadata key in a part


@dataclass(frozen=True, slots=True)
class UnitResult:
    """A line of the manifest.

    Attributes:
        file: the part's name; "" if the unit could not be read.
        unit, stamp: of the unit.
        rows: number of rows in the part.
        failed: number of rows with an error.
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
        work: what produces the rows, as plain JSON.
    """

    folder: str
    work: Mapping[str, Any]

    @property
    def notes(self) -> str:
        """The metadata folder, with a leading underscore so that readers of Parquet folders skip it."""
        return join(self.folder, "_anytag")

    def file(self, unit: Unit) -> str:
        """The file name of a unit's part."""
        key = json.dumps([unit.name, unit.stamp, self.work], sort_keys=True)
        return f"part-{blake2b(key.encode(), digest_size=16).hexdigest()}.parquet"

    def begin(self) -> None:
        """Write `work` to the folder, if it is not there; errors as for `check`."""
        if not self.check():
            with draft(join(self.notes, "work.json")) as file:
                file.write_text(json.dumps(self.work, indent=1, sort_keys=True) + "\n", encoding="utf-8")

    def check(self) -> bool:
        """Whether the folder belongs to this work; if not, it is empty.

        Raises:
            RefusedOutputError: it has other content, or rows of another model or other options.
        """
        place = join(self.notes, "work.json")
        if exists(place):
            with open_read(place) as file:
                self._compare(json.load(file))
            return True
        if exists(self.folder) and (not is_folder(self.folder) or any(listing(self.folder))):
            raise RefusedOutputError(
                f"{public(self.folder)} is not empty and has no rows of this command: give another folder"
            )
        return False

    def _compare(self, earlier: Mapping[str, Any]) -> None:
        current = json.loads(json.dumps(self.work))
        other = [key for key in sorted({*current, *earlier}) if current.get(key) != earlier.get(key)]
        if other:
            changes = ", ".join(
                f"{key} was {brief(earlier.get(key))} and is {brief(current.get(key))}" for key in other
            )
            raise RefusedOutputError(
                f"{public(self.folder)} contains rows of another run ({changes}): give another --output, "
                "or use the same model and options"
            )

    def there(self) -> set[str]:
        """The names of all existing parts, without caching."""
        if not exists(self.folder):
            return set()
        names = (one.path.rpartition("/")[2] for one in files_at(self.folder))
        return {name for name in names if name.startswith("part-")}

    def manifest(self) -> dict[str, UnitResult]:
        """The lines of the manifest by file name; an interrupted run may have more files than lines."""
        place = join(self.notes, "units.jsonl")
        if not exists(place):
            return {}
        with open_read(place) as file:
            lines = [UnitResult(**json.loads(line)) for line in file]
        return {line.file: line for line in lines}

    def write_manifest(self, lines: Iterable[UnitResult]) -> None:
        """Replace the manifest."""
        with draft(join(self.notes, "units.jsonl")) as file, file.open("w", encoding="utf-8") as text:
            text.writelines(json.dumps(asdict(line), ensure_ascii=False) + "\n" for line in lines)

    def facts(self, names: Sequence[str]) -> list[UnitResult]:
        """Read the results from the footers of parts."""
        if not names:
            return []
        return [
            one for some in in_batches(self._facts, names, batch_size=1, workers=_FOOTERS) for one in some
        ]

    def _facts(self, names: Sequence[str]) -> list[UnitResult]:
        return [with_retries(lambda name=name: self.fact(name)) for name in names]  # type: ignore[misc]

    def fact(self, name: str) -> UnitResult:
        """Read the result from the footer of one part."""
        with parquet_file(join(self.folder, name)) as table:
            facts = table.metadata
            unit, stamp = json.loads(facts.metadata[_UNIT])
            groups = [facts.row_group(number) for number in range(facts.num_row_groups)]
            return UnitResult(name, unit, stamp, facts.num_rows, sum(map(_failed, groups)))

    @contextmanager
    def writing(self, unit: Unit, schema: Any) -> Iterator[_Writer]:
        """Yield a writer for the rows of a unit; the part is written atomically."""
        parquet = import_module("pyarrow.parquet")
        metadata = {_UNIT: json.dumps([unit.name, unit.stamp]).encode()}
        with (
            draft(join(self.folder, self.file(unit))) as file,
            parquet.ParquetWriter(file, schema.with_metadata(metadata), compression="zstd") as writer,
        ):
            rows = _Writer(writer, schema)
            yield rows
            rows.flush()

    def read(self, name: str) -> Iterator[dict[str, Any]]:
        """Yield the rows of a part."""
        with parquet_file(join(self.folder, name)) as table:
            for batch in table.iter_batches(batch_size=_ROWS):
                yield from batch.to_pylist()

    def sweep(self) -> None:
        """Remove drafts that interrupted processes left on disk; object stores have none."""
        if not is_url(self.folder):
            for leftover in Path(self.folder).glob(".part-*.new"):
                leftover.unlink(missing_ok=True)


class _Writer:
    """Writes rows to Parquet in blocks."""

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
    """Number of rows with an error in a row group, from the null count of `error.type` or `error`."""
    columns = (group.column(number) for number in range(group.num_columns))
    column = next(one for one in columns if one.path_in_schema in ("error.type", "error"))
    return int(group.num_rows - column.statistics.null_count)


def place(folder: str) -> str:
    """Normalise the folder of parts so that it is valid in all processes.

    Raises:
        AnytagError: it is an HTTP URL, which cannot be written to.
    """
    if folder.startswith(("http://", "https://")):
        raise AnytagError(f"{public(folder)}: cannot write to an HTTP URL; give a folder, s3://… or gs://…")
    return absolute(folder).rstrip("/")
