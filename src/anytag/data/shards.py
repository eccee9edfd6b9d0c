"""WebDataset shards: tar files in which KEY.jpg, KEY.json, KEY.txt and KEY.cls form one sample."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, count, groupby, islice
from pathlib import Path

from anytag.data.io import (
    MAX_PHOTO_BYTES,
    folder_of,
    is_folder,
    is_url,
    join,
    listing,
    open_read,
    open_write,
    photo_source,
    refuse_nonempty,
)
from anytag.data.rows import OnError, Row, report_error, row_of
from anytag.errors import AnytagError, ImageError
from anytag.images import SUFFIXES

_SUFFIX = "tar"
_ANNOTATIONS = frozenset(("json", "txt", "cls"))


@dataclass(frozen=True)
class Sample:
    """One sample of a shard.

    Attributes:
        shard: path or URL of the shard.
        key: common prefix of its members' names.
        members: extension in lower case -> bytes of photos and annotations, or why they are missing; other
            files are not read, and empty.
        photo: name of the member that is a photo; "" if there is none.
        sizes: bytes of all members.
    """

    shard: str
    key: str
    members: dict[str, bytes | str]
    photo: str
    sizes: tuple[int, ...]

    @property
    def pixels(self) -> bytes:
        """The encoded photo.

        Raises:
            ImageError: there is none.
        """
        if not self.photo:
            raise ImageError(f"no photo among {', '.join(sorted(self.members))}")
        photo = self.members[_split(self.photo)[1]]
        if isinstance(photo, str):
            raise ImageError(photo)
        return photo

    def text(self, extension: str) -> str | None:
        """An annotation; None if there is none.

        Raises:
            ValueError: it cannot be read.
        """
        body = self.members.get(extension)
        if isinstance(body, str):
            raise ValueError(body)
        return None if body is None else body.decode()


def shards_of(path: str) -> list[str]:
    """List the shards at a path, a file or a folder.

    Raises:
        AnytagError: there are none.
    """
    if not is_folder(path):
        return [path]
    shards = [name for name in listing(path) if name.endswith(f".{_SUFFIX}")]
    if not shards:
        raise AnytagError(f"{path}: no .tar files in this folder")
    return [join(path, name) for name in shards]


def read_samples(path: str) -> Iterator[Sample]:
    """Stream the samples of a shard or of a folder of shards.

    Raises:
        AnytagError: a shard cannot be read, or is truncated.
    """
    for shard in shards_of(path):
        with open_read(shard) as file:
            try:
                with tarfile.open(fileobj=file, mode="r|*") as tar:
                    for key, members in groupby(_members(tar), lambda pair: _split(pair[0])[0]):
                        yield _sample(shard, key, members)
            except (tarfile.TarError, EOFError, OSError) as error:
                raise AnytagError(f"{shard}: not a readable tar file ({error})") from error


def _members(tar: tarfile.TarFile) -> Iterator[tuple[str, int, bytes | str]]:
    """Name, size and bytes of files, or why they are not read: a stream cannot go back to a link's target."""
    for member in tar:
        extension = _split(member.name)[1]
        if member.issym() or member.islnk():
            yield member.name, member.size, f"{member.name} is a link to {member.linkname}, not a file"
        elif not member.isfile():
            continue
        elif f".{extension}" not in SUFFIXES and extension not in _ANNOTATIONS:
            yield member.name, member.size, b""
        elif member.size > MAX_PHOTO_BYTES:
            why = f"{member.name}: {member.size:,} bytes, more than the limit of {MAX_PHOTO_BYTES:,}"
            yield member.name, member.size, why
        else:
            body = tar.extractfile(member)
            yield member.name, member.size, b"" if body is None else body.read()


def _split(name: str) -> tuple[str, str]:
    """Key and extension: WebDataset splits the file name at its first dot."""
    folder, slash, file = name.rpartition("/")
    stem, _, extension = file.partition(".")
    return folder + slash + stem, extension.lower()


def _sample(shard: str, key: str, members: Iterable[tuple[str, int, bytes | str]]) -> Sample:
    named = {_split(name)[1]: (name, size, body) for name, size, body in members}
    photo = next((name for extension, (name, *_) in named.items() if f".{extension}" in SUFFIXES), "")
    bodies = {extension: body for extension, (_, _, body) in named.items()}
    return Sample(shard, key, bodies, photo, tuple(size for _, size, _ in named.values()))


def read_webdataset(path: str, *, source: str, split: str, on_error: OnError | None = None) -> Iterator[Row]:
    """Stream the rows of shards. `Row.image` is tar://NAME::SHARD, which fsspec can open."""
    root = path if is_folder(path) else folder_of(path)
    for row, _ in read_photos(path, source=source, split=split, on_error=on_error):
        inside, _, shard = row.image.rpartition("::")
        yield replace(row, image=f"{inside}::{_within(shard, root)}")


def _within(shard: str, root: str) -> str:
    """The path of a shard relative to the folder `root` that it is in."""
    if is_url(shard):
        return shard.removeprefix(root).lstrip("/")
    return Path(shard).relative_to(root).as_posix()


def read_photos(
    path: str, *, source: str = "webdataset", split: str = "train", on_error: OnError | None = None
) -> Iterator[tuple[Row, bytes]]:
    """Stream the rows of shards with the encoded photos, reading each shard once."""
    for sample in read_samples(path):
        try:
            photo, row = sample.pixels, _row(sample, source=source, split=split)
            yield replace(row, image=f"tar://{sample.photo}::{sample.shard}"), photo
        except (ImageError, ValueError) as error:
            report_error(f"{sample.shard}, sample {sample.key!r}: {error}", on_error, error)


def _row(sample: Sample, *, source: str, split: str) -> Row:
    """Make a row of a sample's other members; other fields of its JSON are ignored."""
    metadata = json.loads(sample.text("json") or "{}")
    fields_present = {
        key: metadata[key]
        for key in (*Row.__slots__, "caption")
        if isinstance(metadata, dict) and key in metadata
    }
    fields_present["image"] = "in the shard"  # replaced by the caller
    caption, label = sample.text("txt"), sample.text("cls")
    if caption is not None and not {"captions", "caption"} & set(fields_present):
        fields_present["caption"] = caption.strip()
    if label is not None and "tags" not in fields_present:
        fields_present["tags"] = [label.strip()]
    return row_of(fields_present, source=source, split=split)


def write_shards(
    folder: str, rows: Iterable[Row], *, root: str, size: int = 1000, on_error: OnError | None = None
) -> Iterator[str]:
    """Write folder/shard-000000.tar and so on, with photos; yields each shard's path when it is complete.

    Args:
        folder: empty or not existing.
        rows: in the order of the shards.
        root: folder that the photos' paths are relative to.
        size: photos per shard.
        on_error: called with the message for each photo that cannot be read, which is skipped.
    """
    refuse_nonempty(folder)
    readable = _readable(rows, root, on_error)
    for number in count():
        first = next(readable, None)
        if first is None:
            return
        path = join(folder, f"shard-{number:06d}.{_SUFFIX}")
        with open_write(path) as file, tarfile.open(fileobj=file, mode="w|") as tar:
            for at, (row, photo) in enumerate(chain([first], islice(readable, size - 1))):
                _add(tar, at, row, photo)
        yield path


def _readable(rows: Iterable[Row], root: str, on_error: OnError | None) -> Iterator[tuple[Row, bytes]]:
    for row in rows:
        try:
            photo = photo_source(root, row.image)
            if isinstance(photo, str):
                with open_read(photo) as file:
                    photo = file.read()
            yield row, photo
        except AnytagError as error:
            report_error(str(error), on_error, error)


def _add(tar: tarfile.TarFile, at: int, row: Row, photo: bytes) -> None:
    inside = row.image.partition("::")[0]
    extension = inside.rpartition(".")[2].lower()
    metadata = json.dumps(row.to_dict(), ensure_ascii=False).encode(errors="backslashreplace")
    for name, body in ((extension if f".{extension}" in SUFFIXES else "jpg", photo), ("json", metadata)):
        member = tarfile.TarInfo(f"{at:06d}.{name}")
        member.size = len(body)
        tar.addfile(member, io.BytesIO(body))
