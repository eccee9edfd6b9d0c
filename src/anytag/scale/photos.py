"""Stream the photos of a unit; only a few are in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from typing import Any

from anytag.batching import in_batches
from anytag.data.io import folder_of, is_url, join, photo_source, public, public_name
from anytag.data.shards import read_samples
from anytag.data.tables import parquet_file
from anytag.data.units import Unit, evenly
from anytag.errors import AnytagError, ImageError
from anytag.results import Failure
from anytag.scale.stages import failure

ID_COLUMNS = ("id", "key", "__key__", "image_id", "photo_id", "uid", "uuid")
PHOTO_COLUMNS = (
    "image",
    "photo",
    "jpg",
    "jpeg",
    "png",
    "webp",
    "bytes",
    "image_bytes",
    "content",
    "img",
    "data",
)
URL_COLUMNS = ("url", "image_url", "photo_url", "uri", "path", "file", "image_path", "file_name", "filename")
_BATCH = 8  # Parquet rows in memory at a time
_TAR_BLOCK = 512  # bytes: each member has a header of one block, and is padded to whole blocks
_MAX_TRIED = 100  # files that are tried before an unreadable input is refused
_FETCHERS = 4  # threads that prefetch URLs


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo of a unit.

    Attributes:
        id: id of its row.
        source: its encoded bytes, or its path on disk; None if there is an error.
        error: why it could not be read.
        bytes: size of its sample in a tar, else 0.
    """

    id: str
    source: bytes | str | None
    error: Failure | None = None
    bytes: int = 0


RowFilter = Callable[[int], bool]
"""Whether the photo at this index of the unit is to be read."""


def photos(unit: Unit, *, column: str | None = None, wanted: RowFilter = lambda _: True) -> Iterator[Photo]:
    """The photos of a unit, in order.

    Args:
        unit: a row group or a shard.
        column: Parquet column of photos or their URLs; by default detected by name and type.
        wanted: selects the photos to read.

    Raises:
        AnytagError: the unit cannot be opened, or the column is ambiguous. Later read errors are errors of
            the missing photos.
    """
    if unit.kind == "tar":
        return _of_shard(unit, wanted)
    return _of_rows(unit, column, wanted)


def refuse_unreadable(files: Sequence[Unit], column: str | None) -> None:
    """Check that at least one of the files, of which up to 100 are tried, can be read.

    Raises:
        AnytagError: the error of the first file, if none can be read.
    """
    errors: list[AnytagError] = []
    for unit in evenly(list({unit.url: unit for unit in files}.values()), _MAX_TRIED):
        try:
            with closing(photos(unit, column=column)) as found:  # type: ignore[type-var]
                next(found, None)
            return
        except AnytagError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def _of_shard(unit: Unit, wanted: RowFilter) -> Iterator[Photo]:
    name, at = public_name(unit.url), 0
    try:
        for at, sample in enumerate(read_samples(unit.url), 1):
            if not wanted(at - 1):
                continue
            size = sum(_TAR_BLOCK * (1 + -(-length // _TAR_BLOCK)) for length in sample.sizes)
            address = f"tar://{sample.photo or sample.key}::{name}"
            try:
                yield Photo(address, sample.pixels, bytes=size)
            except ImageError as error:
                yield Photo(address, None, failure(error), size)
    except AnytagError as error:
        if not at:
            raise
        if wanted(at):
            yield Photo(f"tar://::{name}#{at}", None, failure(error))


@dataclass(frozen=True, slots=True)
class _Columns:
    """The Parquet columns of ids, if there is one, and of photos or URLs."""

    id: str | None
    photo: str

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys(name for name in (self.id, self.photo) if name))


def _of_rows(unit: Unit, column: str | None, wanted: RowFilter) -> Iterator[Photo]:
    """Photos of a row group; URLs are prefetched by a few threads."""
    cells = _cells(unit, column, wanted)
    root = folder_of(unit.url)

    def fetch(some: Sequence[tuple[str | None, str, Any]]) -> list[Photo]:
        return [_photo(name, fallback, value, root) for name, fallback, value in some]

    first = next(cells, None)
    if first is None:
        return
    every = chain([first], cells)
    is_near = isinstance(first[2], bytes)
    for some in (
        (fetch([cell]) for cell in every)
        if is_near
        else in_batches(fetch, every, batch_size=1, workers=_FETCHERS)
    ):
        yield from some


def _cells(unit: Unit, column: str | None, wanted: RowFilter) -> Iterator[tuple[str | None, str, Any]]:
    """Id or None, fallback id, and photo of each row; the error for rows that cannot be read."""
    at = 0
    try:
        with parquet_file(unit.url) as table:
            columns = columns_of(table.schema_arrow, column, unit.name)
            read = table.iter_batches(
                batch_size=_BATCH, row_groups=[unit.part], columns=columns.names, use_threads=False
            )
            for batch in read:
                ids = batch[columns.id].to_pylist() if columns.id else [None] * len(batch)
                for number in range(len(batch)):
                    if wanted(at):
                        address = (
                            unit.addresses[at] if unit.addresses else batch[columns.photo][number].as_py()
                        )
                        yield _id(ids[number]), f"{unit.name}/{at}", address
                    at += 1
    except AnytagError as error:
        if not at:
            raise
        for place in range(at, unit.rows):
            if wanted(place):
                yield None, f"{unit.name}/{place}", error


def _id(value: Any) -> str | None:
    return None if value is None else public(str(value))


def _photo(name: str | None, fallback: str, value: Any, root: str) -> Photo:
    """The photo of a cell: bytes, a URL, or a struct of both as in Hugging Face datasets."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, AnytagError):
        return Photo(name or fallback, None, failure(value))
    if isinstance(value, str) and value.strip():
        found = join(root, value)
        name = name or public_name(value if is_url(value) else found)
        try:
            return Photo(name, photo_source(root, value))
        except Exception as error:  # file systems of fsspec raise errors of their own
            return Photo(name, None, failure(error))
    if isinstance(value, bytes):
        return Photo(name or fallback, value)
    kind = "nothing" if value in (None, "") else type(value).__name__
    return Photo(
        name or fallback, None, failure(ImageError(f"the cell contains {kind}: expected a photo or its URL"))
    )


def columns_of(schema: Any, column: str | None, where: str) -> _Columns:
    """Detect the columns of ids and photos in an Arrow schema.

    Raises:
        AnytagError: the column of photos is missing or ambiguous.
    """
    names = list(schema.names)
    ident = next((name for name in ID_COLUMNS if name in names), None)
    if column is not None:
        if column not in names:
            raise AnytagError(f"{where} has no column {column!r}; it has {', '.join(names)}")
        return _Columns(ident if ident != column else None, column)
    kinds = {name: str(schema.field(name).type) for name in names}
    binary = [name for name, kind in kinds.items() if "binary" in kind]
    chosen = [name for name in PHOTO_COLUMNS if name in binary] or binary
    if len(chosen) > 1 and chosen[0] not in PHOTO_COLUMNS:
        chosen = []
    if not binary:
        chosen = [
            name for name in (*URL_COLUMNS, *PHOTO_COLUMNS) if kinds.get(name) in ("string", "large_string")
        ]
    if not chosen:
        raise AnytagError(
            f"{where}: cannot tell which of the columns {', '.join(names)} has photos or their URLs; "
            "name it with --column NAME, in Python column="
        )
    return _Columns(ident, chosen[0])
