"""The full-text index of photos: SQL functions, and updates of its rows."""

from __future__ import annotations

import sqlite3
import unicodedata
from collections.abc import Iterable

_REWRITE = """
INSERT INTO words (rowid, name, tags, keywords, caption)
SELECT id, name,
    (SELECT group_concat(name, char(10)) FROM (
        SELECT name FROM tags WHERE photo = photos.id AND NOT EXISTS (
            SELECT 1 FROM decisions d WHERE d.photo = photos.id AND d.kind = 'rejected'
            AND (d.tag = tags.tag OR folded(d.name) = folded(tags.name)))
        UNION
        SELECT name FROM decisions WHERE photo = photos.id AND kind != 'rejected')),
    (SELECT group_concat(path, char(10)) FROM (SELECT DISTINCT path FROM keywords WHERE photo = photos.id)),
    caption
FROM photos WHERE id = ? AND pair IS NULL AND state != 'gone'
"""


def add_functions(connection: sqlite3.Connection) -> None:
    """Register the SQL functions `folded` and `holds`."""
    connection.create_function("folded", 1, folded, deterministic=True)
    connection.create_function("holds", 2, holds, deterministic=True)


def folded(text: str | None) -> str | None:
    """Normalise a text for comparison: NFC, case folded."""
    return None if text is None else unicodedata.normalize("NFC", text).casefold()


def holds(path: str, name: str) -> bool:
    """Whether a folded name is a keyword such as 'animal|dog', or one of its levels."""
    return name in ((folded_path := str(folded(path))).split("|")) or name == folded_path


def rewrite(connection: sqlite3.Connection, photos: Iterable[int]) -> None:
    """Update the index rows of photos, within the caller's transaction.

    A row has the name, the tags without rejected ones, the user's keywords and the caption. Photos that are
    gone and files that belong to other photos have none.
    """
    ids = [(photo,) for photo in dict.fromkeys(photos)]
    connection.executemany("DELETE FROM words WHERE rowid = ?", ids)
    connection.executemany(_REWRITE, ids)
