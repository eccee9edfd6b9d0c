"""Synchronise a library with folders: scan the folders, tag photos, then mark missing ones as gone.

with Sync(library.database, ["photos"]) as sync:
    sync.scan()
    for event in sync.process(lambda: (Tagger.load(), None)):
        print(event.path, event.action)
    print(sync.end())
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from types import TracebackType
from typing import TYPE_CHECKING, Any

from anytag.batching import batches
from anytag.errors import LibraryError
from anytag.library import words
from anytag.library.database import Database
from anytag.library.process import CONTENT_ERRORS, Event, Model, Processor
from anytag.library.roots import Root, below, device_of, note_device, ranges, resolve
from anytag.library.scan import Found, Scan
from anytag.library.sync_lock import sync_lock
from anytag.library.thumbnails import Thumbnails
from anytag.library.vectors import forget_lost, tidy
from anytag.results import Failure
from anytag.walk import Walk, pattern

if TYPE_CHECKING:
    from anytag.captioner import Captioner
    from anytag.tagger import Tagger

Models = tuple["Tagger", "Captioner | None"]
"""A tagger, and a captioner if captions are wanted."""

_UNSEEN = "slot IS NULL AND model IS NOT NULL"  # tagged, but its vector was lost since
_EXTRAS = {"heic": "pillow_heif", "jxl": "pillow_jxl"}
_HINT = "Is a disk missing? If they were really deleted, give --accept-missing (accept_missing=True)."


@dataclass
class Report:
    """The result of a sync.

    Attributes:
        photos: number of photos in these folders, without files that belong to other photos.
        pending: number of photos that would be processed, in a dry run.
        new, changed: numbers of new and changed photos.
        unchanged, moved, copied, tagged, waits: numbers of photos by action; `waits` are still being written.
        failed: number of photos and folders that cannot be read, earlier failures included.
        gone: number of rows marked as gone by this sync.
        kept: number of rows whose files are missing, but which are kept; see `refused`.
        failures: errors of this sync by path of the photo or folder.
        refused: why missing photos were not marked as gone, or "".
    """

    photos: int = 0
    pending: int = 0
    new: int = 0
    changed: int = 0
    unchanged: int = 0
    moved: int = 0
    copied: int = 0
    tagged: int = 0
    failed: int = 0
    waits: int = 0
    gone: int = 0
    kept: int = 0
    failures: dict[str, Failure] = field(default_factory=dict)
    refused: str = ""

    @property
    def is_good(self) -> bool:
        """Whether all photos can be read and none is missing; a repeated sync gives the same answer."""
        return not self.failed and not self.refused

    def to_dict(self) -> dict[str, Any]:
        """As a dict for JSON."""
        return asdict(self)


class Sync:
    """A sync; a context manager that locks the library against other syncs.

    Attributes:
        report: the result.
        total: number of photos to process, after `process` was called.
        found: the result of the scan.

    Args:
        database: of the library.
        folders: by default all folders of the library.
        exclude: globs; matching names and paths are skipped.
        follow: follow links to folders.
        accept_missing: mark all missing photos as gone, however many there are.

    Raises (by the with statement):
        LibraryError: another process syncs the library.
    """

    def __init__(
        self,
        database: Database,
        folders: Iterable[str | os.PathLike[str]] = (),
        *,
        exclude: Iterable[str] = (),
        follow: bool = False,
        accept_missing: bool = False,
    ) -> None:
        self.report = Report()
        self.total = 0
        self.found = Found()
        folders = list(folders)
        self._database, self._folders = database, [os.path.abspath(os.fspath(one)) for one in folders]  # noqa: PTH100
        if any(os.fspath(one) == "" for one in folders):
            raise LibraryError("an empty name was given: expected a folder")
        self._walk = Walk(pattern(exclude), follow=follow, takes_raw=True)
        self._accept = accept_missing
        self._roots: list[Root] = []
        self._away: list[Root] = []
        self._events: Counter[str] = Counter()
        self._has_ended = False
        self._stack = ExitStack()

    def __enter__(self) -> Sync:
        self._stack.enter_context(sync_lock(self._database.path))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def check(self) -> None:
        """Check the names of the folders, and add new ones to the library.

        Raises:
            LibraryError: there is no folder, or one neither exists nor is in the library.
        """
        self._roots, self._away = resolve(self._database, self._folders)

    def scan(self) -> Found:
        """Compare the folders with the rows; no photo is opened.

        Raises:
            LibraryError: as for `check`.
        """
        self.check()
        self._retry_extras()
        forget_lost(self._database)
        self.found = Scan(self._database, self._roots, self._walk).run()
        return self.found

    def process(
        self,
        load: Callable[[], Models],
        *,
        retag: bool = False,
        captions: bool = False,
        thumbnails: bool = True,
        batch_size: int = 8,
        workers: int | None = None,
    ) -> Generator[Event, None, None]:
        """Process waiting photos; yields an event when its row is written, and sets `total`.

        Args:
            load: loads the models; called only if there are photos to process.
            retag: also photos that another model or vocabulary tagged; old tags are kept until the new ones
                are written, and an interrupted run is continued by the next sync with this option.
            captions: also photos without a caption; `load` must return a captioner.
            thumbnails: store a thumbnail of each tagged photo; see `library.thumbnails`.
            batch_size: number of photos in a batch, which is also a transaction.
            workers: number of threads; by default one per usable core.
        """
        ids = [*self._waiting(), *(self._processed("caption IS NULL") if captions else ())]
        if not ids and not retag and not self._processed(_UNSEEN):
            return self._counted(())
        tagger, captioner = load()
        model = self._model_row(tagger, captioner)
        ids += self._processed("slot IS NULL AND model = ?", model.id)
        if retag:
            ids += self._processed("model IS NOT ?", model.id)
        ids = list(dict.fromkeys(ids))
        self.total = len(ids)
        processor = Processor(self._database, model, again=retag, thumbnails=thumbnails)
        return self._counted(processor.run(ids, batch_size=batch_size, workers=workers))

    def dry_run(self) -> Generator[Event, None, None]:
        """What a sync would process and mark as gone, without writing; instead of `scan` and `process`."""
        with self._database.dry_run():
            self.scan()
            ids = [*self._waiting(), *self._processed(_UNSEEN)]
            self.total = len(ids)
            paths = (
                self._database.query("SELECT path FROM photos WHERE id = ?", (one,))[0][0] for one in ids
            )
            yield from (Event(os.fsdecode(path), "pending") for path in paths)
            report = self.end()
            report.pending = len(ids)
            yield from (
                Event(os.fsdecode(path), "gone") for path in (() if report.refused else self.found.missing)
            )

    def end(self) -> Report:
        """Mark missing photos as gone, unless a disk seems to be missing, and return the report."""
        report, found = self.report, self.found
        if self._has_ended:
            return report
        self._has_ended = True
        report.new, report.changed, report.unchanged = found.new, found.changed, found.unchanged
        report.moved = found.moved + self._events["moved"]
        report.unchanged += self._events["unchanged"]
        for action in ("copied", "tagged", "waits"):
            setattr(report, action, self._events[action])
        report.failures = {**found.failures, **report.failures}
        missing = self._missing()
        report.refused = "" if self._accept else self._reason_to_keep(missing)
        with self._database.transaction() as connection:
            gone = [*found.left_out, *(() if report.refused else missing)]
            _mark_gone(connection, gone)
            for root in () if report.refused else self._roots:
                note_device(connection, root)
        report.gone, report.kept = len(gone), len(missing) if report.refused else 0
        report.failed = len(self._failed())
        report.photos = self._count("state != 'gone' AND pair IS NULL")
        used = self._database.query("SELECT weights FROM models WHERE id IN (SELECT model FROM photos)")
        if report.tagged:
            tidy(self._database.path, [weights for (weights,) in used])
        if report.tagged or report.copied or report.gone:
            Thumbnails(self._database.path).tidy(self._database)
        return report

    def _retry_extras(self) -> None:
        """Retry photos that failed because of a missing package or tool that is installed now."""
        there = [f"%anytag[{extra}]%" for extra, package in _EXTRAS.items() if find_spec(package) is not None]
        there += ["%exiftool is not installed%"] if shutil.which("exiftool") else []
        with self._database.transaction() as connection:
            connection.executemany(
                "UPDATE photos SET state = 'waiting' WHERE state = 'failed' AND error_message LIKE ?",
                ((pattern,) for pattern in there),
            )

    def _waiting(self) -> list[int]:
        """Rows to process: waiting ones, and those with temporary read errors."""
        where, values = ranges(self._roots)
        return [
            row[0]
            for row in self._database.query(
                f"SELECT id FROM photos WHERE {where} AND pair IS NULL AND (state = 'waiting' OR "
                "(state = 'failed' AND error_type NOT IN (?, ?, ?))) ORDER BY path",
                [*values, *CONTENT_ERRORS],
            )
        ]

    def _processed(self, what: str, *given: object) -> list[int]:
        where, values = ranges(self._roots)
        query = f"SELECT id FROM photos WHERE {where} AND pair IS NULL AND state = 'done' AND {what}"
        return [row[0] for row in self._database.query(query, [*values, *given])]

    def _model_row(self, tagger: Tagger, captioner: Captioner | None) -> Model:
        from anytag.reranking import weights_of

        tags = json.dumps([tag.to_dict() for tag in tagger.vocabulary], sort_keys=True)
        facts = tagger.card.name, weights_of(tagger.card), hashlib.sha256(tags.encode()).hexdigest()
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO models (name, weights, vocabulary) VALUES (?, ?, ?)", facts
            )
            query = "SELECT id FROM models WHERE name = ? AND weights = ? AND vocabulary = ?"
            (number,) = connection.execute(query, facts).fetchone()
        return Model(number, facts[1], tagger, captioner)

    def _counted(self, events: Iterable[Event]) -> Generator[Event, None, None]:
        for event in events:
            self._events[event.action] += 1
            if event.error is not None:
                self.report.failures[event.path] = event.error
            yield event

    def _failed(self) -> set[str]:
        """Paths that cannot be read, in this sync or an earlier one."""
        where, values = ranges(self._roots)
        query = f"SELECT path FROM photos WHERE {where} AND pair IS NULL AND state = 'failed'"
        return {
            *self.report.failures,
            *(os.fsdecode(path) for (path,) in self._database.query(query, values)),
        }

    def _missing(self) -> list[int]:
        """Rows whose files are missing and have not been found at other paths since the scan."""
        left = list(self.found.missing.items())
        for root in self._away:
            where, values = "path >= ? AND path < ? AND state != 'gone'", below(root.top)
            left += self._database.query(f"SELECT path, id FROM photos WHERE {where}", values)
        query = "SELECT id FROM photos WHERE id = ? AND path = ? AND state != 'gone'"
        return [photo for path, photo in left if self._database.query(query, (photo, path))]

    def _reason_to_keep(self, missing: Sequence[int]) -> str:
        """Why missing photos are kept, or "": a folder or most of a disk is missing, or the disk changed."""
        for root in self._away:
            query = "SELECT 1 FROM photos WHERE path >= ? AND path < ? AND state != 'gone' LIMIT 1"
            if self._database.query(query, below(root.top)):
                return f"The folder {root.top} does not exist, so its photos stay in the library. {_HINT}"
        for root in self._roots if missing else ():
            if root.device not in (None, device_of(root.path)):
                return (
                    f"{root.path} is on another disk than before, and {len(missing)} photos are missing. "
                    f"{_HINT}"
                )
        devices: Counter[int] = Counter()
        for batch in batches(missing, 500):
            marks = ", ".join("?" * len(batch))
            query = f"SELECT device FROM photos WHERE id IN ({marks})"
            devices.update(device for (device,) in self._database.query(query, batch))
        for device, count in devices.items():
            known = self.found.devices.get(device, count)
            if count > known / 2:
                return f"{count} of {known} photos are missing. {_HINT}"
        return ""

    def _count(self, what: str) -> int:
        where, values = ranges(self._roots)
        return int(
            self._database.query(f"SELECT count(*) FROM photos WHERE {where} AND {what}", values)[0][0]
        )


def _mark_gone(connection: sqlite3.Connection, photos: Sequence[int]) -> None:
    """Mark rows as gone, or delete them if they were never read and have no decisions."""
    ids = [(photo,) for photo in photos]
    connection.executemany(
        "DELETE FROM photos WHERE id = ? AND picture IS NULL AND NOT EXISTS "
        "(SELECT 1 FROM decisions WHERE photo = photos.id)",
        ids,
    )
    connection.executemany("UPDATE photos SET state = 'gone', pair = NULL WHERE id = ?", ids)
    words.rewrite(connection, photos)
