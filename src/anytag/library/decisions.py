"""The user's decisions about tags, stored and undone within the caller's transaction."""

from __future__ import annotations

import re
import sqlite3
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from anytag.errors import LibraryError
from anytag.library import words
from anytag.library.photo import Decision
from anytag.metadata.keywords import clean

if TYPE_CHECKING:
    from anytag.vocabulary import Vocabulary

FOLLOW = (
    "INSERT INTO decisions (photo, tag, name, kind, time) "
    "SELECT ?2, tag, name, kind, time FROM decisions WHERE photo = ?1 "
    "ON CONFLICT (photo, tag) DO UPDATE SET name = excluded.name, kind = excluded.kind, time = excluded.time "
    "WHERE excluded.time > time",
    "INSERT INTO changes (time, photo, tag, name, before, after) "
    "SELECT time, ?2, tag, name, before, after FROM changes c WHERE photo = ?1 AND NOT EXISTS "
    "(SELECT 1 FROM changes WHERE photo = ?2 AND time = c.time AND tag = c.tag) ORDER BY id",
)
"""Copies decisions and their history from photo ?1 to photo ?2; the later decision about a tag wins."""
_SURROGATE = re.compile("[\ud800-\udfff]")


def decide(
    connection: sqlite3.Connection,
    photos: Sequence[int],
    tags: Iterable[str],
    kind: Decision,
    *,
    known: Callable[[], Vocabulary],
) -> None:
    """Store the same decision about tags of photos.

    Args:
        connection: in a transaction.
        photos: ids.
        tags: names of tags.
        kind: of decision.
        known: returns the vocabulary, for names that the photo does not have.

    Raises:
        LibraryError: a tag is not a valid text.
    """
    names, time = [_tag_name(tag) for tag in tags], datetime.now(UTC).isoformat(timespec="microseconds")
    for photo in photos:
        for given in names:
            tag, name = _tag_of(connection, photo, given, kind, known)
            before = connection.execute(
                "SELECT kind FROM decisions WHERE photo = ? AND tag = ?", (photo, tag)
            ).fetchone()
            _set(connection, photo, tag, name, kind, time)
            connection.execute(
                "INSERT INTO changes (time, photo, tag, name, before, after) VALUES (?, ?, ?, ?, ?, ?)",
                (time, photo, tag, name, before and before[0], kind),
            )
    words.rewrite(connection, photos)


def undo(connection: sqlite3.Connection) -> list[int]:
    """Undo the last decision; returns the ids of its photos."""
    last = connection.execute(
        "SELECT id, photo, tag, name, before, time FROM changes "
        "WHERE time = (SELECT max(time) FROM changes) ORDER BY id DESC"
    ).fetchall()
    for number, photo, tag, name, before, time in last:
        connection.execute("DELETE FROM changes WHERE id = ?", (number,))
        _set(connection, photo, tag, name, before, time)
    photos = list(dict.fromkeys(row[1] for row in last))
    words.rewrite(connection, photos)
    return photos


def _tag_name(tag: object) -> str:
    """Normalise the name of a tag so that it can be written into any file."""
    name = clean([unicodedata.normalize("NFC", tag)]) if isinstance(tag, str) else ()
    if not name or _SURROGATE.search(str(tag)):
        raise LibraryError(f"{tag!r} is not a tag: give its name as valid text")
    return name[0]


def _tag_of(
    connection: sqlite3.Connection, photo: int, name: str, kind: Decision, known: Callable[[], Vocabulary]
) -> tuple[str, str]:
    """The id of the photo's tag with this name, and the name to store.

    If the photo has no such tag, the vocabulary is searched; added names are stored unchanged.
    """
    for table in ("tags", "decisions"):
        query = f"SELECT tag FROM {table} WHERE photo = ? AND folded(name) = folded(?)"
        if found := connection.execute(query, (photo, name)).fetchone():
            return str(found[0]), name
    tag = None if kind == "added" else known().find(name)
    if tag is None:
        return name, name
    return tag.id, tag.name if kind == "accepted" else name


def _set(
    connection: sqlite3.Connection, photo: int, tag: str, name: str, kind: str | None, time: str
) -> None:
    """Replace the decision about a tag; None deletes it."""
    connection.execute("DELETE FROM decisions WHERE photo = ? AND tag = ?", (photo, tag))
    if kind is not None:
        connection.execute(
            "INSERT INTO decisions (photo, tag, name, kind, time) VALUES (?, ?, ?, ?, ?)",
            (photo, tag, name, kind, time),
        )
