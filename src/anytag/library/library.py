"""The Python API of a library of photos."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from anytag.batching import batches
from anytag.errors import LibraryError
from anytag.library import decisions
from anytag.library.database import MOUNTS, Database
from anytag.library.filters import Filters
from anytag.library.photo import Decision, Photo, State, read_photos
from anytag.library.roots import below, check_folder
from anytag.library.status import Folder, Status
from anytag.library.sync import Report, Sync
from anytag.library.thumbnails import Thumbnails

if TYPE_CHECKING:
    from anytag.captioner import Captioner
    from anytag.library.hits import Found
    from anytag.library.search import Searcher
    from anytag.tagger import Tagger
    from anytag.vocabulary import Vocabulary

_BATCH = 500  # photos read at a time
_IDS = 1 << 63  # SQLite's integers are smaller


class Library:
    """A database of the photos of folders; create it with `Library.open`, optionally as a context manager."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._searchers: dict[str | Path | None, Searcher] = {}
        self._words: tuple[tuple[int, int], list[str]] | None = None

    @classmethod
    def open(cls, path: str | os.PathLike[str] | None = None, *, mounts: Path = MOUNTS) -> Library:
        """Open the library in a file, which is created if it does not exist.

        Args:
            path: the database; None for the user's default library, `default_path()`.
            mounts: the table of mounted file systems.

        Raises:
            LibraryError: it is not a library, or cannot be opened.
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
        thumbnails: bool = True,
        batch_size: int = 8,
        workers: int | None = None,
    ) -> Report:
        """Synchronise the library with folders: tag new and changed photos.

        Args:
            folders: by default all folders of the library.
            tagger: by default the embedded model, loaded if there are photos to tag.
            captioner: writes captions, also of tagged photos that have none.
            exclude: globs; matching names and paths are skipped.
            follow: follow links to folders.
            accept_missing: mark all missing photos as gone, however many there are.
            retag: tag photos again that another model or vocabulary tagged.
            thumbnails: store a thumbnail of each tagged photo beside the database.
            batch_size: number of photos in a batch, which is also a transaction.
            workers: number of threads; by default one per usable core.

        Raises:
            LibraryError: another process syncs the library, or a folder neither exists nor is in the library.
            OutputError: the database cannot be written.
        """
        from anytag.tagger import Tagger

        with Sync(
            self.database, folders, exclude=exclude, follow=follow, accept_missing=accept_missing
        ) as sync:
            sync.scan()
            events = sync.process(
                lambda: (tagger or Tagger.load(), captioner),
                retag=retag,
                captions=captioner is not None,
                thumbnails=thumbnails,
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
        """Iterate over photos, sorted by path, with a few hundred in memory at a time.

        Args:
            folder: only photos below this folder.
            states: only photos in these states.
            pairs: also files that belong to another photo; see `Photo.pair`.

        Raises:
            LibraryError: the folder is not in the library.
        """
        where: str = ""
        values: list[object] = [*states]
        if folder is not None:
            check_folder(self.database, folder)
            where = " AND path >= ? AND path < ?"
            values += below(_absolute(folder))
        query = (
            f"SELECT id FROM photos WHERE state IN ({_marks(states)}){where}"
            f"{'' if pairs else ' AND pair IS NULL'} ORDER BY path"
        )
        ids = self._ids(query, values)
        return (photo for batch in batches(ids, _BATCH) for photo in self.get(batch))

    def get(self, ids: Iterable[int]) -> list[Photo]:
        """Get photos by id, in this order; unknown ids are left out."""
        wanted = [one for one in ids if -_IDS <= one < _IDS]
        found: dict[int, Photo] = {}
        for batch in batches(wanted, _BATCH):
            found.update(read_photos(self.database, batch))
        return [found[one] for one in wanted if one in found]

    def paired(self, ids: Iterable[int]) -> Iterator[tuple[int, str]]:
        """The files that belong to photos, such as their RAWs: ids of the photos, and paths."""
        for batch in batches(ids, _BATCH):
            query = f"SELECT pair, path FROM photos WHERE pair IN ({_marks(batch)}) AND state != 'gone'"
            for photo, path in self.database.query(f"{query} ORDER BY path", batch):
                yield photo, os.fsdecode(path)

    def find(self, photo: int | str | os.PathLike[str]) -> Photo:
        """Get a photo by id or path.

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
            if not isinstance(photo, int) and os.path.isdir(photo):  # noqa: PTH112
                raise LibraryError(f"{photo} is a folder: name one of its photos")
            raise LibraryError(f"{photo} is not in the library: add its folder with anytag library sync")
        return found[0]

    def accept(self, photo: int | str | os.PathLike[str], *tags: str) -> None:
        """Confirm tags of a photo.

        Args:
            photo: id or path.
            tags: names of tags.

        Raises:
            LibraryError: the photo is not in the library, or a tag is not a valid text.
        """
        self.decide([photo], tags, "accepted")

    def reject(self, photo: int | str | os.PathLike[str], *tags: str) -> None:
        """Mark tags of a photo as wrong; no model adds them again. Arguments as for `accept`."""
        self.decide([photo], tags, "rejected")

    def add(self, photo: int | str | os.PathLike[str], *tags: str) -> None:
        """Add tags to a photo. Arguments as for `accept`."""
        self.decide([photo], tags, "added")

    def decide(
        self, photos: Iterable[int | str | os.PathLike[str]], tags: Iterable[str], kind: Decision
    ) -> None:
        """Store the same decision about tags of many photos in one transaction, which `undo` reverts.

        Tags can be accepted and rejected by synonyms and names in other languages; added tags are stored as
        spelled. For a file that belongs to another photo (`Photo.pair`), the decision is about that photo.

        Raises:
            LibraryError: a photo is not in the library, or a tag is not a valid text.
        """
        found = list(dict.fromkeys(photo.pair or photo.id for photo in map(self.find, photos)))
        with self.database.transaction() as connection:
            decisions.decide(connection, found, tags, kind, known=embedded_vocabulary)

    def forget(self, *paths: str | os.PathLike[str]) -> int:
        """Remove photos, or all photos of folders, from the library; returns their number.

        Files are not deleted. Photos in a synced folder return with the next sync.
        """
        query, roots = "SELECT id FROM roots WHERE path = ? OR (path >= ? AND path < ?)", list[int]()
        for place in map(_absolute, paths):
            roots += self._ids(query, (os.fsencode(place), *below(place)))
        return self._remove(self._named(paths), roots)

    def forget_gone(self) -> int:
        """Remove the photos whose files are gone; returns their number."""
        return self._remove(self._gone())

    def decided(self, *paths: str | os.PathLike[str]) -> int:
        """The number of photos of these paths with decisions, which `forget` would delete.

        Without paths, of photos that are gone, as for `forget_gone`.
        """
        ids, run = self._named(paths) if paths else self._gone(), self.database.query
        return sum(bool(run("SELECT 1 FROM decisions WHERE photo = ? LIMIT 1", (one,))) for one in ids)

    def labels(self, vocabulary: Vocabulary | None = None) -> Iterator[dict[str, Any]]:
        """Decisions and keywords as rows of training data: see `anytag.data.rows.Row`.

        `tags` are accepted and added tags, and the user's keywords that the vocabulary knows; `absent` are
        rejected tags. Photos without any of these have no row.

        Args:
            vocabulary: by default the embedded model's.
        """
        known = vocabulary or embedded_vocabulary()
        query = (
            "SELECT id FROM photos WHERE state = 'done' AND pair IS NULL AND id IN "
            "(SELECT photo FROM decisions UNION SELECT photo FROM keywords) ORDER BY path"
        )
        for batch in batches(self._ids(query, ()), _BATCH):
            for photo in self.get(batch):
                found = (known.find(path.rpartition("|")[2]) for path in photo.keywords)
                words = (tag.name for tag in found if tag is not None)
                absent = {tag_key(known, name) for name in photo.rejected}
                tags = {tag_key(known, name): name for name in (*photo.accepted, *photo.added, *words)}
                there = [name for key, name in tags.items() if key not in absent]
                if there or absent:
                    row = {"image": photo.path, "source": "library", "split": "", "captions": []}
                    yield {**row, "tags": there, "absent": list(photo.rejected)}

    def status(self) -> Status:
        """Count the content of the library."""
        run = self.database.query
        states = "SELECT state, count(*) FROM photos WHERE root = ? AND pair IS NULL GROUP BY state"
        roots = [
            Folder(os.fsdecode(path), dict(run(states, (root,))))
            for root, path in run("SELECT id, path FROM roots ORDER BY path")
        ]
        models = run(
            "SELECT m.name || ' ' || substr(m.weights, 1, 8) || ' ' || substr(m.vocabulary, 1, 8), count(*) "
            "FROM photos p JOIN models m ON m.id = model WHERE pair IS NULL AND state = 'done' GROUP BY m.id"
        )
        reasons = run(
            "SELECT error_type, count(*) FROM photos WHERE state = 'failed' GROUP BY 1 ORDER BY 2 DESC"
        )
        said = "SELECT count(*) FROM decisions JOIN photos p ON p.id = photo WHERE pair IS NULL"
        (decisions,) = run(said)[0]
        (paired,) = run("SELECT count(*) FROM photos WHERE pair IS NOT NULL AND state != 'gone'")[0]
        return Status(self.database.path, roots, dict(models), dict(reasons), decisions, paired)

    def words(self) -> list[str]:
        """Custom names in the library, sorted: added tags, and the levels of the user's keywords."""
        state, run = self.database.state, self.database.query
        if self._words is None or self._words[0] != state:
            added = {name for (name,) in run("SELECT DISTINCT name FROM decisions WHERE kind = 'added'")}
            paths = run("SELECT DISTINCT path FROM keywords")
            self._words = state, sorted(added.union(*(path.split("|") for (path,) in paths)))
        return self._words[1]

    def undo(self) -> list[Photo]:
        """Undo the last decision; returns its photos, none if there is nothing to undo."""
        with self.database.transaction() as connection:
            photos = decisions.undo(connection)
        return self.get(photos)

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
        """Search by text or by a similar photo, best first; with neither, the newest photos first.

        Args:
            text: a sentence; a photo fits if its probability is at least 0.5.
            tags, exclude_tags: names of tags or keywords that photos have, or do not have.
            folder: only photos in or below this folder.
            after, before: taken in or after, or before, this year, month or day, such as "2024-05".
            like: path of any photo; with `text`, photos that fit are ranked by similarity.
            top_k: maximum number of photos; None for all.
            fold: list near duplicates of a result in `Hit.copies` instead.
            model: the model that the library was synced with.

        Raises:
            LibraryError, VocabularyError, ImageError: an argument is invalid, a name is unknown to both the
                library and the model, or `like` cannot be read.
        """
        from anytag.library.search import Searcher

        searcher = self._searchers.get(model) or Searcher(self, model)
        self._searchers[model] = searcher
        filters = Filters(tags, exclude_tags, folder, after, before)
        filters.check(self.database, searcher.tag_id)
        return searcher.search(text, filters=filters, like=like, top_k=top_k, fold=fold)

    def _named(self, paths: Sequence[str | os.PathLike[str]]) -> list[int]:
        """Ids of photos by path, and of all photos in folders.

        Raises:
            LibraryError: the library has no photos there.
        """
        found: list[int] = []
        for path in paths:
            place = _absolute(path)
            query = "SELECT id FROM photos WHERE path = ? OR (path >= ? AND path < ?)"
            ids = self._ids(query, (os.fsencode(place), *below(place)))
            known = self.database.query("SELECT 1 FROM roots WHERE path = ?", (os.fsencode(place),))
            if not ids and not known:
                raise LibraryError(
                    f"the library has no photos at {path}: anytag library status shows its folders"
                )
            found += ids
        return list(dict.fromkeys(found))

    def _gone(self) -> list[int]:
        return self._ids("SELECT id FROM photos WHERE state = 'gone'", ())

    def _remove(self, photos: Sequence[int], roots: Iterable[int] = ()) -> int:
        """Delete rows, and folders that become empty; files paired with them become separate photos."""
        ids = [(photo,) for photo in photos]
        roots = {*roots, *(self._ids("SELECT root FROM photos WHERE id = ?", one)[0] for one in ids)}
        with self.database.transaction() as connection:
            connection.executemany("DELETE FROM words WHERE rowid = ?", ids)
            connection.executemany(
                "UPDATE photos SET pair = NULL, state = CASE WHEN state = 'done' AND model IS NULL "
                "THEN 'waiting' ELSE state END WHERE pair = ?",
                ids,
            )
            connection.executemany("DELETE FROM photos WHERE id = ?", ids)
            connection.executemany(
                "DELETE FROM roots WHERE id = ? AND id NOT IN (SELECT root FROM photos)",
                ((root,) for root in roots),
            )
        Thumbnails(self.database.path).tidy(self.database)
        return len(ids)

    def _ids(self, query: str, values: Sequence[object]) -> list[int]:
        return [row[0] for row in self.database.query(query, values)]


def default_path() -> Path:
    """The user's default library: `$ANYTAG_HOME/library.db`, or in the user's data folder."""
    if home := os.environ.get("ANYTAG_HOME"):
        return Path(home).expanduser() / "library.db"
    from platformdirs import user_data_path

    return user_data_path("anytag", appauthor=False) / "library.db"


@cache
def embedded_vocabulary() -> Vocabulary:
    """The vocabulary of the embedded model."""
    from anytag.models.registry import resolve
    from anytag.vocabulary import Vocabulary

    return Vocabulary.read(resolve() / "vocabulary.jsonl")


def tag_key(vocabulary: Vocabulary, name: str) -> str:
    """A key that is equal for all names of a tag."""
    tag = vocabulary.find(name)
    return tag.id if tag else name.lower()


def _absolute(path: str | os.PathLike[str]) -> str:
    return os.path.abspath(os.fspath(path))  # noqa: PTH100  # any bytes are allowed; symbolic links are not resolved


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))
