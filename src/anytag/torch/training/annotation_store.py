"""The annotations of millions of photos, read once: rows and the columns of their tags in mapped files.

A run that begins maps what an earlier one has made of the same data: it starts in a second, and processes of
a machine share the memory. What is stored follows from the data and from the code that reads it; the store
lies in the user's cache and may be removed at any time.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import anytag.data
import anytag.parsing
from anytag._io import atomic_folder, lock
from anytag.batching import usable_cores
from anytag.data.io import fingerprint
from anytag.data.rows import Row, line_of, row_of
from anytag.errors import OutputError
from anytag.models.registry import cache
from anytag.torch.training.dataset import HELD_OUT, say_unusable, stream_data, with_usable_captions
from anytag.torch.training.mapped import Columns, Indexes, Lists, Selected, bounds, mapped
from anytag.torch.training.report import Progress, Reporter
from anytag.torch.training.soft_labels import Labeler
from anytag.vocabulary import Vocabulary

Labels = tuple[tuple[Columns, ...], Columns]
"""Columns of each caption, and of all that is said of the photo."""

_CHUNK = 5_000  # rows that one process labels at a time
_PARALLEL = 20_000  # rows from which on more processes are worth their start
_INFO = "info.json"


@dataclass(frozen=True, eq=False)
class Annotations:
    """Rows as lines of JSON in one array, parsed when they are looked at.

    Attributes:
        text: uint8, all lines.
        ends: int64 N, where each ends.
        captions: int32 N, how many each row has.
        held: bool N, whether its split is held out.
        sha256: of `text`.
        folder: where it is stored; None in memory.
    """

    text: npt.NDArray[np.uint8]
    ends: Indexes
    captions: npt.NDArray[np.int32]
    held: npt.NDArray[np.bool_]
    sha256: str
    folder: Path | None = None

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, number: int) -> Row:
        start, end = bounds(self.ends, number)
        return row_of(json.loads(self.text[start:end].tobytes()))

    def __iter__(self) -> Iterator[Row]:
        return (self[number] for number in range(len(self)))

    def __reduce__(self) -> Any:
        """A process that gets a stored one maps it, too."""
        return (type(self)._open, (self.folder,)) if self.folder else super().__reduce__()

    def rows(self, which: npt.NDArray[np.int32]) -> Selected:
        """Some of them, each read when it is looked at."""
        return Selected(self.__getitem__, which)

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Annotations:
        """In memory."""
        lines, facts = [], []
        for row in rows:
            lines.append(line_of(row))
            facts.append((len(row.captions), row.split in HELD_OUT))
        whole = b"".join(lines)
        return cls(
            np.frombuffer(whole, np.uint8),
            np.cumsum([len(line) for line in lines], dtype=np.int64),
            np.array([captions for captions, _ in facts], np.int32),
            np.array([held for _, held in facts], bool),
            hashlib.sha256(whole).hexdigest(),
        )

    @classmethod
    def stored(cls, data: str | Path, *, report: Reporter | None = None, **how: Any) -> Annotations:
        """Those of a file or URL, from the store; the first process of a machine fills it, others wait.

        Args:
            how: more arguments of `stream_data`; they decide what is read.

        Raises:
            AnytagError: the data cannot be read, or a row is wrong.
            OutputError: the store cannot be written.
        """
        folder = store() / _digest(fingerprint(str(data)), repr(sorted(how.items())), _code())
        with _once(folder, report or Reporter()) as missing:
            if missing:
                rows = partial(stream_data, data, **how)
                with atomic_folder(folder) as draft:
                    _write(rows(), draft, data=str(data), report=report or Reporter())
        info = json.loads((folder / _INFO).read_text(encoding="utf-8"))
        say_unusable(info["blank"], info["long"], report or Reporter())
        return cls._open(folder)

    @classmethod
    def _open(cls, folder: Path) -> Annotations:
        info = json.loads((folder / _INFO).read_text(encoding="utf-8"))
        return cls(
            mapped(folder / "rows.jsonl", np.uint8),
            mapped(folder / "ends.bin", np.int64),
            mapped(folder / "captions.bin", np.int32),
            mapped(folder / "held.bin", np.bool_),
            info["sha256"],
            folder,
        )

    def labels(self, vocabulary: Vocabulary, *, report: Reporter | None = None) -> StoredLabels:
        """Columns of what labels and captions say of each row, by the vocabulary; nothing of held-out rows.

        Raises:
            OutputError: the store cannot be written.
        """
        report = report or Reporter()
        if self.folder is None:
            return StoredLabels.of(self, vocabulary)
        text = "\n".join(json.dumps(tag.to_dict(), sort_keys=True) for tag in vocabulary)
        folder = self.folder.with_name(f"{self.folder.name}-{_digest(text)}")
        with _once(folder, report) as missing:
            if missing:
                with atomic_folder(folder) as draft:
                    _write_labels(self, vocabulary, draft, report=report)
        return StoredLabels.open(folder)


@dataclass(frozen=True, eq=False)
class StoredLabels:
    """Columns of the tags of N rows.

    Attributes:
        parsed: of each caption of all rows.
        ends: int64 N, where the captions of each row end in `parsed`.
        union: of all that is said of each row.
        folder: where it is stored; None in memory.
    """

    parsed: Lists
    ends: Indexes
    union: Lists
    folder: Path | None = None

    def __reduce__(self) -> Any:
        return (type(self).open, (self.folder,)) if self.folder else super().__reduce__()

    def of_captions(self, row: int) -> tuple[Columns, ...]:
        """Columns of each caption of a row."""
        start, end = bounds(self.ends, row)
        return tuple(self.parsed[start:end])

    def of_photo(self, row: int) -> Columns:
        """Columns of all that is said of a row."""
        return self.union[row]

    @classmethod
    def of(cls, rows: Annotations, vocabulary: Vocabulary) -> StoredLabels:
        """In memory."""
        parts = _Flat.of(_labels(rows, Labeler(vocabulary), 0, len(rows)))
        parsed, unions = Lists(parts.parsed, parts.parsed_sizes.cumsum()), parts.union_sizes.cumsum()
        return cls(parsed, parts.captions.cumsum(), Lists(parts.union, unions))

    @classmethod
    def open(cls, folder: Path) -> StoredLabels:
        """Mapped from a folder of the store."""
        parts = {name: mapped(folder / f"{name}.bin", kind) for name, kind in _Flat.KINDS.items()}
        return cls(
            Lists(parts["parsed"], parts["parsed_sizes"]),
            parts["captions"],
            Lists(parts["union"], parts["union_sizes"]),
            folder,
        )


@dataclass(frozen=True, eq=False)
class _Flat:
    """Labels of some rows as flat arrays: values int32, and the size of each list."""

    parsed: npt.NDArray[np.int32]
    parsed_sizes: Indexes
    captions: Indexes
    union: npt.NDArray[np.int32]
    union_sizes: Indexes

    KINDS = {  # noqa: RUF012  # read only
        "parsed": np.int32,
        "parsed_sizes": np.int64,
        "captions": np.int64,
        "union": np.int32,
        "union_sizes": np.int64,
    }

    @classmethod
    def of(cls, labels: Iterable[Labels]) -> _Flat:
        parsed: list[int] = []
        union: list[int] = []
        sizes: tuple[list[int], list[int], list[int]] = ([], [], [])
        for captions, whole in labels:
            for caption in captions:
                parsed += caption
                sizes[0].append(len(caption))
            sizes[1].append(len(captions))
            union += whole
            sizes[2].append(len(whole))
        of_captions, counts, of_unions = (np.array(one, np.int64) for one in sizes)
        return cls(np.array(parsed, np.int32), of_captions, counts, np.array(union, np.int32), of_unions)


def label_row(row: Row, labeler: Labeler) -> Labels:
    """Columns of each caption, and of all that labels and captions say of the photo."""
    parsed = labeler.of_captions(row)
    return parsed, labeler.of_photo(row, parsed)


def store() -> Path:
    """Where annotations are kept: `$ANYTAG_HOME/annotations`, or in the user's cache."""
    return cache().with_name("annotations")


def build_seconds(rows: int, captions: int) -> float:
    """How long it takes to fill the store, about, on this machine's cores."""
    return 45e-6 * rows + 160e-6 * captions / usable_cores()


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:24]


def _code() -> str:
    """Of the code and tables that read rows: what they make of the data may change with them."""
    found = hashlib.sha256()
    for package in (anytag.data, anytag.parsing):
        folder = Path(str(package.__file__)).parent
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            if "__pycache__" not in file.parts:
                found.update(f"{file.name} {file.stat().st_size}".encode())
                found.update(file.read_bytes() if file.suffix == ".py" else b"")
    found.update(Path(__file__).read_bytes())
    return found.hexdigest()


@contextmanager
def _once(folder: Path, report: Reporter) -> Iterator[bool]:
    """Whether `folder` has to be made, by this process alone: of several, the others wait until it is."""
    if folder.is_dir():
        yield False
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        opened = folder.with_name(f"{folder.name}.lock").open("ab")
    except OSError as error:
        raise OutputError(
            f"{folder.parent}, where annotations are kept, cannot be written ({error.strerror}): set "
            "ANYTAG_HOME to a folder with room"
        ) from error
    with opened as file:
        if waits := not lock(file):
            report.say("Another process reads the annotations; this one waits for it.")
        while waits and not lock(file):
            time.sleep(0.2)
        for rest in folder.parent.glob(f".{folder.name}.*"):  # of a process that was killed while it read
            shutil.rmtree(rest, ignore_errors=True)
        yield not folder.is_dir()
    Path(file.name).unlink(missing_ok=True)


def _write(rows: Iterator[Row], draft: Path, *, data: str, report: Reporter) -> None:
    """All rows as files, in a stream."""
    digest, count, blank, long = hashlib.sha256(), 0, 0, 0
    names = ("rows.jsonl", "ends.bin", "captions.bin", "held.bin")
    text, ends, captions, held = ((draft / name).open("wb") for name in names)
    with text, ends, captions, held:
        place = 0
        while batch := list(islice(rows, _CHUNK)):
            usable = [with_usable_captions(row) for row in batch]
            batch = [row for row, _, _ in usable]
            blank += sum(left_out for _, left_out, _ in usable)
            long += sum(cut for _, _, cut in usable)
            lines = [line_of(row) for row in batch]
            for line in lines:
                digest.update(line)
            text.writelines(lines)
            stops = place + np.cumsum([len(line) for line in lines], dtype=np.int64)
            place, count = int(stops[-1]), count + len(batch)
            stops.tofile(ends)
            np.array([len(row.captions) for row in batch], np.int32).tofile(captions)
            np.array([row.split in HELD_OUT for row in batch], bool).tofile(held)
            report.progress(Progress("read annotations", count, count, unit="rows"))
    info = {"data": data, "rows": count, "sha256": digest.hexdigest(), "blank": blank, "long": long}
    (draft / _INFO).write_text(json.dumps(info), encoding="utf-8")


def _write_labels(rows: Annotations, vocabulary: Vocabulary, draft: Path, *, report: Reporter) -> None:
    """Labels of all rows as files; sizes become ends."""
    files = {name: (draft / f"{name}.bin").open("wb") for name in _Flat.KINDS}
    ends = dict.fromkeys(("parsed_sizes", "captions", "union_sizes"), 0)
    try:
        for done, part in enumerate(_parts(rows, vocabulary), 1):
            for name, file in files.items():
                values = getattr(part, name)
                if name in ends and len(values):
                    values = ends[name] + values.cumsum()
                    ends[name] = int(values[-1])
                values.tofile(file)
            report.progress(Progress("read captions", min(done * _CHUNK, len(rows)), len(rows), unit="rows"))
    finally:
        for file in files.values():
            file.close()


def _parts(rows: Annotations, vocabulary: Vocabulary) -> Iterator[_Flat]:
    """Labels of the rows, some at a time, by all cores where that is worth it."""
    starts = range(0, len(rows), _CHUNK)
    if len(rows) < _PARALLEL or "fork" not in get_all_start_methods() or usable_cores() == 1:
        labeler = Labeler(vocabulary)
        yield from (_Flat.of(_labels(rows, labeler, start, start + _CHUNK)) for start in starts)
        return
    fork = get_context("fork")  # as photos are read: needs no main module that can be imported
    with ProcessPoolExecutor(usable_cores(), fork, _begin, (rows, vocabulary)) as pool:
        yield from pool.map(_piece, starts)


_worker: tuple[Annotations, Labeler] | None = None


def _begin(rows: Annotations, vocabulary: Vocabulary) -> None:
    global _worker  # of a process that does nothing else
    _worker = rows, Labeler(vocabulary)


def _piece(start: int) -> _Flat:
    assert _worker is not None
    return _Flat.of(_labels(*_worker, start, start + _CHUNK))


def _labels(rows: Annotations, labeler: Labeler, start: int, stop: int) -> Iterator[Labels]:
    for number in range(start, min(stop, len(rows))):
        yield ((), ()) if rows.held[number] else label_row(rows[number], labeler)
