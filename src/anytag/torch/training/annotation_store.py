"""A store of the annotations of millions of photos: rows and the columns of their tags in mapped files.

A run maps the files that an earlier one made of the same data, so it starts within a second, and processes
share the memory. The key of an entry depends on the data and on the code that reads it. The store is in the
user's cache folder and may be removed at any time.
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
from anytag._typing import Ints
from anytag.batching import usable_cores
from anytag.data.io import fingerprint
from anytag.data.labels import Labeler
from anytag.data.rows import Row, line_of, row_of
from anytag.errors import OutputError
from anytag.models.registry import cache
from anytag.torch.training.dataset import HELD_OUT, report_unusable, stream_data, with_usable_captions
from anytag.torch.training.mapped import Columns, RaggedArray, Subset, bounds, mapped
from anytag.torch.training.report import Progress, Reporter
from anytag.vocabulary import Vocabulary

Labels = tuple[tuple[Columns, ...], Columns]
"""Tag columns of each caption, and of the photo by labels and all captions."""

_CHUNK = 5_000  # rows per task of a worker process
_PARALLEL = 20_000  # minimum number of rows for which starting worker processes pays off
_INFO = "info.json"


@dataclass(frozen=True, eq=False)
class Annotations:
    """Rows as lines of JSON in one array, parsed on access.

    Attributes:
        text: uint8, all lines.
        ends: int64 N, end of each line.
        captions: int32 N, number of captions of each row.
        held: bool N, whether the row is held out.
        sha256: SHA-256 of `text`.
        folder: the folder of the store; None in memory.
    """

    text: npt.NDArray[np.uint8]
    ends: Ints
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
        """Pickle a stored one as its folder, so that another process maps it too."""
        return (type(self)._open, (self.folder,)) if self.folder else super().__reduce__()

    def rows(self, which: npt.NDArray[np.int32]) -> Subset:
        """A subset, parsed on access."""
        return Subset(self.__getitem__, which)

    @classmethod
    def from_rows(cls, rows: Iterable[Row]) -> Annotations:
        """Annotations in memory."""
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
    def cached(cls, data: str | Path, *, report: Reporter | None = None, **how: Any) -> Annotations:
        """Annotations of a file or URL from the store; the first process that needs them reads the data.

        Args:
            how: further arguments of `stream_data`, which are part of the key.

        Raises:
            AnytagError: the data cannot be read, or a row is invalid.
            OutputError: the store cannot be written.
        """
        folder = store_folder() / _digest(fingerprint(str(data)), repr(sorted(how.items())), _code_digest())
        with _locked(folder, report or Reporter()) as missing:
            if missing:
                rows = partial(stream_data, data, **how)
                with atomic_folder(folder) as draft:
                    _write(rows(), draft, data=str(data), report=report or Reporter())
        info = json.loads((folder / _INFO).read_text(encoding="utf-8"))
        report_unusable(info["blank"], info["long"], report or Reporter())
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
        """Tag columns of each row from labels and captions; empty for held-out rows.

        Raises:
            OutputError: the store cannot be written.
        """
        report = report or Reporter()
        if self.folder is None:
            return StoredLabels.from_rows(self, vocabulary)
        text = "\n".join(json.dumps(tag.to_dict(), sort_keys=True) for tag in vocabulary)
        folder = self.folder.with_name(f"{self.folder.name}-{_digest(text)}")
        with _locked(folder, report) as missing:
            if missing:
                with atomic_folder(folder) as draft:
                    _write_labels(self, vocabulary, draft, report=report)
        return StoredLabels.open(folder)


@dataclass(frozen=True, eq=False)
class StoredLabels:
    """Tag columns of N rows.

    Attributes:
        parsed: columns of each caption, of all rows.
        ends: int64 N, end of each row's captions in `parsed`.
        union: columns of each row, from labels and all captions.
        folder: the folder of the store; None in memory.
    """

    parsed: RaggedArray
    ends: Ints
    union: RaggedArray
    folder: Path | None = None

    def __reduce__(self) -> Any:
        return (type(self).open, (self.folder,)) if self.folder else super().__reduce__()

    def of_captions(self, row: int) -> tuple[Columns, ...]:
        """Columns of each caption of a row."""
        start, end = bounds(self.ends, row)
        return tuple(self.parsed[start:end])

    def of_photo(self, row: int) -> Columns:
        """Columns of a row, from labels and all captions."""
        return self.union[row]

    @classmethod
    def from_rows(cls, rows: Annotations, vocabulary: Vocabulary) -> StoredLabels:
        """Labels in memory."""
        parts = _LabelArrays.concatenate(_labels(rows, Labeler(vocabulary), 0, len(rows)))
        parsed, unions = RaggedArray(parts.parsed, parts.parsed_sizes.cumsum()), parts.union_sizes.cumsum()
        return cls(parsed, parts.captions.cumsum(), RaggedArray(parts.union, unions))

    @classmethod
    def open(cls, folder: Path) -> StoredLabels:
        """Map the labels in a folder of the store."""
        parts = {name: mapped(folder / f"{name}.bin", kind) for name, kind in _LabelArrays.KINDS.items()}
        return cls(
            RaggedArray(parts["parsed"], parts["parsed_sizes"]),
            parts["captions"],
            RaggedArray(parts["union"], parts["union_sizes"]),
            folder,
        )


@dataclass(frozen=True, eq=False)
class _LabelArrays:
    """Labels of some rows as flat arrays: values int32, and the length of each list."""

    parsed: npt.NDArray[np.int32]
    parsed_sizes: Ints
    captions: Ints
    union: npt.NDArray[np.int32]
    union_sizes: Ints

    KINDS = {  # noqa: RUF012  # never modified
        "parsed": np.int32,
        "parsed_sizes": np.int64,
        "captions": np.int64,
        "union": np.int32,
        "union_sizes": np.int64,
    }

    @classmethod
    def concatenate(cls, labels: Iterable[Labels]) -> _LabelArrays:
        parsed: list[int] = []
        union: list[int] = []
        sizes: tuple[list[int], list[int], list[int]] = ([], [], [])
        for captions, photo in labels:
            for caption in captions:
                parsed += caption
                sizes[0].append(len(caption))
            sizes[1].append(len(captions))
            union += photo
            sizes[2].append(len(photo))
        parsed_sizes, counts, union_sizes = (np.array(one, np.int64) for one in sizes)
        return cls(np.array(parsed, np.int32), parsed_sizes, counts, np.array(union, np.int32), union_sizes)


def label_row(row: Row, labeler: Labeler) -> Labels:
    """Tag columns of each caption, and of the photo by labels and all captions."""
    parsed = labeler.of_captions(row)
    return parsed, labeler.of_photo(row, parsed)


def store_folder() -> Path:
    """The folder of the store: `$ANYTAG_HOME/annotations`, or in the user's cache folder."""
    return cache().with_name("annotations")


def build_seconds(rows: int, captions: int) -> float:
    """Estimated time to fill the store, on this machine's cores."""
    return 45e-6 * rows + 160e-6 * captions / usable_cores()


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:24]


def _code_digest() -> str:
    """A hash of the code and tables that read rows, since the result depends on them."""
    digest = hashlib.sha256()
    for package in (anytag.data, anytag.parsing):
        folder = Path(str(package.__file__)).parent
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            if "__pycache__" not in file.parts:
                digest.update(f"{file.name} {file.stat().st_size}".encode())
                digest.update(file.read_bytes() if file.suffix == ".py" else b"")
    digest.update(Path(__file__).read_bytes())
    return digest.hexdigest()


@contextmanager
def _locked(folder: Path, report: Reporter) -> Iterator[bool]:
    """Whether this process has to make `folder`; other processes wait until it is complete."""
    if folder.is_dir():
        yield False
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        opened = folder.with_name(f"{folder.name}.lock").open("ab")
    except OSError as error:
        raise OutputError(
            f"{folder.parent}, the cache of annotations, cannot be written ({error.strerror}): set "
            "ANYTAG_HOME to a writable folder with free space"
        ) from error
    with opened as file:
        if waits := not lock(file):
            report.say("Another process is reading the annotations; waiting for it.")
        while waits and not lock(file):
            time.sleep(0.2)
        for draft in folder.parent.glob(f".{folder.name}.*"):  # left by a killed process
            shutil.rmtree(draft, ignore_errors=True)
        yield not folder.is_dir()
    Path(file.name).unlink(missing_ok=True)


def _write(rows: Iterator[Row], draft: Path, *, data: str, report: Reporter) -> None:
    """Write all rows as a stream."""
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
    """Write the labels of all rows; lengths of lists become cumulative ends."""
    files = {name: (draft / f"{name}.bin").open("wb") for name in _LabelArrays.KINDS}
    ends = dict.fromkeys(("parsed_sizes", "captions", "union_sizes"), 0)
    try:
        for done, part in enumerate(_label_chunks(rows, vocabulary), 1):
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


def _label_chunks(rows: Annotations, vocabulary: Vocabulary) -> Iterator[_LabelArrays]:
    """Labels of the rows in chunks, computed on all cores if there are many rows."""
    starts = range(0, len(rows), _CHUNK)
    if len(rows) < _PARALLEL or "fork" not in get_all_start_methods() or usable_cores() == 1:
        labeler = Labeler(vocabulary)
        chunks = (_labels(rows, labeler, start, start + _CHUNK) for start in starts)
        yield from map(_LabelArrays.concatenate, chunks)
        return
    fork = get_context("fork")  # does not need an importable main module
    with ProcessPoolExecutor(usable_cores(), fork, _init_worker, (rows, vocabulary)) as pool:
        yield from pool.map(_label_chunk, starts)


_worker: tuple[Annotations, Labeler] | None = None


def _init_worker(rows: Annotations, vocabulary: Vocabulary) -> None:
    global _worker  # of a dedicated process
    _worker = rows, Labeler(vocabulary)


def _label_chunk(start: int) -> _LabelArrays:
    assert _worker is not None
    return _LabelArrays.concatenate(_labels(*_worker, start, start + _CHUNK))


def _labels(rows: Annotations, labeler: Labeler, start: int, stop: int) -> Iterator[Labels]:
    for number in range(start, min(stop, len(rows))):
        yield ((), ()) if rows.held[number] else label_row(rows[number], labeler)
