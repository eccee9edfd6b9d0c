"""What is read apart and written apart: row groups of Parquet, WebDataset shards, slices of a listing.

A listing of photos, the user's own or that of a prefix, becomes a Parquet file of addresses whose row groups
are the slices. It is written once, before the work, so that a slice stays what it is when the input grows.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Literal

from anytag.batching import batches, in_batches
from anytag.data.backoff import patiently
from anytag.data.io import (
    FileFacts,
    absolute,
    draft,
    exists,
    files_at,
    folder_of,
    is_url,
    join,
    open_read,
    public,
)
from anytag.data.tables import parquet_file
from anytag.errors import AnytagError
from anytag.images import SUFFIXES

SLICE = 1000
"""Photos of a listing that are one unit."""
ROWS, LISTINGS = (".jsonl", ".ndjson"), (".txt", ".lst")
_FOOTERS = 16  # of Parquet files that are read at once

Kind = Literal["parquet", "tar", "rows"]


@dataclass(frozen=True, slots=True)
class Unit:
    """One piece of work.

    Attributes:
        url: the file, as it is opened: it may hold a signature.
        name: the file and its part without passwords: what manifests and ids say.
        kind: of file; "rows" is JSON lines.
        part: the row group of Parquet, else 0.
        stamp: what changes with its contents.
        rows: how many, -1 where nobody knows before reading.
        bytes: of the photos, about.
        addresses: where the photos of a slice lie, where that is more than the listing may tell.
    """

    url: str
    name: str
    kind: Kind
    part: int = 0
    stamp: str = ""
    rows: int = -1
    bytes: int = 0
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True)
class Units:
    """What an input is made of.

    Attributes:
        units: in order.
        unreadable: files that cannot be read, each with the reason.
    """

    units: tuple[Unit, ...]
    unreadable: tuple[str, ...] = ()


@dataclass(frozen=True)
class Survey:
    """What an input holds; nothing was written.

    Attributes:
        files: the units of its files, in order.
        photos: that it names, still to be cut into slices.
        unreadable: files that cannot be read, each with the reason.
    """

    files: tuple[Unit, ...]
    photos: tuple[FileFacts, ...] = ()
    unreadable: tuple[str, ...] = ()

    def planned(self, listings: str | None) -> Units:
        """The units, slices of photos first.

        Args:
            listings: the folder of the listings that slices are cut from; None passes photos over.
        """
        slices = [] if listings is None else _planned(listings, self.photos)
        return Units((*slices, *self.files), self.unreadable)


def units(sources: Iterable[str], *, listings: str | None = None, kinds: Sequence[str] = ()) -> Units:
    """The units of files, folders, prefixes and listings; arguments and errors as of `survey`.

    Args:
        listings: the folder that keeps listings of photos; None passes photos over.
    """
    return survey(sources, with_photos=listings is not None, kinds=kinds).planned(listings)


def survey(sources: Iterable[str], *, with_photos: bool = True, kinds: Sequence[str] = ()) -> Survey:
    """What files, folders, prefixes and listings hold.

    Args:
        sources: paths or URLs.
        with_photos: also photos of their own, and listings of them.
        kinds: suffixes of other files that are a unit each, such as `ROWS`.

    Raises:
        AnytagError: a source is not there or holds nothing to do, or nothing of all can be read.
    """
    files: list[FileFacts] = []
    photos: list[FileFacts] = []
    for source in dict.fromkeys(sources):
        every = files_at(source)
        some = [one for one in every if _is_unit(one.path, kinds)]
        named = _photos(source, every) if with_photos else []
        if not some and not named:
            wanted = ", ".join((".parquet", ".tar", *kinds, *(LISTINGS if with_photos else ())))
            photo = " or photos" if with_photos else ""
            raise AnytagError(
                f"{public(source)} has nothing to do: expected {wanted}{photo}; "
                "end a folder of the web with /"
            )
        files += some
        photos += named
    made, unreadable = _of_files(list(dict.fromkeys(files)))
    if not made and not photos:
        raise AnytagError("; ".join(unreadable) or "the input has no rows: there is nothing to do")
    return Survey(tuple(made), tuple(photos), tuple(unreadable))


def evenly(units: Sequence[Unit], count: int) -> list[Unit]:
    """At most so many of the units, which lie evenly among them."""
    count = min(count, len(units))
    return [units[at * len(units) // count] for at in range(count)]


def _is_unit(path: str, kinds: Sequence[str]) -> bool:
    return _suffix(path) in (".parquet", ".tar", *kinds)


def _suffix(path: str) -> str:
    name = path.partition("?")[0] if path.startswith(("http://", "https://")) else path
    dot = name.rfind(".")
    return name[dot:].lower() if dot > name.rfind("/") else ""


def _of_files(files: Sequence[FileFacts]) -> tuple[list[Unit], list[str]]:
    """The units of files, and why others have none."""
    made: list[Unit] = []
    unreadable: list[str] = []
    for result in in_batches(_of_some, files, batch_size=1, workers=_FOOTERS) if files else ():
        for one in result:
            (unreadable if isinstance(one, str) else made).append(one)  # type: ignore[arg-type]
    return made, unreadable


def _of_some(files: Sequence[FileFacts]) -> list[Unit | str]:
    return [unit for file in files for unit in _of_file(file)]


def _of_file(file: FileFacts) -> list[Unit | str]:
    if not file.bytes and is_url(file.path):  # folders of the web tell neither sizes nor times
        (file,) = files_at(file.path)
    suffix = _suffix(file.path)
    if suffix == ".tar":
        return [Unit(file.path, public(file.path), "tar", stamp=file.stamp, bytes=file.bytes)]
    if suffix != ".parquet":
        return [Unit(file.path, public(file.path), "rows", stamp=file.stamp, bytes=file.bytes)]
    try:
        return list(patiently(lambda: _row_groups(file)))
    except AnytagError as error:
        return [public(str(error))]


def _row_groups(file: FileFacts) -> list[Unit]:
    with parquet_file(file.path) as table:
        groups = [table.metadata.row_group(number) for number in range(table.num_row_groups)]
        name = public(file.path)
        return [
            Unit(
                file.path, f"{name}#{number}", "parquet", number, file.stamp,
                group.num_rows, group.total_byte_size,
            )
            for number, group in enumerate(groups)
            if group.num_rows
        ]  # fmt: skip


def _photos(source: str, files: Sequence[FileFacts]) -> list[FileFacts]:
    """The photos that a listing or a prefix names."""
    if _suffix(source) in LISTINGS:
        with patiently(lambda: open_read(source)) as file:
            lines = io.TextIOWrapper(file, encoding="utf-8-sig")
            try:
                names = [line.rstrip("\r\n") for line in lines]
            except UnicodeDecodeError as error:
                raise AnytagError(
                    f"{public(source)} is not in UTF-8 ({error.reason}): save it as UTF-8"
                ) from error
        root = folder_of(source)
        return [FileFacts(absolute(join(root, name)), "", 0) for name in names if name.strip()]
    return [one for one in files if _suffix(one.path) in SUFFIXES]


def _planned(folder: str, photos: Sequence[FileFacts]) -> list[Unit]:
    """The slices of all photos: those of earlier listings as they were, and what is new in a new listing."""
    secret = {name: one.path for one in photos if (name := public(one.path)) != one.path}
    earlier = sorted(one.path for one in files_at(folder)) if exists(folder) else []
    earlier = [path for path in earlier if _suffix(path) == ".parquet"]
    known: Counter[str] = Counter()
    slices: list[Unit] = []
    for path in earlier:
        slices += _slices(path, secret, known)
    new: list[FileFacts] = []
    for one in photos:  # as often as it is named
        name = public(one.path)
        known[name] -= 1
        if known[name] < 0:
            new.append(one)
    if new:
        path = join(folder, f"photos-{len(earlier):04d}.parquet")
        _write_listing(path, new)
        slices += _slices(path, secret, known)
    return slices


def _slices(path: str, secret: dict[str, str], known: Counter[str]) -> Iterator[Unit]:
    with parquet_file(path) as table:
        for number in range(table.num_row_groups):
            rows = table.read_row_group(number).to_pylist()
            names = [row["url"] for row in rows]
            known.update(names)
            text = repr([(row["url"], row["stamp"]) for row in rows])
            yield Unit(
                url=path,
                name=f"{path.rpartition('/')[2]}#{number}",
                kind="parquet",
                part=number,
                stamp=hashlib.blake2b(text.encode(), digest_size=16).hexdigest(),
                rows=len(rows),
                bytes=sum(row["bytes"] for row in rows),
                addresses=tuple(secret.get(name, name) for name in names) if secret else (),
            )


def _write_listing(path: str, photos: Sequence[FileFacts]) -> None:
    pyarrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    text = pyarrow.string()
    schema = pyarrow.schema([("url", text), ("stamp", text), ("bytes", pyarrow.int64())])
    with draft(path) as file, parquet.ParquetWriter(file, schema) as writer:
        for some in batches(photos, SLICE):
            rows = [{"url": public(one.path), "stamp": one.stamp, "bytes": one.bytes} for one in some]
            writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))
