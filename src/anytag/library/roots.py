"""The folders that the user named: which are walked, which are away, and where a name lies."""

from __future__ import annotations

import os
import sqlite3
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from anytag._io import identity
from anytag.errors import LibraryError
from anytag.library import words
from anytag.library.database import Database


class Root(NamedTuple):
    """A folder that the user named, or one above what he named.

    Attributes:
        id: of its row.
        path: absolute.
        top: the part of it that is walked.
        device: when it was last walked; None the first time.
    """

    id: int
    path: str
    top: str
    device: int | None


def resolve(database: Database, folders: Sequence[str]) -> tuple[list[Root], list[Root]]:
    """The roots to walk, and those that are not there.

    Args:
        folders: absolute; none are all that the library has. One that is new gets a row.

    Raises:
        LibraryError: there is none, or one is not there and never was in the library.
    """
    known = [
        Root(number, os.fsdecode(path), os.fsdecode(path), device)
        for number, path, device in database.query("SELECT id, path, device FROM roots ORDER BY path")
    ]
    if not folders and not known:
        raise LibraryError("the library has no folder yet: name one, as in anytag library sync ~/Pictures")
    wanted = [_root_of(database, folder, known) for folder in folders] or known
    tops = {root.top: root for root in wanted}
    outer = [root for root in tops.values() if not any(_is_below(root.top, other) for other in tops)]
    there = [root for root in outer if os.path.isdir(root.top)]  # noqa: PTH112
    return there, [root for root in outer if root not in there]


def _root_of(database: Database, folder: str, known: Sequence[Root]) -> Root:
    for root in known:
        if folder == root.path or _is_below(folder, root.path):
            return root._replace(top=folder)
        if (here := identity(folder)) is not None and here == identity(root.path):
            return root
    if os.path.isfile(folder):  # noqa: PTH113
        raise LibraryError(f"{folder} is a file: name the folder it lies in")
    if not os.path.isdir(folder):  # noqa: PTH112
        raise LibraryError(f"the folder {folder} is not there, and is not in the library: correct the name")
    return _new_root(database, folder, [root for root in known if _is_below(root.path, folder)])


def _new_root(database: Database, folder: str, inner: Sequence[Root]) -> Root:
    """A root of its own, which takes in those below it."""
    path = os.fsencode(folder)
    shown = unicodedata.normalize("NFC", path.decode("utf-8", "replace"))
    with database.transaction() as connection:
        connection.execute("INSERT OR IGNORE INTO roots (path, shown) VALUES (?, ?)", (path, shown))
        (number,) = connection.execute("SELECT id FROM roots WHERE path = ?", (path,)).fetchone()
        for root in inner:
            rows = connection.execute("SELECT id, path FROM photos WHERE root = ?", (root.id,)).fetchall()
            connection.executemany(
                "UPDATE photos SET root = ?, name = ? WHERE id = ?",
                ((number, name_of(folder, name), photo) for photo, name in rows),
            )
            words.rewrite(connection, [photo for photo, _ in rows])
            connection.execute("DELETE FROM roots WHERE id = ?", (root.id,))
    return Root(number, folder, folder, None)


def holds_photos(database: Database, folder: str | os.PathLike[str]) -> bool:
    """Whether something of the library lies below a folder."""
    bounds = below(os.path.abspath(folder))  # noqa: PTH100  # names of any kind
    return bool(database.query("SELECT 1 FROM photos WHERE path >= ? AND path < ? LIMIT 1", bounds))


def is_synced(database: Database, folder: str | os.PathLike[str]) -> bool:
    """Whether a folder is one that is synced, or lies below one."""
    low, _ = below(os.path.abspath(folder))  # noqa: PTH100
    roots = (os.fsdecode(root) for (root,) in database.query("SELECT path FROM roots"))
    return any(low.startswith(below(root)[0]) for root in roots)


def check_folder(database: Database, folder: str | os.PathLike[str]) -> None:
    """Is a folder in the library, above something that is, or below a folder that is synced?

    Raises:
        LibraryError: it is not, or is not there.
    """
    place = os.path.abspath(folder)  # noqa: PTH100
    if holds_photos(database, place):
        return
    if os.path.isfile(place):  # noqa: PTH113
        raise LibraryError(f"{folder} is a file: name the folder it lies in")
    if not os.path.isdir(place):  # noqa: PTH112
        raise LibraryError(f"the folder {folder} is not there: correct the name")
    if not is_synced(database, place):
        raise LibraryError(
            f"the folder {folder} is not in the library: anytag library status shows those that are, "
            "anytag library sync adds one"
        )


def ranges(roots: Sequence[Root]) -> tuple[str, list[object]]:
    """What is below the folders that are walked, as a condition of a query, and its values."""
    places = [below(root.top) for root in roots]
    where = " OR ".join(["(path >= ? AND path < ?)"] * len(places)) or "0"
    return f"({where})", [bound for place in places for bound in place]


def note_device(connection: sqlite3.Connection, root: Root) -> None:
    """Disks have other numbers after a restart: rows follow, once all that they name is there."""
    device = device_of(root.path)
    if device is not None and device != root.device:
        connection.execute("UPDATE roots SET device = ? WHERE id = ?", (device, root.id))
        if root.device is not None:
            connection.execute(
                "UPDATE photos SET device = ? WHERE root = ? AND device = ?", (device, root.id, root.device)
            )


def device_of(folder: str) -> int | None:
    try:
        return signed(os.stat(folder).st_dev)  # noqa: PTH116
    except OSError:
        return None


def below(folder: str) -> tuple[bytes, bytes]:
    """Paths p of what is below a folder: low <= p < high, as bytes."""
    low = os.fsencode(os.path.join(folder, ""))  # noqa: PTH118
    return low, low[:-1] + bytes([low[-1] + 1])


def name_of(root: str, path: bytes) -> str:
    """The path below a root, for eyes and for search: NFC, with /; what is no UTF-8 becomes U+FFFD."""
    part = path[len(below(root)[0]) :].decode("utf-8", "replace")
    return unicodedata.normalize("NFC", part.replace(os.sep, "/"))


def signed(number: int) -> int:
    """An inode or device as SQLite's 64 bits hold it."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


def _is_below(folder: str, other: str) -> bool:
    return folder.startswith(os.path.join(other, "")) and folder != other  # noqa: PTH118
