"""The first phase of a sync: compare the folders with the database, without opening photos.

New and changed files get rows in the state "waiting"; files that moved within a disk keep their rows; missing
ones are collected, and handled at the end of the sync.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from anytag.errors import escaped
from anytag.library import words
from anytag.library.database import Database
from anytag.library.decisions import FOLLOW
from anytag.library.pairs import seconds
from anytag.library.roots import Root, below, name_of, signed
from anytag.results import Failure
from anytag.walk import Entry, Walk

_CHUNK = 2000
"""Changes per transaction; other processes can write in between."""

_PAIRED, _GONE, _FAILED = 1, 2, 4
_FLAGS = f"(pair IS NOT NULL) * {_PAIRED} + (state = 'gone') * {_GONE} + (state = 'failed') * {_FAILED}"
_STATE_BACK = (
    "CASE WHEN error_type IS NOT NULL THEN 'failed' WHEN model IS NULL AND pair IS NULL THEN 'waiting' "
    "ELSE 'done' END"
)


class _Known(NamedTuple):
    """The row of a path."""

    id: int
    size: int
    mtime_ns: int
    inode: int
    flags: int


@dataclass
class Found:
    """The result of a scan.

    Attributes:
        new, changed, moved, unchanged, paired: numbers of files; `paired` ones belong to other photos, and
            are neither new, changed nor unchanged; earlier failures are not unchanged either.
        devices: number of photos by device, before the scan.
        missing: ids of rows whose files are missing, by path.
        left_out: ids of rows whose files exist but are excluded now.
        failures: errors of files and folders that cannot be read.
    """

    new: int = 0
    changed: int = 0
    moved: int = 0
    unchanged: int = 0
    paired: int = 0
    devices: dict[int, int] = field(default_factory=dict)
    missing: dict[bytes, int] = field(default_factory=dict)
    left_out: list[int] = field(default_factory=list)
    failures: dict[str, Failure] = field(default_factory=dict)


class Scan:
    """Compares the folders of roots with the database."""

    def __init__(self, database: Database, roots: Sequence[Root], walk: Walk) -> None:
        self.found = Found()
        self._database, self._roots, self._walk = database, roots, walk
        self._known: dict[bytes, _Known] = {}
        self._seconds: dict[bytes, bytes] = {}
        self._same: dict[tuple[int, int], list[tuple[bytes, os.stat_result, _Known | None]]] = {}
        self._links: list[tuple[Root, bytes, os.stat_result, _Known | None]] = []
        self._changed: list[tuple[Root, bytes, os.stat_result, int]] = []
        self._changes: list[tuple[str, tuple[object, ...]]] = []
        self._new: list[bytes] = []
        self._edited: list[bytes] = []
        self._moves: list[tuple[bytes, int, str, int, int]] = []
        self._moved: set[int] = set()
        self._displaced: set[int] = set()  # rows whose paths other files have now
        self._reworded: list[int] = []
        walk.on_error = self._cannot_read

    def run(self) -> Found:
        """Scan the folders, and update the rows."""
        for root in self._roots:
            for path, *known in self._rows(root):
                self._known[path] = _Known(*known)  # of rows with the same path, the last is not gone
        for root in self._roots:
            self._walk.top = root.top
            for entries in self._walk.folders(root.top, root.path):
                self._folder(root, entries)
        self._see_changed()
        self._see_links()
        self._flush()
        self._settle_pairs()
        self._judge_missing()
        self.found.new = sum(path not in self._seconds for path in self._new)
        self.found.changed = sum(path not in self._seconds for path in self._edited)
        return self.found

    def _rows(self, root: Root) -> Iterator[tuple[bytes, int, int, int, int, int]]:
        where = "FROM photos WHERE path >= ? AND path < ?"
        low, high = below(root.top)
        counts = f"SELECT device, count(*) {where} AND state != 'gone' GROUP BY device"
        for device, count in self._database.query(counts, (low, high)):
            self.found.devices[device] = self.found.devices.get(device, 0) + count
        query = f"SELECT path, id, size, mtime_ns, inode, {_FLAGS} {where} ORDER BY state != 'gone'"
        yield from self._database.stream(query, (low, high))

    def _folder(self, root: Root, entries: list[Entry]) -> None:
        stands = seconds([entry.name for entry in entries])
        for entry in entries:
            path = os.fsencode(entry.path)
            known = self._known.pop(path, None)
            try:
                if entry.is_symlink():
                    self._link(root, entry, path, known)
                    continue
                facts = entry.stat()
            except OSError as error:  # deleted in the meantime, or no permission
                self._unseen(path, known, error)
                continue
            if not stat.S_ISREG(facts.st_mode):
                self._fail(
                    root, path, known, facts, Failure("ImageError", f"{entry.path}: is not a regular file")
                )
                continue
            if facts.st_nlink > 1 and facts.st_ino:
                self._same.setdefault((facts.st_dev, facts.st_ino), []).append((path, facts, known))
            if (first := stands.get(entry.name)) is not None:
                self._seconds[path] = os.fsencode(os.path.join(os.path.dirname(entry.path), first))  # noqa: PTH118, PTH120
            self._see(root, path, facts, known)

    def _see(
        self, root: Root, path: bytes, facts: os.stat_result, known: _Known | None, *, is_link: bool = False
    ) -> None:
        """Handle a readable file; a link does not take over the row of its target."""
        if known is not None and known[1:4] != _signature(facts):
            if is_link or not self._is_moved(root, path, facts):
                self._changed.append((root, path, facts, known.id))
                return
            if known.id not in self._moved:
                self._displaced.add(known.id)
            return
        if known is None:
            if is_link or not self._is_moved(root, path, facts):
                self._insert(root, path, facts)
            return
        self.found.unchanged += not known.flags & (_PAIRED | _FAILED)
        if known.flags & _GONE:
            self._change(
                f"UPDATE photos SET state = {_STATE_BACK} WHERE id = ?", (known.id,), words_of=known.id
            )
        if known.flags & _PAIRED and path not in self._seconds and facts.st_nlink == 1:
            self._unpair(known.id)

    def _is_moved(self, root: Root, path: bytes, facts: os.stat_result) -> bool:
        """Move the row of the same file from its old path, if the file was renamed."""
        if not facts.st_ino:
            return False
        found = self._database.query(
            "SELECT p.id, p.path, r.path FROM photos p JOIN roots r ON r.id = p.root "
            "WHERE inode = ? AND size = ? AND mtime_ns = ? AND p.path != ? ORDER BY pair IS NOT NULL",
            (signed(facts.st_ino), facts.st_size, facts.st_mtime_ns, path),
        )
        for photo, old, place in found:
            if photo in self._moved or not os.path.isdir(place) or self._has_name(old, facts):  # noqa: PTH112
                continue
            self._known.pop(old, None)
            self._displaced.discard(photo)
            self._moved.add(photo)
            self._moves.append((path, root.id, name_of(root.path, path), signed(facts.st_dev), photo))
            return True
        return False

    def _has_name(self, path: bytes, facts: os.stat_result) -> bool:
        """Whether the row's file is still at this path; case-insensitive disks also find it by other names.

        A file of another disk may have the same inode, size and time, as on a cloned disk.
        """
        try:
            found = os.stat(path)  # noqa: PTH116
        except OSError:
            return False
        if not os.path.samestat(found, facts):
            return _signature(found) == _signature(facts)
        is_walked = any(low <= path < high for low, high in map(below, (root.top for root in self._roots)))
        return facts.st_nlink > 1 or not is_walked or path not in self._known

    def _see_changed(self) -> None:
        """Handle paths with changed files, once it is known which rows were moved."""
        for root, path, facts, photo in self._changed:
            if photo in self._moved:
                self._insert(root, path, facts)
                continue
            self._edited.append(path)
            self._change(
                "UPDATE photos SET size = ?, mtime_ns = ?, device = ?, inode = ?, state = 'waiting' "
                "WHERE id = ?",
                (*_facts(facts), photo),
            )
        self._changed.clear()

    def _insert(self, root: Root, path: bytes, facts: os.stat_result) -> None:
        self._new.append(path)
        self._change(
            "INSERT INTO photos (root, path, name, size, mtime_ns, device, inode, state) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, 'waiting')",
            (root.id, path, name_of(root.path, path), *_facts(facts)),
        )

    def _unpair(self, photo: int) -> None:
        """Make a paired file a separate photo, with a copy of the other's decisions."""
        (first,) = self._database.query("SELECT pair FROM photos WHERE id = ?", (photo,))[0]
        self._follow(first, photo)
        self._change(
            "UPDATE photos SET pair = NULL, state = CASE WHEN model IS NULL THEN 'waiting' ELSE state END "
            "WHERE id = ?",
            (photo,),
            words_of=photo,
        )

    def _link(self, root: Root, entry: Entry, path: bytes, known: _Known | None) -> None:
        try:
            facts = entry.stat()
        except OSError as error:  # broken or circular
            reason = f"{entry.path}: is a broken link ({error.strerror})"
            self._fail(root, path, known, entry.stat(follow_symlinks=False), Failure("ImageError", reason))
            return
        self._links.append((root, path, facts, known))

    def _see_links(self) -> None:
        """Pair symbolic and hard links with one row of their photo."""
        for names in self._same.values():
            first = min(names, key=lambda one: one[2] is None or bool(one[2].flags & _PAIRED))
            self._seconds |= {path: first[0] for path, _, _ in names if path is not first[0]}
            if first[2] is not None and first[2].flags & _PAIRED and first[0] not in self._seconds:
                self._unpair(first[2].id)
        self._flush()
        for root, path, facts, known in self._links:
            found = self._database.query(
                "SELECT path FROM photos WHERE inode = ? AND device = ? AND path != ? AND pair IS NULL "
                "AND state != 'gone'",
                (signed(facts.st_ino), signed(facts.st_dev), path),
            )
            photo = next((other for (other,) in found if os.path.lexists(other)), None)
            if photo is not None:
                self._seconds[path] = photo
            self._see(root, path, facts, known, is_link=photo is not None)
            self._see_changed()
            self._flush()

    def _settle_pairs(self) -> None:
        """Store the pairs."""
        for second in self._seconds:
            first = self._first(second)
            found = self._database.query(
                "SELECT s.id, f.id, s.pair FROM photos s, photos f WHERE s.path = ? AND f.path = ? "
                "AND s.state != 'gone' AND f.state != 'gone' AND (s.pair IS NOT f.id OR s.state = 'waiting')",
                (second, first),
            )
            for row in found:
                self._change(
                    "UPDATE photos SET pair = ?, state = 'done', error_type = NULL, error_message = NULL "
                    "WHERE id = ?",
                    (row[1], row[0]),
                    words_of=row[0],
                )
                for said_of in {row[0], row[2]} - {None, row[1]}:
                    self._follow(said_of, row[1])
        self.found.paired = len(self._seconds)
        self._flush()

    def _first(self, path: bytes) -> bytes:
        """The file that stands for another, which may be by way of a third, such as a link's RAW."""
        passed = set()
        while path in self._seconds and path not in passed:
            passed.add(path)
            path = self._seconds[path]
        return path

    def _follow(self, photo: int, other: int) -> None:
        """Copy the decisions about a photo to the photo that it is paired with."""
        if self._database.query("SELECT 1 FROM decisions WHERE photo = ? LIMIT 1", (photo,)):
            for statement in FOLLOW:
                self._change(statement, (photo, other), words_of=other)

    def _judge_missing(self) -> None:
        """Sort the remaining rows: missing, excluded now, or in an unreadable folder."""
        unread = tuple(os.fsencode(os.path.join(folder, "")) for folder in self.found.failures)  # noqa: PTH118
        for path, known in self._known.items():
            if known.flags & _GONE or path.startswith(unread):
                continue
            if os.path.lexists(path):
                self.found.left_out.append(known.id)
            else:
                self.found.missing[path] = known.id

    def _fail(
        self, root: Root, path: bytes, known: _Known | None, facts: os.stat_result, failure: Failure
    ) -> None:
        """Store that a file is not a photo; reported once."""
        if known is None:
            self._insert(root, path, facts)
        elif known.flags & _FAILED and known[1:4] == _signature(facts):
            return
        self.found.failures[os.fsdecode(path)] = failure
        self._change(
            "UPDATE photos SET size = ?, mtime_ns = ?, device = ?, inode = ?, state = 'failed', "
            "error_type = ?, error_message = ? WHERE path = ? AND (id = ? OR state != 'gone')",
            (*_facts(facts), failure.type, escaped(failure.message), path, known.id if known else None),
        )

    def _unseen(self, path: bytes, known: _Known | None, error: OSError) -> None:
        if isinstance(error, FileNotFoundError) and known is not None:
            self._known[path] = known
        elif not isinstance(error, FileNotFoundError):
            self._cannot_read(error)

    def _cannot_read(self, error: OSError) -> None:
        name = os.fsdecode(error.filename or "")
        self.found.failures[name] = Failure(
            type(error).__name__, f"{name}: cannot be read ({error.strerror})"
        )

    def _change(self, statement: str, values: tuple[object, ...], *, words_of: int | None = None) -> None:
        self._changes.append((statement, values))
        if words_of is not None:
            self._reworded.append(words_of)
        if len(self._changes) >= _CHUNK:
            self._flush()

    def _flush(self) -> None:
        if not (self._changes or self._moves or self._displaced):
            return
        with self._database.transaction() as connection:
            self._move(connection)
            for statement, values in self._changes:
                connection.execute(statement, values)
            words.rewrite(connection, self._reworded)
        self._changes.clear()
        self._reworded.clear()

    def _move(self, connection: sqlite3.Connection) -> None:
        """Set the new paths of rows, which may be old paths of other moved rows."""
        run = connection.executemany
        run("UPDATE photos SET state = 'gone' WHERE id = ?", ((photo,) for photo in self._displaced))
        moved = [(one[-1],) for one in self._moves]
        run("UPDATE photos SET path = CAST('anytag:' || id AS BLOB) WHERE id = ?", moved)
        run(
            "UPDATE photos SET path = ?, root = ?, name = ?, device = ?, "
            f"state = CASE state WHEN 'gone' THEN {_STATE_BACK} ELSE state END WHERE id = ?",
            self._moves,
        )
        self.found.moved += len(self._moves)
        self._reworded += [photo for (photo,) in moved]
        self._reworded += self._displaced
        self._moves.clear()
        self._displaced.clear()


def _facts(facts: os.stat_result) -> tuple[int, int, int, int]:
    return facts.st_size, facts.st_mtime_ns, signed(facts.st_dev), signed(facts.st_ino)


def _signature(facts: os.stat_result) -> tuple[int, int, int]:
    return facts.st_size, facts.st_mtime_ns, signed(facts.st_ino)
