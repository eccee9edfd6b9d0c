"""Split an input into units: row groups of Parquet, WebDataset shards, slices of a listing.

A listing of photos, given by the user or from a prefix, becomes a Parquet file of addresses whose row groups
are the slices. It is written once, before the work, so slices do not change when the input grows.
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
from anytag.data.backoff import with_retries
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
    public_name,
)
from anytag.data.tables import parquet_file
from anytag.errors import AnytagError
from anytag.images import SUFFIXES

SLICE = 1000
"""Number of photos of a listing that form a unit."""
ROWS, LISTINGS = (".jsonl", ".ndjson"), (".txt", ".lst")
_FOOTERS = 16  # Parquet footers read in parallel

Kind = Literal["parquet", "tar", "rows"]


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit of work.

    Attributes:
        url: the file, as it is opened; may contain a signature.
        name: the file and part, without credentials, for manifests and ids.
        kind: of the file; "rows" is JSON lines.
        part: row group of a Parquet file, else 0.
        stamp: changes with the content.
        rows: number of rows, -1 if unknown before reading.
        bytes: approximate size of the photos.
        addresses: addresses of the photos of a slice, if they contain credentials that listings omit.
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
    """The units of an input.

    Attributes:
        units: in order.
        unreadable: messages for files that cannot be read.
    """

    units: tuple[Unit, ...]
    unreadable: tuple[str, ...] = ()


@dataclass(frozen=True)
class Survey:
    """The content of an input, before anything is written.

    Attributes:
        files: units of its files, in order.
        photos: photos to be split into slices.
        unreadable: messages for files that cannot be read.
    """

    files: tuple[Unit, ...]
    photos: tuple[FileFacts, ...] = ()
    unreadable: tuple[str, ...] = ()

    def planned(self, listings: str | None) -> Units:
        """Make the units, slices of photos first.

        Args:
            listings: folder for the listings of slices; None skips photos.
        """
        slices = [] if listings is None else _plan(listings, self.photos)
        return Units((*slices, *self.files), self.unreadable)


def units(sources: Iterable[str], *, listings: str | None = None, kinds: Sequence[str] = ()) -> Units:
    """The units of files, folders, prefixes and listings; arguments and errors as for `survey`.

    Args:
        listings: folder for listings of photos; None skips photos.
    """
    return survey(sources, with_photos=listings is not None, kinds=kinds).planned(listings)


def survey(sources: Iterable[str], *, with_photos: bool = True, kinds: Sequence[str] = ()) -> Survey:
    """Determine the content of files, folders, prefixes and listings.

    Args:
        sources: paths or URLs.
        with_photos: include photos, and listings of photos.
        kinds: suffixes of other files that are a unit each, such as `ROWS`.

    Raises:
        AnytagError: a source does not exist or is empty, or nothing can be read.
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
                f"{public(source)} has nothing to process: expected {wanted}{photo}; "
                "the URL of a web folder must end with /"
            )
        files += some
        photos += named
    made, unreadable = _of_files(list(dict.fromkeys(files)))
    if not made and not photos:
        raise AnytagError("; ".join(unreadable) or "the input has no rows")
    return Survey(tuple(made), tuple(photos), tuple(unreadable))


def evenly(units: Sequence[Unit], count: int) -> list[Unit]:
    """At most `count` of the units, evenly spaced."""
    count = min(count, len(units))
    return [units[at * len(units) // count] for at in range(count)]


def _is_unit(path: str, kinds: Sequence[str]) -> bool:
    return _suffix(path) in (".parquet", ".tar", *kinds)


def _suffix(path: str) -> str:
    name = path.partition("?")[0] if path.startswith(("http://", "https://")) else path
    dot = name.rfind(".")
    return name[dot:].lower() if dot > name.rfind("/") else ""


def _of_files(files: Sequence[FileFacts]) -> tuple[list[Unit], list[str]]:
    """The units of files, and messages for unreadable files."""
    made: list[Unit] = []
    unreadable: list[str] = []
    for result in in_batches(_of_some, files, batch_size=1, workers=_FOOTERS) if files else ():
        for one in result:
            (unreadable if isinstance(one, str) else made).append(one)  # type: ignore[arg-type]
    return made, unreadable


def _of_some(files: Sequence[FileFacts]) -> list[Unit | str]:
    return [unit for file in files for unit in _of_file(file)]


def _of_file(file: FileFacts) -> list[Unit | str]:
    if not file.bytes and is_url(file.path):  # listings of web folders lack sizes and times
        (file,) = files_at(file.path)
    suffix = _suffix(file.path)
    if suffix == ".tar":
        return [Unit(file.path, public_name(file.path), "tar", stamp=file.stamp, bytes=file.bytes)]
    if suffix != ".parquet":
        return [Unit(file.path, public_name(file.path), "rows", stamp=file.stamp, bytes=file.bytes)]
    try:
        return list(with_retries(lambda: _row_groups(file)))
    except AnytagError as error:
        return [public(str(error))]


def _row_groups(file: FileFacts) -> list[Unit]:
    with parquet_file(file.path) as table:
        groups = [table.metadata.row_group(number) for number in range(table.num_row_groups)]
        name = public_name(file.path)
        return [
            Unit(
                file.path, f"{name}#{number}", "parquet", number, file.stamp,
                group.num_rows, group.total_byte_size,
            )
            for number, group in enumerate(groups)
            if group.num_rows
        ]  # fmt: skip


def _photos(source: str, files: Sequence[FileFacts]) -> list[FileFacts]:
    """The photos of a listing or a prefix."""
    if _suffix(source) in LISTINGS:
        with with_retries(lambda: open_read(source)) as file:
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


def _plan(folder: str, photos: Sequence[FileFacts]) -> list[Unit]:
    """Slices of all photos: those of earlier listings are unchanged, new photos go to a new listing.

    Raises:
        AnytagError: two addresses differ only in credentials, so their photos would have the same id.
    """
    secret = _secret(photos)
    earlier = sorted(one.path for one in files_at(folder)) if exists(folder) else []
    earlier = [path for path in earlier if _suffix(path) == ".parquet"]
    known: Counter[str] = Counter()
    slices: list[Unit] = []
    for path in earlier:
        slices += _slices(path, secret, known)
    new: list[FileFacts] = []
    for one in photos:  # repeated photos count separately
        name = public_name(one.path)
        known[name] -= 1
        if known[name] < 0:
            new.append(one)
    if new:
        path = join(folder, f"photos-{len(earlier):04d}.parquet")
        _write_listing(path, new)
        slices += _slices(path, secret, known)
    return slices


def _secret(photos: Sequence[FileFacts]) -> dict[str, str]:
    """Names of photos -> their addresses, for those that differ."""
    found: dict[str, str] = {}
    for one in photos:
        name = public_name(one.path)
        if name != one.path and found.setdefault(name, one.path) != one.path:
            raise AnytagError(
                f"two different addresses of photos are both {name} without what looks like a credential: "
                "list each photo once, or give it a name of its own, such as another parameter"
            )
    return found


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
            rows = [{"url": public_name(one.path), "stamp": one.stamp, "bytes": one.bytes} for one in some]
            writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))
