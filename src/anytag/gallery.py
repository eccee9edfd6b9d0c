"""Encoded photos, in memory or in a folder that grows as photos are added.

    gallery.json   the model, and the shape of what is stored per photo
    pooled.f32     per photo E floats, the embedding that shortlists photos
    tags.f32       per photo T×2 floats, its tags, which sentence scores are fused with; or
    tokens.f16     per photo T×D halves, for models whose decoder or heads read tokens, and in older galleries
    photos.jsonl   one line per photo: its slot in those files, path, size and modification time
    lock           held by the process that writes

A line is appended after its records, in one write, and the last line of a photo counts. So after any
interruption a photo with a line is complete, and one without is processed again. Readers take no lock: they
see the lines that exist.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from anytag._io import atomic_folder, atomic_write, locked, refuse_photo_name, writing
from anytag.errors import AnytagError, ModelError, RefusedOutputError
from anytag.records import FORMATS, Kind, Layout, Layouts, RecordFile, Records, RecordsAt
from anytag.results import Failure

_HEADER, _LINES, _LOCK = "gallery.json", "photos.jsonl", "lock"
_POOLED = "pooled.f32"


@dataclass(frozen=True, eq=False)
class Gallery:
    """Encoded photos.

    Attributes:
        model: name of the model.
        paths: N paths as given; "" for a photo without one.
        tokens: N×T×D, the input of the pair scorer: float16 image tokens, with encoded tags where tags guide;
            or, of kind "tags", float32 N×T×2, vocabulary index and score of each tag of a photo, padded
            with -1.
        pooled: float32 N×E, an embedding of each photo, which shortlists photos.
        failed: photos that could not be read, with the reason; they are not among the N.
        weights: hash of the model's weights, which distinguishes models of one name; for kind "tags" also of
            everything else that determines the tags; "" is not checked.
        kind: of `tokens`.
    """

    model: str
    paths: tuple[str, ...]
    tokens: Records
    pooled: Records
    failed: tuple[tuple[str, Failure], ...] = ()
    weights: str = ""
    kind: Kind = "tokens"

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def layout(self) -> Layout:
        return Layout(self.kind, self.tokens.shape[2], self.pooled.shape[1])

    def write(self, path: str | Path) -> None:
        """Write the gallery to a folder, atomically. About 2.8 kB per photo with `mini`.

        Raises:
            OutputError: it cannot be written, another process writes it, or the folder has other content.
        """
        layouts = {self.layout: self.weights}
        with ExitStack() as stack:
            if is_gallery(path):
                stack.enter_context(locked(Path(path, _LOCK)))
            draft = stack.enter_context(atomic_folder(path, replace=may_be_gallery(path)))
            with GalleryWriter(draft, model=self.model, layouts=layouts) as writer:
                for start in range(0, len(self), 1024):
                    part = slice(start, start + 1024)
                    writer.add(self.paths[part], self.tokens[part], self.pooled[part])

    @classmethod
    def read(cls, path: str | Path) -> Gallery:
        """Open the gallery in a folder; its arrays stay on disk and are read on access.

        Raises:
            AnytagError: the folder is missing, damaged, or not a gallery.
        """
        folder = Path(path)
        header = Header.read(folder)
        pooled, tokens = header.files(folder)
        whole = min(len(pooled), len(tokens))
        photos = sorted(_photos(folder, whole).values(), key=lambda photo: photo.slot)
        slots = np.array([photo.slot for photo in photos], np.int64)
        names = tuple(photo.path for photo in photos)
        arrays = RecordsAt(tokens, slots), RecordsAt(pooled, slots)
        return cls(header.model, names, *arrays, weights=header.weights, kind=header.layout.kind)


@dataclass(frozen=True)
class Header:
    """The header of a gallery folder.

    Attributes:
        model, weights, layout: as in `Gallery`.
        count: T.
    """

    model: str
    weights: str
    layout: Layout
    count: int

    def write(self, folder: Path) -> None:
        kind, width, space = self.layout
        header = {"format": FORMATS[kind][0], "model": self.model, "weights": self.weights}
        text = json.dumps({**header, kind: (self.count, width), "pooled": space}, indent=2)
        with atomic_write(folder / _HEADER) as draft:
            draft.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Header:
        """Read the header; raises AnytagError if the folder is not a gallery."""
        try:
            header = json.loads((folder / _HEADER).read_text(encoding="utf-8"))
            kinds = {number: kind for kind, (number, _, _) in FORMATS.items()}
            if (kind := kinds.get(header["format"])) is None:
                raise ValueError(f"format {header['format']!r}")
            (count, width), pooled = map(int, header[kind]), int(header["pooled"])
            if min(count, width, pooled) < 1:
                raise ValueError("a width below 1")
            return cls(str(header["model"]), str(header["weights"]), Layout(kind, width, pooled), count)
        except (OSError, KeyError, TypeError, ValueError) as error:
            why = "no such folder" if not folder.exists() else error
            raise AnytagError(
                f"{folder} is not a gallery ({why}): create one with anytag match PHOTOS "
                "--text TEXT --gallery FOLDER, or give the folder of an existing one"
            ) from error

    def files(self, folder: Path) -> tuple[RecordFile, RecordFile]:
        """Return the files of the embeddings, and of the tokens or tags."""
        kind, width, space = self.layout
        _, name, numbers = FORMATS[kind]
        pooled = RecordFile(folder / _POOLED, (space,), np.dtype("<f4"))
        return pooled, RecordFile(folder / name, (self.count, width), np.dtype(numbers))


class _Photo(NamedTuple):
    """A line of the index: a photo's slot, and its file; no size for a photo without a path."""

    slot: int
    path: str
    size: int | None
    time: int | None


def _key(path: str, slot: int) -> str:
    """Return the key of a photo: its absolute path, whatever relative path it was given by."""
    return os.path.abspath(path) if path else f"\0{slot}"  # noqa: PTH100  # keeps links and non-UTF-8 names


def _photos(folder: Path, whole: int) -> dict[str, _Photo]:
    """Return the photos by key, skipping incomplete lines and those without complete records."""
    photos: dict[str, _Photo] = {}
    keys: dict[int, str] = {}
    try:
        lines = (folder / _LINES).read_bytes().splitlines()
    except FileNotFoundError:
        return photos
    except OSError as error:
        raise AnytagError(f"{folder / _LINES} cannot be read: {error.strerror or error}") from error
    for line in lines:
        try:
            entry = json.loads(line)
            key, slot = str(entry["key"]), entry["slot"]
            if slot is None:
                photos.pop(key, None)
            elif 0 <= slot < whole:
                earlier = photos.get(keys.get(slot, ""))
                if earlier is not None and earlier.slot == slot:
                    del photos[keys[slot]]  # its slot was reused, and the line that moved it is damaged
                photos[key], keys[slot] = _photo(entry), key
        except (ValueError, KeyError, TypeError):
            continue
    return photos


def _photo(entry: dict[str, Any]) -> _Photo:
    return _Photo(int(entry["slot"]), str(entry["path"]), entry["size"], entry["time"])


def is_gallery(path: str | Path) -> bool:
    """Whether a folder has a gallery header."""
    return Path(path, _HEADER).is_file()


def may_be_gallery(path: str | Path) -> bool:
    """Whether a folder is a gallery or empty, except for the lock of a gallery without photos yet.

    Raises:
        RefusedOutputError: it has other content.
    """
    folder = Path(path)
    refuse_photo_name(folder)
    if not os.path.lexists(folder):
        return False
    if folder.is_dir() and (is_gallery(folder) or {one.name for one in folder.iterdir()} <= {_LOCK}):
        return True
    raise RefusedOutputError(f"{path} exists and is not a gallery: give another folder for the gallery")


class GalleryWriter:
    """A gallery folder opened for adding photos; a context manager, one process at a time.

    Args:
        path: the folder; created if it does not exist.
        model: as in `Gallery`.
        layouts: an existing gallery keeps its layout, if it is one of these; a new one gets the first.

    Raises:
        OutputError: it cannot be created or written, another process writes it, or it has other content.
        ModelError: it was made with another model.
    """

    def __init__(self, path: str | Path, *, model: str, layouts: Layouts) -> None:
        self.path = Path(path)
        self._model, self._layouts = model, layouts
        self._stack = ExitStack()
        self._header: Header | None = None
        self._photos: dict[str, _Photo] = {}
        self._stats: dict[str, tuple[int, int]] = {}
        self._free: list[int] = []
        self._end = 0

    def __enter__(self) -> GalleryWriter:
        with writing(self.path), ExitStack() as stack:
            if not may_be_gallery(self.path):
                self.path.mkdir()  # not its parents: a missing parent is probably a typing mistake
                stack.callback(self._remove_empty)
            stack.enter_context(locked(self.path / _LOCK))
            if is_gallery(self.path):
                self._open()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def __len__(self) -> int:
        return len(self._photos)

    @property
    def layout(self) -> Layout:
        """The layout of the records that `add` expects."""
        return next(iter(self._layouts)) if self._header is None else self._header.layout

    def _open(self) -> None:
        header = Header.read(self.path)
        check_model((header.model, header.weights, header.layout), self._model, self._layouts)
        pooled, tokens = header.files(self.path)
        self._header, whole = header, min(len(pooled), len(tokens))
        self._photos = _photos(self.path, whole)
        taken = {photo.slot for photo in self._photos.values()}
        self._free = [slot for slot in range(whole - 1, -1, -1) if slot not in taken]  # lowest last
        self._end = whole

    def _remove_empty(self) -> None:
        """Remove a folder that this run created and that got no photo."""
        if self._header is None:
            (self.path / _LOCK).unlink(missing_ok=True)
            self.path.rmdir()

    def new(self, paths: Iterable[str | os.PathLike[str]]) -> Iterator[str]:
        """Yield paths that are new or whose size or modification time has changed, each once.

        Paths that cannot be examined are yielded too: reading them reports the reason.
        """
        for name in paths:
            path = os.fspath(name)
            key = _key(path, -1)
            if key in self._stats:
                continue
            stat = _stat(path)
            photo = self._photos.get(key)
            if stat is not None and photo is not None and (photo.size, photo.time) == stat:
                if photo.path != path:
                    self._append({key: photo._replace(path=path)})
                continue
            if stat is not None:
                self._stats[key] = stat
            yield path

    def add(self, paths: Sequence[str], tokens: npt.NDArray[Any], pooled: npt.NDArray[Any]) -> None:
        """Add photos, or replace those with the same path.

        Args:
            paths: n paths; "" for a photo without one.
            tokens: n×T×D, of the kind of `layout`.
            pooled: n×E.

        Raises:
            OutputError: the folder cannot be written; photos added before are kept.
        """
        header = self._ensure_header(tokens.shape[1])
        if not len(paths):
            return
        slots = np.array([self._slot() for _ in paths], np.int64)
        with writing(self.path):
            pooled_file, tokens_file = header.files(self.path)
            pooled_file.write(slots, pooled)
            tokens_file.write(slots, tokens)
            photos = {}
            for path, slot in zip(paths, slots.tolist(), strict=True):
                key = _key(path, slot)
                size, time = self._stats.pop(key, None) or (_stat(path) if path else None) or (None, None)
                photos[key] = _Photo(slot, path, size, time)
            self._append(photos)

    def remove(self, path: str) -> None:
        """Remove a photo, if present: for example one that has changed and can no longer be read."""
        key = _key(path, -1)
        self._stats.pop(key, None)
        if key in self._photos:
            self._append({key: None})

    def _slot(self) -> int:
        if self._free:
            return self._free.pop()
        self._end += 1
        return self._end - 1

    def _ensure_header(self, count: int) -> Header:
        """Return the header, written with the first photo, when the number of tokens is known."""
        layout = self.layout
        if self._header is None or (self._header.count != count and not self._photos):
            self._header = Header(self._model, self._layouts[layout], layout, count)
            self._header.write(self.path)
        if self._header.count != count:
            raise ModelError(
                f"{self.path} has {self._header.count} {layout.kind} per photo, this model {count}: "
                "give another folder"
            )
        return self._header

    def _append(self, photos: Mapping[str, _Photo | None]) -> None:
        """Append lines to the index in one write, after terminating a line that a crash has cut short."""
        nothing = {"slot": None}
        entries = [{"key": key, **(photo._asdict() if photo else nothing)} for key, photo in photos.items()]
        lines = b"".join(
            json.dumps(one).encode() + b"\n" for one in entries
        )  # ASCII, since names may not be valid Unicode
        with writing(self.path), (self.path / _LINES).open("ab+", buffering=0) as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                lines = lines if file.read(1) == b"\n" else b"\n" + lines
            start = file.seek(0, os.SEEK_END)
            if file.write(lines) < len(lines):  # a full disk
                file.truncate(start)
                raise OSError("no space left for photos.jsonl")
        for key, photo in photos.items():
            if photo is None:
                self._photos.pop(key, None)
            else:
                self._photos[key] = photo


def _stat(path: str) -> tuple[int, int] | None:
    try:
        stat = os.stat(path)  # noqa: PTH116  # accepts non-UTF-8 names
    except (OSError, ValueError):
        return None
    return stat.st_size, stat.st_mtime_ns


def check_model(gallery: tuple[str, str, Layout], model: str, layouts: Layouts) -> None:
    """Check that a gallery (name of its model, hash, layout) was made with the given model.

    Raises:
        ModelError: it was not.
    """
    name, weights, layout = gallery
    if name == model and layout in layouts and weights in ("", layouts[layout]):
        return
    ours = layout if layout in layouts else next(iter(layouts))
    theirs, this = (
        f"{who!r} ({one.kind} {one.width} and vectors {one.space} wide, weights {hash_[:12] or 'unknown'})"
        for who, hash_, one in ((name, weights, layout), (model, layouts[ours], ours))
    )
    raise ModelError(
        f"the gallery was made with the model {theirs}, this is {this}; "
        "encode the photos again, into another gallery"
    )
