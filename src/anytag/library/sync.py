"""Brings a library in step with folders: what is there, then what is seen there, then what has gone.

with Sync(library.database, ["photos"]) as sync:
    sync.scan()
    for event in sync.look(lambda: (Tagger.load(), None)):
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
from anytag.library.look import CONTENT_ERRORS, Event, Look, Model
from anytag.library.roots import Root, below, device_of, note_device, ranges, resolve
from anytag.library.scan import Found, Scan
from anytag.library.thumbnails import Thumbnails
from anytag.library.turn import turn
from anytag.library.vectors import forget_lost, tidy
from anytag.results import Failure
from anytag.walk import Walk, pattern

if TYPE_CHECKING:
    from anytag.captioner import Captioner
    from anytag.tagger import Tagger

Looker = tuple["Tagger", "Captioner | None"]
"""What tags, and what writes captions where they are asked for."""

_UNSEEN = "slot IS NULL AND model IS NOT NULL"  # tagged, but its vector was lost since
_EXTRAS = {"heic": "pillow_heif", "jxl": "pillow_jxl"}
_HINT = "Is a disk away? If they have really gone, give --accept-missing (accept_missing=True)."


@dataclass
class Report:
    """How a sync went.

    Attributes:
        photos: in these folders now, those that others stand for aside.
        pending: photos that a dry run would look at.
        new, changed: names of files that were not there before, or were written since.
        unchanged, moved, copied, tagged, waits: photos by what came of them; `waits` are written just now.
        failed: photos and folders that cannot be read, also those that are known and were not tried again.
        gone: rows whose files are not there any more, from now on.
        kept: rows whose files are not there, and which stay, as `refused` says.
        failures: of this sync, by name of photo or folder.
        refused: why nothing was given up, or "".
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
        """Can all be read, and is nothing missing? The same folders give the same answer each time."""
        return not self.failed and not self.refused

    def to_dict(self) -> dict[str, Any]:
        """Plain."""
        return asdict(self)


class Sync:
    """One sync, by one process at a time: use it in a with statement.

    Attributes:
        report: how it goes.
        total: photos to look at, once `look` was called.
        found: by the scan.

    Args:
        folders: to be held against the library; none are all that it has.
        exclude: globs; a name or path that matches one is left out.
        follow: links to folders are entered.
        accept_missing: photos that are not there have gone, however many they are.

    Raises (at the with):
        LibraryError: another process works on the library, or there is no folder to sync.
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
        self._stack.enter_context(turn(self._database.path))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def scan(self) -> Found:
        """Holds what is in the folders against the rows; no photo is opened.

        Raises:
            LibraryError: a folder is not there and never was in the library.
        """
        self._roots, self._away = resolve(self._database, self._folders)
        self._retry_extras()
        forget_lost(self._database)
        self.found = Scan(self._database, self._roots, self._walk).run()
        return self.found

    def look(
        self,
        load: Callable[[], Looker],
        *,
        retag: bool = False,
        captions: bool = False,
        thumbnails: bool = True,
        batch_size: int = 8,
        workers: int | None = None,
    ) -> Generator[Event, None, None]:
        """Looks at what waits; `total` is how many. Each event comes when its row is written.

        Args:
            load: gives what tags, and is called only where there is something to look at.
            retag: also photos that another model or vocabulary tagged; the old tags stay until the new are
                there, and the next sync with this goes on.
            captions: also photos that have none; `load` gives what writes them.
            thumbnails: a small JPEG is kept of each photo that is tagged; see `library.thumbnails`.
            batch_size: photos that go through the network together, and that a kill may cost.
            workers: threads; by default one a usable core.
        """
        ids = [*self._waiting(), *(self._done("caption IS NULL") if captions else ())]
        if not ids and not retag and not self._done(_UNSEEN):
            return self._counted(())
        tagger, captioner = load()
        model = self._model(tagger, captioner)
        ids += self._done("slot IS NULL AND model = ?", model.id)
        if retag:
            ids += self._done("model IS NOT ?", model.id)
        ids = list(dict.fromkeys(ids))
        self.total = len(ids)
        look = Look(self._database, model, again=retag, thumbnails=thumbnails)
        return self._counted(look.run(ids, batch_size=batch_size, workers=workers))

    def rehearse(self) -> Generator[Event, None, None]:
        """What a sync would look at and give up, and nothing is written: instead of `scan` and `look`."""
        with self._database.rehearsal():
            self.scan()
            ids = [*self._waiting(), *self._done(_UNSEEN)]
            self.total = len(ids)
            paths = (
                self._database.query("SELECT path FROM photos WHERE id = ?", (one,))[0][0] for one in ids
            )
            yield from (Event(os.fsdecode(path), "pending") for path in paths)
            yield from (Event(os.fsdecode(path), "gone") for path in self.found.missing)
            self.end().pending = len(ids)

    def end(self) -> Report:
        """Gives up what has gone, unless so much is missing that a disk must be away; how it all went."""
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
        report.refused = "" if self._accept else self._refusal(missing)
        with self._database.transaction() as connection:
            gone = [*found.left_out, *(() if report.refused else missing)]
            _give_up(connection, gone)
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
        """Photos that failed for want of a package or a tool wait again, once it is there."""
        there = [f"%anytag[{extra}]%" for extra, package in _EXTRAS.items() if find_spec(package) is not None]
        there += ["%exiftool is not installed%"] if shutil.which("exiftool") else []
        with self._database.transaction() as connection:
            connection.executemany(
                "UPDATE photos SET state = 'waiting' WHERE state = 'failed' AND error_message LIKE ?",
                ((pattern,) for pattern in there),
            )

    def _waiting(self) -> list[int]:
        """Rows to look at; what could not be read is tried again, what is no photo is not."""
        where, values = ranges(self._roots)
        return [
            row[0]
            for row in self._database.query(
                f"SELECT id FROM photos WHERE {where} AND pair IS NULL AND (state = 'waiting' OR "
                "(state = 'failed' AND error_type NOT IN (?, ?, ?))) ORDER BY path",
                [*values, *CONTENT_ERRORS],
            )
        ]

    def _done(self, what: str, *given: object) -> list[int]:
        where, values = ranges(self._roots)
        query = f"SELECT id FROM photos WHERE {where} AND pair IS NULL AND state = 'done' AND {what}"
        return [row[0] for row in self._database.query(query, [*values, *given])]

    def _model(self, tagger: Tagger, captioner: Captioner | None) -> Model:
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
        """Names of what cannot be read, in this sync or since one before."""
        where, values = ranges(self._roots)
        query = f"SELECT path FROM photos WHERE {where} AND pair IS NULL AND state = 'failed'"
        return {
            *self.report.failures,
            *(os.fsdecode(path) for (path,) in self._database.query(query, values)),
        }

    def _missing(self) -> list[int]:
        """Rows that the scan missed and that have not been found under other names since."""
        left = list(self.found.missing.items())
        for root in self._away:
            where, values = "path >= ? AND path < ? AND state != 'gone'", below(root.top)
            left += self._database.query(f"SELECT path, id FROM photos WHERE {where}", values)
        query = "SELECT id FROM photos WHERE id = ? AND path = ? AND state != 'gone'"
        return [photo for path, photo in left if self._database.query(query, (photo, path))]

    def _refusal(self, missing: Sequence[int]) -> str:
        """Why nothing is given up, or "": a folder is away, a disk is another, or most of a disk's photos."""
        for root in self._away:
            query = "SELECT 1 FROM photos WHERE path >= ? AND path < ? AND state != 'gone' LIMIT 1"
            if self._database.query(query, below(root.top)):
                return f"The folder {root.top} is not there, so its photos stay in the library. {_HINT}"
        for root in self._roots if missing else ():
            if root.device not in (None, device_of(root.path)):
                return (
                    f"{root.path} is another disk than before, and {len(missing)} photos are missing. {_HINT}"
                )
        devices: Counter[int] = Counter()
        for batch in batches(missing, 500):
            marks = ", ".join("?" * len(batch))
            query = f"SELECT device FROM photos WHERE id IN ({marks})"
            devices.update(device for (device,) in self._database.query(query, batch))
        for device, count in devices.items():
            known = self.found.devices.get(device, count)
            if count > known / 2:
                return f"{count} of {known} photos are not there any more. {_HINT}"
        return ""

    def _count(self, what: str) -> int:
        where, values = ranges(self._roots)
        return int(
            self._database.query(f"SELECT count(*) FROM photos WHERE {where} AND {what}", values)[0][0]
        )


def _give_up(connection: sqlite3.Connection, photos: Sequence[int]) -> None:
    """Rows of files that have gone; what nobody said or saw anything of is removed."""
    ids = [(photo,) for photo in photos]
    connection.executemany(
        "DELETE FROM photos WHERE id = ? AND picture IS NULL AND NOT EXISTS "
        "(SELECT 1 FROM decisions WHERE photo = photos.id)",
        ids,
    )
    connection.executemany("UPDATE photos SET state = 'gone', pair = NULL WHERE id = ?", ids)
    words.rewrite(connection, photos)
