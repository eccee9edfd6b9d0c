"""The second phase of a sync: waiting photos are read, and tagged unless a row has their tags.

Each thread reads, hashes and tags a batch and writes it in one transaction, so that a killed process loses at
most one batch per thread.
"""

from __future__ import annotations

import io
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from anytag._typing import Floats
from anytag.batching import in_batches
from anytag.errors import ImageError, escaped
from anytag.images.formats import SIGNATURE_BYTES, has_raw_suffix, sniff
from anytag.library import words
from anytag.library.database import Database
from anytag.library.fingerprint import fingerprint
from anytag.library.thumbnails import SIDE, Thumbnails, key
from anytag.library.vectors import keep, vector_file
from anytag.results import Failure, TagResult

if TYPE_CHECKING:
    from anytag.captioner import Captioner
    from anytag.tagger import Encoded, Tagger

Action = Literal["tagged", "moved", "copied", "unchanged", "failed", "waits", "pending", "gone"]
"""The result of processing a photo: `unchanged` if its picture is, `waits` if its file is being written, and
`pending` and `gone` in a dry run only."""

CONTENT_ERRORS = ("ImageError", "MissingExtraError", "MissingToolError")
"""Errors that are final until the file or the installation changes; others are retried by each sync."""


@dataclass(frozen=True, slots=True)
class Event:
    """A processed photo.

    Attributes:
        path: as on disk.
        action: the result.
        error: why it failed.
        was: the path before it was moved, or of the photo that it is a copy of.
    """

    path: str
    action: Action
    error: Failure | None = None
    was: str | None = None

    def to_dict(self) -> dict[str, object]:
        """As a dict for JSON: the row of `anytag library sync --format jsonl`."""
        error = {"type": self.error.type, "message": self.error.message} if self.error else None
        return {"path": self.path, "action": self.action, "error": error, "was": self.was}


class Waiting(NamedTuple):
    """A row to process."""

    id: int
    path: bytes
    size: int
    mtime_ns: int
    picture: bytes | None
    orientation: int | None
    model: int | None
    has_caption: int
    has_vector: int

    def is_turned(self, orientation: int) -> bool:
        """Whether the picture was tagged in another orientation; of earlier versions, 1 is assumed."""
        return (self.orientation or 1) != orientation


@dataclass(frozen=True, slots=True)
class _Result:
    """The result of processing a photo, before it is written."""

    row: Waiting
    action: Action
    picture: bytes | None = None
    taken: str | None = None
    orientation: int = 1
    tags: TagResult | None = None
    vector: npt.NDArray[np.float32] | None = None
    hash: bytes | None = None
    caption: str | None = None
    thumbnail: bytes = b""
    error: Failure | None = None


class Model(NamedTuple):
    """A loaded model and its row in the database.

    Attributes:
        id: of its row.
        weights: hash of the image encoder's weights; see `reranking.weights_of`.
        tagger: tags photos.
        captioner: writes captions; None for no captions.
    """

    id: int
    weights: str
    tagger: Tagger
    captioner: Captioner | None = None


class Processor:
    """Processes photos by their rows.

    Args:
        database: of the library.
        model: tags the photos.
        again: tag photos again that another model tagged, even if the picture is unchanged.
        thumbnails: store a thumbnail of each tagged photo.
    """

    def __init__(
        self, database: Database, model: Model, *, again: bool = False, thumbnails: bool = False
    ) -> None:
        self._database, self._model, self._again = database, model, again
        self._thumbnails = Thumbnails(database.path) if thumbnails else None

    def run(self, ids: Sequence[int], *, batch_size: int, workers: int | None) -> Iterator[Event]:
        """Process photos in order; yields each when its row is written."""
        for events in in_batches(self._process_batch, list(ids), batch_size=batch_size, workers=workers):
            yield from events

    def _process_batch(self, ids: list[int]) -> list[Event]:
        """Process and write one batch, in a worker thread."""
        seen = self._batch(ids)
        for one in seen:
            if self._thumbnails is not None and one.thumbnail:
                self._thumbnails.keep(key(one.picture, one.row.size, one.row.mtime_ns), one.thumbnail)
        return self._write(seen)

    def _batch(self, ids: list[int]) -> list[_Result]:
        """Read the files of photos, and tag those that need it."""
        seen = [self._read(row) for row in self._rows(ids)]
        todo = [(place, data) for place, (_, data) in enumerate(seen) if data is not None]
        found = [one for one, _ in seen]
        if todo:
            rows = [found[place].row for place, _ in todo]
            for (place, _), new in zip(todo, self._tag(rows, [data for _, data in todo]), strict=True):
                read = found[place]
                found[place] = replace(
                    new, picture=read.picture, taken=read.taken, orientation=read.orientation
                )
        return found

    def _rows(self, ids: Sequence[int]) -> list[Waiting]:
        columns = (
            "id, path, size, mtime_ns, picture, orientation, model, caption IS NOT NULL, slot IS NOT NULL"
        )
        found = (self._database.query(f"SELECT {columns} FROM photos WHERE id = ?", (one,)) for one in ids)
        return [Waiting(*row) for rows in found for row in rows]

    def _is_known(self, seen: _Result) -> bool:
        """Whether the row has all results for this picture."""
        row = seen.row
        if row.picture != seen.picture or row.is_turned(seen.orientation):
            return False
        is_ours = row.model == self._model.id
        is_current = bool(row.has_vector) if is_ours else row.model is not None and not self._again
        return is_current and (not self._model.captioner or bool(row.has_caption))

    def _read(self, row: Waiting) -> tuple[_Result, bytes | None]:
        """Read a photo's file; also returns its bytes if it must be tagged."""
        path = os.fsdecode(row.path)
        try:
            data = _whole(path, row)
        except ImageError as error:
            return _Result(row, "failed", error=Failure("ImageError", str(error))), None
        except FileNotFoundError:  # deleted or renamed since the scan
            return _Result(row, "waits"), None
        except OSError as error:
            reason = f"{path}: cannot be read ({error.strerror or error})"
            return _Result(row, "failed", error=Failure(type(error).__name__, reason)), None
        if data is None:
            return _Result(row, "waits"), None
        seen = _Result(row, "unchanged", *fingerprint(data))
        if self._is_known(seen):
            return seen, None
        if self._find_copy(seen) is not None:
            return replace(seen, action="copied"), None
        return seen, data

    def _tag(self, rows: Sequence[Waiting], files: Sequence[bytes]) -> Iterator[_Result]:
        tagger = self._model.tagger
        sources = [_named_file(data, os.fsdecode(row.path)) for row, data in zip(rows, files, strict=True)]
        side = None if self._thumbnails is None else SIDE
        encoded = list(tagger.encode_many(sources, batch_size=len(sources), workers=1, thumbnail=side))
        good = [one for one in encoded if one.error is None]
        captions = iter(self._captions(good))
        for row, one, tags in zip(rows, encoded, tagger.score_many(encoded), strict=True):
            if one.error is not None:
                yield _Result(row, "failed", error=one.error)
            else:
                caption = next(captions)
                vector, small = one.pooled, one.thumbnail
                yield _Result(
                    row, "tagged", tags=tags, vector=vector, hash=one.hash, caption=caption, thumbnail=small
                )

    def _captions(self, encoded: Sequence[Encoded]) -> list[str | None]:
        captioner = self._model.captioner
        if captioner is None or not encoded:
            return [None] * len(encoded)
        return [caption.text for caption in captioner.write(encoded)]

    def _find_copy(self, seen: _Result) -> tuple[int, bytes, bool] | None:
        """A row with all results for a picture: id, path, and whether this file is that one, moved."""
        row = seen.row
        found = self._database.query(
            "SELECT p.id, p.path, r.path, "
            "CASE WHEN slot IS NOT NULL AND coalesce(orientation = ?, 1) THEN model END "
            "FROM photos p JOIN roots r ON r.id = p.root "
            "WHERE picture = ? AND p.id != ? AND model IS NOT NULL AND error_type IS NULL "
            "AND (caption IS NOT NULL) >= ?",
            (seen.orientation, seen.picture, row.id, self._model.captioner is not None),
        )
        twins = [
            (photo, path, os.path.isdir(root) and not os.path.lexists(path), model)  # noqa: PTH112
            for photo, path, root, model in found
        ]
        for photo, path, is_gone, model in sorted(twins, key=lambda one: not one[2]):
            if (is_gone and row.picture is None) or model == self._model.id:
                return photo, path, is_gone and row.picture is None
        return None

    def _write(self, seen: Sequence[_Result]) -> list[Event]:
        """Write a batch in one transaction: first the vectors, then the rows that refer to them."""
        tagged = [one for one in seen if one.action == "tagged"]
        with self._database.transaction() as connection:
            vectors = {one.row.id: one.vector for one in tagged if one.vector is not None}
            slots = self._keep(connection, vectors)
            return [self._write_one(connection, one, slots.get(one.row.id)) for one in seen]

    def _write_one(self, connection: sqlite3.Connection, seen: _Result, slot: int | None) -> Event:
        row, path = seen.row, os.fsdecode(seen.row.path)
        twin = None
        if seen.action == "copied":
            twin = self._find_copy(seen)
            if twin is None:  # changed in the meantime: left to the next sync
                return Event(path, "waits")
        if twin is not None:
            photo, was, is_gone = twin
            (_moved if is_gone else self._copied)(connection, photo, seen)
            words.rewrite(connection, [photo if is_gone else row.id])
            return Event(path, "moved" if is_gone else "copied", was=os.fsdecode(was))
        if seen.action == "failed" and seen.error is not None:
            self._failed(connection, row, seen.error)
        elif seen.action == "unchanged":
            connection.execute(
                "UPDATE photos SET state = 'done', picture = ?, orientation = ?, taken = ?, "
                "error_type = NULL, error_message = NULL WHERE id = ?",
                (seen.picture, seen.orientation, seen.taken, row.id),
            )
        elif seen.action == "tagged":
            self._tagged(connection, seen, slot)
        if seen.action in ("failed", "tagged"):
            words.rewrite(connection, [row.id])
        return Event(path, seen.action, seen.error)

    def _tagged(self, connection: sqlite3.Connection, seen: _Result, slot: int | None) -> None:
        photo, tags = seen.row.id, seen.tags
        assert tags is not None
        connection.execute(
            "UPDATE photos SET state = 'done', picture = ?, orientation = ?, taken = ?, width = ?, "
            "height = ?, model = ?, slot = ?, hash = ?, "
            "caption = coalesce(?, CASE WHEN picture = ? THEN caption END), "
            "error_type = NULL, error_message = NULL WHERE id = ?",
            (seen.picture, seen.orientation, seen.taken, tags.width, tags.height, self._model.id, slot,
             seen.hash, seen.caption, seen.picture, photo),
        )  # fmt: skip
        connection.execute("DELETE FROM tags WHERE photo = ?", (photo,))
        connection.executemany(
            "INSERT INTO tags (photo, tag, name, score) VALUES (?, ?, ?, ?)",
            ((photo, tag.id, tag.name, tag.score) for tag in tags.tags),
        )

    def _failed(self, connection: sqlite3.Connection, row: Waiting, error: Failure) -> None:
        """Store an error; tags are deleted if the content is the cause, not after temporary read errors."""
        message = escaped(error.message)  # contains the file's name
        connection.execute(
            "UPDATE photos SET state = 'failed', error_type = ?, error_message = ? WHERE id = ? "
            "AND (error_message IS NOT ? OR state != 'failed')",
            (error.type, message, row.id, message),
        )
        if error.type in CONTENT_ERRORS:
            connection.execute("DELETE FROM tags WHERE photo = ?", (row.id,))
            connection.execute(
                "UPDATE photos SET picture = NULL, slot = NULL, hash = NULL, caption = NULL, model = ? "
                "WHERE id = ?",
                (self._model.id, row.id),
            )

    def _copied(self, connection: sqlite3.Connection, photo: int, seen: _Result) -> None:
        """Copy tags, vector and caption from a row with the same picture, and decisions to a new file."""
        row = seen.row.id
        slot = self._copied_vector(connection, photo)
        connection.execute(
            "UPDATE photos SET (state, picture, orientation, hash, taken, width, height, model, caption, "
            "slot, error_type, error_message) = "
            "(SELECT 'done', picture, ?, hash, ?, width, height, model, caption, ?, NULL, NULL "
            "FROM photos WHERE id = ?) WHERE id = ?",
            (seen.orientation, seen.taken, slot, photo, row),
        )
        connection.execute("DELETE FROM tags WHERE photo = ?", (row,))
        tables = ["tags (photo, tag, name, score)"]
        if seen.row.picture is None:
            tables.append("decisions (photo, tag, name, kind, time)")
        for table in tables:
            name, columns = table.split(" ", 1)
            rest = columns.strip("()").removeprefix("photo, ")
            connection.execute(
                f"INSERT OR IGNORE INTO {table} SELECT ?, {rest} FROM {name} WHERE photo = ?", (row, photo)
            )

    def _copied_vector(self, connection: sqlite3.Connection, photo: int) -> int | None:
        slot, weights = connection.execute(
            "SELECT slot, weights FROM photos JOIN models m ON m.id = model WHERE photos.id = ?",
            (photo,),
        ).fetchone()
        if slot is None or weights != self._model.weights:
            return None
        width = self._model.tagger.card.width
        vectors = vector_file(self._database.path, weights, width).read(np.array([slot], np.int64))
        return keep(self._database.path, weights, [None], [vectors[0]])[0]

    def _keep(self, connection: sqlite3.Connection, vectors: Mapping[int, Floats]) -> dict[int, int]:
        """Write the vectors of photos, by id, and return their slots; a photo keeps its slot."""
        marks = ", ".join("?" * len(vectors))
        own = dict(
            connection.execute(
                "SELECT p.id, slot FROM photos p JOIN models m ON m.id = model "
                f"WHERE weights = ? AND slot IS NOT NULL AND p.id IN ({marks})",
                (self._model.weights, *vectors),
            ).fetchall()
        )
        slots = [own.get(photo) for photo in vectors]
        kept = keep(self._database.path, self._model.weights, slots, list(vectors.values()))
        return dict(zip(vectors, kept, strict=True))


def _moved(connection: sqlite3.Connection, photo: int, seen: _Result) -> None:
    """Gives the row of a photo the name that the file has now; the row that waited for it goes."""
    facts = connection.execute(
        "SELECT path, root, name, size, mtime_ns, device, inode FROM photos WHERE id = ?", (seen.row.id,)
    ).fetchone()
    connection.execute("DELETE FROM photos WHERE id = ?", (seen.row.id,))
    connection.execute(
        "UPDATE photos SET path = ?, root = ?, name = ?, size = ?, mtime_ns = ?, device = ?, inode = ?, "
        "taken = ?, state = 'done', pair = NULL WHERE id = ?",
        (*facts, seen.taken, photo),
    )


def _whole(path: str, row: Waiting) -> bytes | None:
    """A photo's file, once its first bytes are those of a photo; None where it is being written.

    Raises:
        ImageError: it is no photo.
        OSError: it cannot be read.
    """
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123  # names of any kind
        head = file.read(SIGNATURE_BYTES)
        if _is_changed(file.fileno(), row):
            return None
        if not head or not has_raw_suffix(path):  # of RAW files there are many kinds
            sniff(head, path)
        data = head + file.readall()
        return None if _is_changed(file.fileno(), row) or len(data) != row.size else data


def _is_changed(file: int, row: Waiting) -> bool:
    facts = os.fstat(file)
    return (facts.st_size, facts.st_mtime_ns) != (row.size, row.mtime_ns)


def _named_file(data: bytes, path: str) -> io.BytesIO:
    """An open file with a name, for error messages."""
    file = io.BytesIO(data)
    file.name = path
    return file
