"""Photos as a model saw them: in memory, or in a folder that is added to as the work goes on.

    gallery.json   which model saw them, and the shape of what is kept of one photo
    pooled.f32     a record a photo, E floats: by these the likely photos are found
    tags.f32       a record a photo, T×2 floats: the tags that it got, which sentences are fused with; or
    tokens.f16     T×D halves, of models whose decoder or heads look at tokens, and of older galleries
    photos.jsonl   a line for each photo: its slot in those files, path, size and time of change
    lock           held by the process that writes

A line is added after its records, in one write, and the last line of a photo counts. So whatever stops the
work, what has a line is whole; what has none is done again. Readers take no lock: they see the lines that are
there.
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
    """Photos as a model saw them.

    Attributes:
        model: name of the model.
        paths: N, as the photos were named; "" where one came without a name.
        tokens: N×T×D, what texts look at: float16 image tokens, and encoded tags where tags guide; or of kind
            "tags" float32 N×T×2, place in the vocabulary and score of each tag that a photo got, -1 for none.
        pooled: float32 N×E, a vector of each photo, by which the likely ones are found.
        failed: what could not be read, with the reason; these photos are not among the N.
        weights: hash of the model's weights, which tells models of one name apart, and of kind "tags" of all
            that its tags follow from; "" says nothing.
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
        """Writes a gallery's folder, whole or not at all. About 2.8 kB a photo with `mini`.

        Raises:
            OutputError: it cannot be written, another process writes it, or something else is there.
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
        """The gallery in a folder; its arrays stay on disk, and what is asked of them is read.

        Raises:
            AnytagError: the folder is missing, damaged, or no gallery.
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
    """What a gallery's folder says of itself.

    Attributes:
        model, weights, layout: as of `Gallery`.
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
        """Raises AnytagError where the folder is no gallery."""
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
                f"{folder} is no gallery of this anytag ({why}): make one with anytag match PHOTOS "
                "--text TEXT --gallery FOLDER, or give the folder of one"
            ) from error

    def files(self, folder: Path) -> tuple[RecordFile, RecordFile]:
        """Of the pooled vectors, and of the tokens or tags."""
        kind, width, space = self.layout
        _, name, numbers = FORMATS[kind]
        pooled = RecordFile(folder / _POOLED, (space,), np.dtype("<f4"))
        return pooled, RecordFile(folder / name, (self.count, width), np.dtype(numbers))


class _Photo(NamedTuple):
    """A line: where a photo's records are, and which file it was; no size where it came without a name."""

    slot: int
    path: str
    size: int | None
    time: int | None


def _key(path: str, slot: int) -> str:
    """What tells photos apart: one file is one photo, however it is named from here."""
    return os.path.abspath(path) if path else f"\0{slot}"  # noqa: PTH100  # keeps links, and names of any bytes


def _photos(folder: Path, whole: int) -> dict[str, _Photo]:
    """The photos that are there by key; passes over torn lines, and those without whole records."""
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
                    del photos[keys[slot]]  # the line that says where it went is damaged
                photos[key], keys[slot] = _photo(entry), key
        except (ValueError, KeyError, TypeError):
            continue
    return photos


def _photo(entry: dict[str, Any]) -> _Photo:
    return _Photo(int(entry["slot"]), str(entry["path"]), entry["size"], entry["time"])


def is_gallery(path: str | Path) -> bool:
    """Whether a folder says that it is a gallery."""
    return Path(path, _HEADER).is_file()


def may_be_gallery(path: str | Path) -> bool:
    """A gallery, or an empty folder, where one that had no photos yet may have left its lock.

    Raises:
        RefusedOutputError: something else is there.
    """
    folder = Path(path)
    refuse_photo_name(folder)
    if not os.path.lexists(folder):
        return False
    if folder.is_dir() and (is_gallery(folder) or {one.name for one in folder.iterdir()} <= {_LOCK}):
        return True
    raise RefusedOutputError(
        f"{path} is there and is no gallery of this anytag: give another name for the gallery's folder"
    )


class GalleryWriter:
    """A gallery's folder, opened to be added to: use it in a with statement, by one process at a time.

    Args:
        path: the folder; it is made if it is not there.
        model: as of `Gallery`.
        layouts: a gallery that is there keeps its own, if it is one of these; a new one gets the first.

    Raises:
        OutputError: it cannot be made or written, another process writes it, or something else is there.
        ModelError: another model made it.
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
                self.path.mkdir()  # and no folder above it: that would be a slip of the pen
                stack.callback(self._forsake)
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
        """What `add` is given of each photo."""
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

    def _forsake(self) -> None:
        """Removes a folder that this run made and that has got no photo."""
        if self._header is None:
            (self.path / _LOCK).unlink(missing_ok=True)
            self.path.rmdir()

    def new(self, paths: Iterable[str | os.PathLike[str]]) -> Iterator[str]:
        """Those of `paths` that are not there, or whose size or time of change is another now; each once.

        What cannot be looked at is passed on: reading it says why.
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
                    self._note({key: photo._replace(path=path)})
                continue
            if stat is not None:
                self._stats[key] = stat
            yield path

    def add(self, paths: Sequence[str], tokens: npt.NDArray[Any], pooled: npt.NDArray[Any]) -> None:
        """Adds photos, or puts them in the place of those of the same path.

        Args:
            paths: n, as the photos are named; "" for one without a name.
            tokens: n×T×D, of the kind of `layout`.
            pooled: n×E.

        Raises:
            OutputError: the folder cannot be written; what was added before stays.
        """
        header = self._begin(tokens.shape[1])
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
            self._note(photos)

    def remove(self, path: str) -> None:
        """Forgets a photo, where it is there: such as one that was changed and cannot be read any more."""
        key = _key(path, -1)
        self._stats.pop(key, None)
        if key in self._photos:
            self._note({key: None})

    def _slot(self) -> int:
        if self._free:
            return self._free.pop()
        self._end += 1
        return self._end - 1

    def _begin(self, count: int) -> Header:
        """The header, written when the first photo comes: before, nobody knows its number of tokens."""
        layout = self.layout
        if self._header is None or (self._header.count != count and not self._photos):
            self._header = Header(self._model, self._layouts[layout], layout, count)
            self._header.write(self.path)
        if self._header.count != count:
            raise ModelError(
                f"{self.path} holds {self._header.count} {layout.kind} a photo, this model gives {count}: "
                "give another folder"
            )
        return self._header

    def _note(self, photos: Mapping[str, _Photo | None]) -> None:
        """Lines at the end of the index, in one write; a line that a crash has cut short is ended first."""
        nothing = {"slot": None}
        entries = [{"key": key, **(photo._asdict() if photo else nothing)} for key, photo in photos.items()]
        lines = b"".join(
            json.dumps(one).encode() + b"\n" for one in entries
        )  # ASCII: names may be no Unicode
        with writing(self.path), (self.path / _LINES).open("ab+", buffering=0) as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                lines = lines if file.read(1) == b"\n" else b"\n" + lines
            start = file.seek(0, os.SEEK_END)
            if file.write(lines) < len(lines):  # a full disk
                file.truncate(start)
                raise OSError("no space is left for photos.jsonl")
        for key, photo in photos.items():
            if photo is None:
                self._photos.pop(key, None)
            else:
                self._photos[key] = photo


def _stat(path: str) -> tuple[int, int] | None:
    try:
        stat = os.stat(path)  # noqa: PTH116  # takes names of any bytes
    except (OSError, ValueError):
        return None
    return stat.st_size, stat.st_mtime_ns


def check_model(made: tuple[str, str, Layout], model: str, layouts: Layouts) -> None:
    """Holds what made a gallery (a model's name, a hash, a layout) against the model that is asked about it.

    Raises:
        ModelError: they are not the same.
    """
    name, weights, layout = made
    if name == model and layout in layouts and weights in ("", layouts[layout]):
        return
    ours = layout if layout in layouts else next(iter(layouts))
    found_maker, here = (
        f"{who!r} ({one.kind} {one.width} and vectors {one.space} wide, weights {hash_[:12] or 'not said'})"
        for who, hash_, one in ((name, weights, layout), (model, layouts[ours], ours))
    )
    raise ModelError(
        f"the gallery was made with the model {found_maker}, this is {here}; "
        "embed the photos again, into another gallery"
    )
