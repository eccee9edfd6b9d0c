"""A library of photos, as users call it from Python."""

from __future__ import annotations

import os
import sqlite3
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, get_args

from anytag.batching import batches
from anytag.errors import LibraryError
from anytag.library import words
from anytag.library.database import MOUNTS, Database
from anytag.library.scan import below
from anytag.library.sync import Report, Sync
from anytag.results import Failure, TagScore

if TYPE_CHECKING:
    from anytag.captioner import Captioner
    from anytag.library.search import Found, Searcher
    from anytag.tagger import Tagger

State = Literal["waiting", "done", "failed", "gone"]
Decision = Literal["accepted", "rejected", "added"]
STATES: tuple[str, ...] = get_args(State)
_BATCH = 500  # photos that are read at once


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo of a library.

    Attributes:
        id: of its row; it stays when the file moves.
        path: absolute, as the disk has it; names that are no Unicode as `os.fsdecode` gives them.
        name: the path below the folder that the user named, NFC.
        state: "waiting" to be looked at, "done", "failed", or "gone" from the disk.
        width, height: pixels of the upright original, 0 when it was not read.
        taken: when, as ISO 8601 without a zone, or None.
        model: that gave the tags, "" where none did.
        scores: what the model says, without the tags that the user rejected, by falling score.
        accepted, rejected, added: names of tags, as the user said.
        keywords: the user's own words in the photo and its sidecars, "animal|dog": what is broader first.
        caption: a sentence, or None.
        error: why it failed.
        pair: id of the photo that stands for this one, too: a RAW's JPEG, the first of two links.
        slot: its record in the vector file, or None.
    """

    id: int
    path: str
    name: str
    state: State
    width: int = 0
    height: int = 0
    taken: str | None = None
    model: str = ""
    scores: tuple[TagScore, ...] = ()
    accepted: tuple[str, ...] = ()
    rejected: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    caption: str | None = None
    error: Failure | None = None
    pair: int | None = None
    slot: int | None = None

    @property
    def tags(self) -> tuple[str, ...]:
        """Names: what the user accepted and added first, then the model's by falling score."""
        return tuple(dict.fromkeys((*self.added, *self.accepted, *(tag.name for tag in self.scores))))

    def to_dict(self) -> dict[str, Any]:
        """Plain: the row that `anytag library list --format jsonl` writes."""
        row = {**asdict(self), "tags": list(self.tags), "scores": [tag.to_dict() for tag in self.scores]}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in row.items()}


class Library:
    """Photos of folders in a database; make one with `Library.open`, in a with statement or not."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._searchers: dict[str | None, Searcher] = {}

    @classmethod
    def open(cls, path: str | os.PathLike[str] | None = None, *, mounts: Path = MOUNTS) -> Library:
        """The library in a file, which is made if it is not there.

        Args:
            path: the database; None is the user's own, `default_path()`.
            mounts: the table of mounted file systems.

        Raises:
            LibraryError: it is no library, or cannot be opened.
        """
        return cls(Database.open(default_path() if path is None else path, mounts=mounts))

    def __enter__(self) -> Library:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.database.close()

    def sync(
        self,
        *folders: str | os.PathLike[str],
        tagger: Tagger | None = None,
        captioner: Captioner | None = None,
        exclude: Iterable[str] = (),
        follow: bool = False,
        accept_missing: bool = False,
        retag: bool = False,
        batch_size: int = 8,
        workers: int | None = None,
    ) -> Report:
        """Brings the library in step with folders: what is new or was changed is tagged, and nothing else.

        Args:
            folders: none are all that the library has.
            tagger: what tags; by default the embedded model, loaded where there is something to tag.
            captioner: writes captions, too.
            exclude: globs; a name or path that matches one is left out.
            follow: links to folders are entered.
            accept_missing: photos that are not there have gone, however many they are.
            retag: photos that another model or vocabulary tagged are tagged anew.
            batch_size: photos that go through the network together, and that a kill may cost.
            workers: threads; by default one a usable core.

        Raises:
            LibraryError: another process works on the library, or a folder is not there and never was.
            OutputError: the database cannot be written.
        """
        from anytag.tagger import Tagger

        with Sync(
            self.database, folders, exclude=exclude, follow=follow, accept_missing=accept_missing
        ) as sync:
            sync.scan()
            events = sync.look(
                lambda: (tagger or Tagger.load(), captioner),
                retag=retag,
                batch_size=batch_size,
                workers=workers,
            )
            for _ in events:
                pass
            return sync.end()

    def photos(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        states: Sequence[State] = ("waiting", "done", "failed"),
        pairs: bool = False,
    ) -> Iterator[Photo]:
        """Photos by path, some hundreds in memory at a time.

        Args:
            folder: only those below it.
            states: only those in one of these.
            pairs: also those that another stands for.
        """
        where: str = ""
        values: list[object] = [*states]
        if folder is not None:
            where = " AND path >= ? AND path < ?"
            values += below(_absolute(folder))
        query = (
            f"SELECT id FROM photos WHERE state IN ({_marks(states)}){where}"
            f"{'' if pairs else ' AND pair IS NULL'} ORDER BY path"
        )
        for batch in batches(self._ids(query, values), _BATCH):
            yield from self.get(batch)

    def get(self, ids: Iterable[int]) -> list[Photo]:
        """Photos by their ids, in this order; those that are not there are left out."""
        wanted = list(ids)
        found: dict[int, Photo] = {}
        for batch in batches(wanted, _BATCH):
            found.update(self._read(batch))
        return [found[one] for one in wanted if one in found]

    def find(self, photo: int | str | os.PathLike[str]) -> Photo:
        """A photo by its id or its path.

        Raises:
            LibraryError: it is not in the library.
        """
        if isinstance(photo, int):
            found = self.get([photo])
        else:
            path = os.fsencode(_absolute(photo))
            found = self.get(
                self._ids("SELECT id FROM photos WHERE path = ? ORDER BY state = 'gone' LIMIT 1", (path,))
            )
        if not found:
            raise LibraryError(f"{photo} is not in the library: anytag library sync the folder it lies in")
        return found[0]

    def accept(self, photo: int | str | os.PathLike[str], *tags: str) -> None:
        """Says that tags of the model are right.

        Args:
            photo: its id, or its path.
            tags: names.

        Raises:
            LibraryError: the photo is not there, or a tag is no text.
        """
        self._decide(photo, tags, "accepted")

    def reject(self, photo: int | str | os.PathLike[str], *tags: str) -> None:
        """Says that tags are wrong: no model gives them to this photo again. Arguments as for `accept`."""
        self._decide(photo, tags, "rejected")

    def add(self, photo: int | str | os.PathLike[str], *tags: str) -> None:
        """Gives a photo tags that the model did not give. Arguments as for `accept`."""
        self._decide(photo, tags, "added")

    def undo(self) -> tuple[Photo, str] | None:
        """Takes the last decision back; the photo and the tag, or None where there is nothing to undo."""
        with self.database.transaction() as connection:
            last = connection.execute(
                "SELECT id, photo, tag, name, before FROM changes ORDER BY id DESC LIMIT 1"
            ).fetchone()
            if last is None:
                return None
            number, photo, tag, name, before = last
            connection.execute("DELETE FROM changes WHERE id = ?", (number,))
            _set(connection, photo, tag, name, before)
            words.rewrite(connection, [photo])
        return self.find(photo), name

    def search(
        self,
        text: str | None = None,
        *,
        tags: Sequence[str] = (),
        exclude_tags: Sequence[str] = (),
        folder: str | os.PathLike[str] | None = None,
        after: str | None = None,
        before: str | None = None,
        like: str | os.PathLike[str] | None = None,
        top_k: int | None = 10,
        fold: bool = True,
        model: str | Path | None = None,
    ) -> Found:
        """Photos that fit a sentence, or are like a photo, best first; with neither the newest first.

        Args:
            text: a sentence. Of names, keywords and what the user said, its words are found; of everything
                else the model tells. A photo fits from a probability of one half.
            tags, exclude_tags: names of tags that each has, or has not; keywords count.
            folder: only photos below it.
            after, before: taken from this year, month or day on, or before it: "2024-05".
            like: a photo, of the library or not; with `text`, likeness ranks the photos that fit.
            top_k: at most so many; None for all.
            fold: near copies of a result are told in `Hit.copies` and do not count.
            model: with which the library was synced, as for `Tagger.load`.

        Raises:
            LibraryError: a tag or a date is none, or `top_k` is wrong.
            VocabularyError: `text` is empty.
            ImageError: the photo `like` is not in the library and cannot be read.
        """
        from anytag.library.filters import Filters
        from anytag.library.search import Searcher

        if isinstance(tags, str) or isinstance(exclude_tags, str):
            raise LibraryError("tags is a single text: give a list of names, such as ['dog']")
        key = None if model is None else os.fspath(model)
        if key not in self._searchers:
            self._searchers[key] = Searcher(self, model)
        filters = Filters(tuple(tags), tuple(exclude_tags), folder, after, before)
        return self._searchers[key].search(text, filters=filters, like=like, top_k=top_k, fold=fold)

    def _decide(self, photo: int | str | os.PathLike[str], tags: Sequence[str], kind: Decision) -> None:
        found = self.find(photo)
        names = [_tag_name(tag) for tag in tags]
        with self.database.transaction() as connection:
            for name in names:
                tag = _tag_of(connection, found.id, name)
                before = connection.execute(
                    "SELECT kind FROM decisions WHERE photo = ? AND tag = ?", (found.id, tag)
                ).fetchone()
                _set(connection, found.id, tag, name, kind)
                connection.execute(
                    "INSERT INTO changes (time, photo, tag, name, before, after) VALUES (?, ?, ?, ?, ?, ?)",
                    (_now(), found.id, tag, name, before and before[0], kind),
                )
            words.rewrite(connection, [found.id])

    def _ids(self, query: str, values: Sequence[object]) -> list[int]:
        return [row[0] for row in self.database.connection.execute(query, values)]

    def _read(self, ids: Sequence[int]) -> Iterator[tuple[int, Photo]]:
        run, marks = self.database.connection.execute, _marks(ids)
        scores: dict[int, list[TagScore]] = {one: [] for one in ids}
        said: dict[tuple[int, str], list[str]] = {}
        rejected_tags: set[tuple[int, str]] = set()
        for photo, tag, name, kind in run(
            f"SELECT photo, tag, name, kind FROM decisions WHERE photo IN ({marks}) ORDER BY time", ids
        ):
            said.setdefault((photo, kind), []).append(name)
            if kind == "rejected":
                rejected_tags |= {(photo, tag), (photo, name.lower())}
        for photo, tag, name, score in run(
            f"SELECT photo, tag, name, score FROM tags WHERE photo IN ({marks}) ORDER BY score DESC", ids
        ):
            if not rejected_tags.intersection(((photo, tag), (photo, name.lower()))):
                scores[photo].append(TagScore(tag, name, score, "vocabulary"))
        for photo, path in run(f"SELECT DISTINCT photo, path FROM keywords WHERE photo IN ({marks})", ids):
            said.setdefault((photo, "keyword"), []).append(path)
        for row in run(
            "SELECT p.id, p.path, p.name, state, width, height, taken, coalesce(m.name, ''), caption, "
            "error_type, error_message, pair, slot "
            f"FROM photos p LEFT JOIN models m ON m.id = p.model WHERE p.id IN ({marks})",
            ids,
        ):
            one, path, name, state, width, height, taken, model, caption, error, message, pair, slot = row
            accepted, rejected, added, keywords = (
                tuple(said.get((one, kind), ())) for kind in ("accepted", "rejected", "added", "keyword")
            )
            failure = Failure(error, message) if error else None
            yield one, Photo(
                one, os.fsdecode(path), name, state, width, height, taken, model, tuple(scores[one]),
                accepted, rejected, added, keywords, caption, failure, pair, slot,
            )  # fmt: skip


def default_path() -> Path:
    """The user's own library, in his data folder."""
    from platformdirs import user_data_path

    return user_data_path("anytag", appauthor=False) / "library.db"


def _absolute(path: str | os.PathLike[str]) -> str:
    return os.path.abspath(os.fspath(path))  # noqa: PTH100  # names of any kind; links stay links


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _tag_name(tag: object) -> str:
    if not isinstance(tag, str) or not (name := unicodedata.normalize("NFC", tag).strip()):
        raise LibraryError(f"{tag!r} is no tag: give its name")
    return name


def _tag_of(connection: sqlite3.Connection, photo: int, name: str) -> str:
    """The id of the photo's tag of this name; the name itself where it has none."""
    for table in ("tags", "decisions"):
        query = f"SELECT tag FROM {table} WHERE photo = ? AND name = ? COLLATE NOCASE"
        if found := connection.execute(query, (photo, name)).fetchone():
            return str(found[0])
    return name


def _set(connection: sqlite3.Connection, photo: int, tag: str, name: str, kind: str | None) -> None:
    """Writes what the user says of a tag, or that he says nothing."""
    connection.execute("DELETE FROM decisions WHERE photo = ? AND tag = ?", (photo, tag))
    if kind is not None:
        connection.execute(
            "INSERT INTO decisions (photo, tag, name, kind, time) VALUES (?, ?, ?, ?, ?)",
            (photo, tag, name, kind, _now()),
        )
