"""The formats of image-text data: how each is recognised, read and written.

    rows = read("annotations/captions_val2017.json", images="val2017")
    write("rows.parquet", rows)

Everything is streamed, so a corpus need not fit into memory. Paths may be URLs supported by fsspec.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePosixPath
from typing import Protocol

from anytag._io import refuse_photo_name
from anytag.data import corpora, shards, tables
from anytag.data.io import exists, folder_of, is_folder, join, listing, open_read, rebased, refuse_output
from anytag.data.rows import OnError, Row
from anytag.errors import AnytagError
from anytag.images import SUFFIXES


class Reader(Protocol):
    """Streams rows; paths of photos are relative to the file's folder."""

    def __call__(
        self, path: str, *, source: str, split: str, on_error: OnError | None = None
    ) -> Iterator[Row]: ...


Writer = Callable[[str, Iterable[Row]], None]


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        suffixes: of its files; empty if they do not identify it.
        read: see `Reader`.
        write: None if rows do not contain everything that the format needs.
        folder: whether data in this format is a folder.
        tag_list: whether it needs a list of names for its ids.
        says: one-line description.
        lacks: fields of rows that its files cannot hold.
    """

    says: str
    read: Reader
    write: Writer | None = None
    suffixes: tuple[str, ...] = ()
    folder: bool = False
    tag_list: bool = False
    lacks: tuple[str, ...] = ()


FORMATS: dict[str, Format] = {
    "jsonl": Format(
        "rows of JSON, one a line",
        tables.read_jsonl,
        tables.write_jsonl,
        suffixes=(".jsonl", ".ndjson"),
    ),
    "parquet": Format(
        "Parquet with columns of image, captions, tags",
        tables.read_parquet,
        tables.write_parquet,
        suffixes=(".parquet",),
    ),
    "csv": Format(
        "a table of image and tags separated by ';'",
        tables.read_csv,
        tables.write_csv,
        suffixes=(".csv", ".tsv"),
        lacks=("origins", "cleaned", "parsed"),
    ),
    "coco-captions": Format(
        "COCO's captions_*.json",
        corpora.read_coco_captions,
        corpora.write_coco_captions,
        lacks=("tags", "absent", "split"),
    ),
    "coco-instances": Format("COCO's instances_*.json", corpora.read_coco_instances),
    "published": Format(
        "the training annotations of Tag2Text and RAM, with a tag list",
        partial(corpora.read_published, tag_list=()),
        partial(corpora.write_published, tag_list=()),
        tag_list=True,
        lacks=("absent", "split", "cleaned"),
    ),
    "folders": Format("a folder for each class", corpora.read_folders, folder=True),
    "webdataset": Format(
        "tar shards; written by anytag data shard", shards.read_webdataset, suffixes=(".tar",), folder=True
    ),
}


def read(
    path: str,
    *,
    format: str | None = None,
    images: str | None = None,
    tag_list: Sequence[str] = (),
    source: str | None = None,
    split: str = "train",
    on_error: OnError | None = None,
) -> Iterator[Row]:
    """Stream the rows of image-text data.

    Args:
        path: a file, a folder or a URL.
        format: one of `FORMATS`; by default determined by `recognise`.
        images: the folder of the photos, relative to the file's; by default the file's own.
        tag_list: names for the ids of published annotations.
        source: for rows without one; by default the file's name.
        split: for rows without one.
        on_error: called with the message for each row that is skipped.

    Returns:
        rows with paths of photos relative to `root_of(path)`.

    Raises:
        AnytagError: the data cannot be read, or a row is invalid and there is no `on_error`.
        MissingExtraError: a package that the format needs is not installed.
    """
    name = format or recognise(path)
    format_ = _known(name)
    if format_.tag_list and not tag_list:
        raise AnytagError(f"{path}: {name} has tags as ids; give their tag list")
    reader = partial(corpora.read_published, tag_list=tag_list) if format_.tag_list else format_.read
    source = PurePosixPath(path).stem if source is None else source
    for row in reader(path, source=source, split=split, on_error=on_error):
        yield row if images is None else replace(row, image=join(images, row.image))


def lines_of(path: str) -> Iterator[tuple[str]]:
    """Stream the captions of a text file, one per line, each as those of one photo; skips empty lines.

    Raises:
        AnytagError: it is not in UTF-8, or in UTF-16 with a byte order mark.
    """
    with open_read(path) as file:
        head = file.read(2)
        file.seek(0)
        encoding = "utf-16" if head in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        lines = io.TextIOWrapper(file, encoding=encoding)
        try:
            yield from ((line.strip(),) for line in lines if line.strip())
        except UnicodeDecodeError as error:
            raise AnytagError(f"{path} is not in UTF-8 ({error.reason}): save it as UTF-8") from error


def write(path: str, rows: Iterable[Row], *, format: str | None = None, tag_list: Sequence[str] = ()) -> None:
    """Write rows, atomically.

    Args:
        path: a file or a URL; paths of photos are relative to its folder.
        format: one of `FORMATS`; by default determined by the file's suffix.
        tag_list: names for the ids of published annotations.

    Raises:
        AnytagError: the format cannot be written, or cannot represent a row.
    """
    format_ = _to_write(path, format)
    refuse_photo_name(path)
    writer = partial(corpora.write_published, tag_list=tag_list) if format_.tag_list else format_.write
    assert writer is not None
    writer(path, rows)


def check_output(path: str, inputs: Iterable[str] = (), *, format: str | None = None) -> None:
    """Check, before long work, that `write` may write to `path`.

    Args:
        path, format: as for `write`.
        inputs: files that are read meanwhile, none of which may be replaced.

    Raises:
        AnytagError: the format cannot be written.
        OutputError: `path` is an input, a photo, or exists: rows may have been edited.
    """
    _to_write(path, format)
    refuse_output(path, inputs)


def lacking(path: str, format: str | None) -> tuple[str, ...]:
    """Fields of rows that `write` leaves out; arguments as for `write`."""
    return _to_write(path, format).lacks


def moved(rows: Iterable[Row], root: str, to: str) -> Iterator[Row]:
    """Make paths of photos relative to folder `to` instead of `root`."""
    return (replace(row, image=rebased(row.image, root, to)) for row in rows)


def root_of(path: str) -> str:
    """The folder that paths of photos in the data at `path` are relative to."""
    return path.rstrip("/") if is_folder(path) else folder_of(path)


def recognise(path: str) -> str:
    """The name of the format of the data at `path`.

    Raises:
        AnytagError: it does not exist, or its format is unknown.
    """
    if format_name := _by_suffix(path):
        return format_name
    if not exists(path):
        raise AnytagError(f"{path}: no such file or folder")
    if is_folder(path):
        return "webdataset" if _has_shards(path) else "folders"
    if path.endswith(".json"):
        return _kind_of_json(path)
    raise AnytagError(f"{path}: unknown format; specify one of {', '.join(FORMATS)}")


def _has_shards(folder: str) -> bool:
    """Whether a folder contains shards, and no photos before the first of them.

    Raises:
        AnytagError: it has neither.
    """
    for name in listing(folder):
        suffix = PurePosixPath(name).suffix.lower()
        if suffix == ".tar" or suffix in SUFFIXES:
            return suffix == ".tar"
    raise AnytagError(f"{folder}: neither photos nor .tar files in this folder")


def _by_suffix(path: str) -> str | None:
    suffix = PurePosixPath(path).suffix.lower()
    return next((name for name, format_ in FORMATS.items() if suffix in format_.suffixes), None)


def _kind_of_json(path: str) -> str:
    with open_read(path) as file:
        if file.read(64).lstrip().startswith(b"["):
            return "published"
    first: object = next(corpora.items(path, "annotations.item"), ())
    return "coco-captions" if isinstance(first, dict) and "caption" in first else "coco-instances"


def _known(name: str) -> Format:
    if name not in FORMATS:
        raise AnytagError(f"format {name!r} is unknown; expected one of {', '.join(FORMATS)}")
    return FORMATS[name]


def _to_write(path: str, format: str | None) -> Format:
    name = format or _by_suffix(path)
    if name is None:
        raise AnytagError(f"{path}: no format has this suffix; specify one of {', '.join(_written())}")
    if _known(name).write is None:
        raise AnytagError(f"{name} can be read but not written; expected one of {', '.join(_written())}")
    return _known(name)


def _written() -> list[str]:
    return [name for name, format_ in FORMATS.items() if format_.write]
