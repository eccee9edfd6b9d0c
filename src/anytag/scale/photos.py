"""The photos of a unit, as a stream: no more of them is held than the few that are looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from typing import Any

from anytag.batching import in_batches
from anytag.data.io import folder_of, is_url, join, photo_source, public
from anytag.data.shards import read_samples
from anytag.data.tables import parquet_file
from anytag.data.units import Unit, evenly
from anytag.errors import AnytagError, ImageError
from anytag.results import Failure
from anytag.scale.stages import failure

IDS = ("id", "key", "__key__", "image_id", "photo_id", "uid", "uuid")
PHOTOS = ("image", "photo", "jpg", "jpeg", "png", "webp", "bytes", "image_bytes", "content", "img", "data")
ADDRESSES = ("url", "image_url", "photo_url", "uri", "path", "file", "image_path", "file_name", "filename")
_BATCH = 8  # rows of Parquet that are held at once
_TAR_BLOCK = 512  # bytes: a member has one before it and is filled up to whole ones
_TRIED = 100  # files, before an input of which none can be read is refused
_FETCHERS = 4  # photos of URLs that are fetched ahead


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo of a unit.

    Attributes:
        id: of its row.
        source: its bytes, or its path on disk; None where there is an error.
        error: why there is none.
        bytes: of a tar that its sample takes up, else 0.
    """

    id: str
    source: bytes | str | None
    error: Failure | None = None
    bytes: int = 0


Wanted = Callable[[int], bool]
"""Is the photo of this place in the unit to be read?"""


def photos(unit: Unit, *, column: str | None = None, wanted: Wanted = lambda _: True) -> Iterator[Photo]:
    """The photos of a unit in its order, those that are not wanted left out.

    Args:
        column: of Parquet, which holds photos or their addresses; by default the one that looks like it.

    Raises:
        AnytagError: the unit cannot be opened, or a column cannot be told. What breaks off later is an error
            in the photos that are missing.
    """
    if unit.kind == "tar":
        return _of_shard(unit, wanted)
    return _of_rows(unit, column, wanted)


def refuse_unreadable(files: Sequence[Unit], column: str | None) -> None:
    """Looks at the first photo of files, one after the other, until there is one.

    Raises:
        AnytagError: of the first, where none has one: they cannot be opened, or a column cannot be told.
    """
    errors: list[AnytagError] = []
    for unit in evenly(list({unit.url: unit for unit in files}.values()), _TRIED):
        try:
            with closing(photos(unit, column=column)) as found:  # type: ignore[type-var]
                next(found, None)
            return
        except AnytagError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def _of_shard(unit: Unit, wanted: Wanted) -> Iterator[Photo]:
    name, at = public(unit.url), 0
    try:
        for at, sample in enumerate(read_samples(unit.url), 1):
            if not wanted(at - 1):
                continue
            size = sum(_TAR_BLOCK * (1 + -(-len(body) // _TAR_BLOCK)) for body in sample.members.values())
            if sample.photo:
                yield Photo(f"tar://{sample.photo}::{name}", sample.pixels, bytes=size)
            else:
                lack = ImageError(f"no photo among {', '.join(sorted(sample.members))}")
                yield Photo(f"tar://{sample.key}::{name}", None, failure(lack), size)
    except AnytagError as error:
        if not at:
            raise
        if wanted(at):
            yield Photo(f"tar://::{name}#{at}", None, failure(error))


@dataclass(frozen=True, slots=True)
class _Columns:
    """Which columns of Parquet are read: of ids, if there is one, and of photos or addresses."""

    id: str | None
    photo: str

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys(name for name in (self.id, self.photo) if name))


def _of_rows(unit: Unit, column: str | None, wanted: Wanted) -> Iterator[Photo]:
    """Rows of a row group; addresses are fetched by a few threads ahead."""
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


def _cells(unit: Unit, column: str | None, wanted: Wanted) -> Iterator[tuple[str | None, str, Any]]:
    """Id, what stands for it, and photo of each row; of rows that cannot be read, the error."""
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
    """One photo from a cell: bytes, an address, or both as Hugging Face's datasets have them."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, AnytagError):
        return Photo(name or fallback, None, failure(value))
    if isinstance(value, str) and value.strip():
        found = join(root, value)
        name = name or public(value if is_url(value) else found)
        try:
            return Photo(name, photo_source(root, value))
        except Exception as error:  # each of fsspec's systems has errors of its own
            return Photo(name, None, failure(error))
    if isinstance(value, bytes):
        return Photo(name or fallback, value)
    kind = "nothing" if value in (None, "") else type(value).__name__
    return Photo(
        name or fallback, None, failure(ImageError(f"the cell holds {kind}: expected a photo or its address"))
    )


def columns_of(schema: Any, column: str | None, where: str) -> _Columns:
    """Which columns of a schema of Arrow hold ids and photos.

    Raises:
        AnytagError: it cannot be told.
    """
    names = list(schema.names)
    ident = next((name for name in IDS if name in names), None)
    if column is not None:
        if column not in names:
            raise AnytagError(f"{where} has no column {column!r}; it has {', '.join(names)}")
        return _Columns(ident if ident != column else None, column)
    kinds = {name: str(schema.field(name).type) for name in names}
    binary = [name for name, kind in kinds.items() if "binary" in kind]
    chosen = [name for name in PHOTOS if name in binary] or binary
    if len(chosen) > 1 and chosen[0] not in PHOTOS:
        chosen = []
    if not binary:
        chosen = [name for name in (*ADDRESSES, *PHOTOS) if kinds.get(name) in ("string", "large_string")]
    if not chosen:
        raise AnytagError(
            f"{where}: none of the columns {', '.join(names)} is known to hold photos or their addresses; "
            "say which: --column NAME, in Python column="
        )
    return _Columns(ident, chosen[0])
