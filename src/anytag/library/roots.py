"""The synced folders of a library: which to scan, which are missing, and which contain a path."""

from __future__ import annotations

import os
import sqlite3
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from anytag._io import identity
from anytag.errors import LibraryError
from anytag.library import words
from anytag.library.database import Database


class Root(NamedTuple):
    """A synced folder.

    Attributes:
        id: of its row.
        path: absolute path.
        top: the folder to scan, `path` or one below it.
        device: device number at the last scan; None before the first.
    """

    id: int
    path: str
    top: str
    device: int | None


def resolve(database: Database, folders: Sequence[str]) -> tuple[list[Root], list[Root]]:
    """The roots to scan, and those that are missing from the disk.

    Args:
        database: of the library.
        folders: absolute paths; by default all folders of the library. New ones are added.

    Raises:
        LibraryError: there are no folders, or one neither exists nor is in the library.
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
        if folder == root.path:
            return root
        if _is_below(folder, root.path):
            check_folder(database, folder)
            return root._replace(top=folder)
    if (found := _through_link(folder, known)) is not None:
        if found.top != found.path:
            check_folder(database, found.top)
        return found
    _check_is_folder(folder)
    return _new_root(database, folder, [root for root in known if _is_below(root.path, folder)])


def _through_link(folder: str, known: Sequence[Root]) -> Root | None:
    """The root that contains a folder by another name, such as that of a linked folder above it."""
    roots: dict[object, Root] = {here: root for root in known if (here := identity(root.path))}
    path = Path(folder)
    for place in (path, *path.parents):
        if (root := roots.get(identity(place))) is not None:
            return root._replace(top=str(Path(root.path, path.relative_to(place))))
    return None


def _new_root(database: Database, folder: str, inner: Sequence[Root]) -> Root:
    """Add a root, which replaces those below it."""
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
    """Whether the library has photos below a folder."""
    bounds = below(os.path.abspath(folder))  # noqa: PTH100  # any bytes are allowed
    return bool(database.query("SELECT 1 FROM photos WHERE path >= ? AND path < ? LIMIT 1", bounds))


def is_synced(database: Database, folder: str | os.PathLike[str]) -> bool:
    """Whether a folder is synced, or below one that is."""
    low, _ = below(os.path.abspath(folder))  # noqa: PTH100
    roots = (os.fsdecode(root) for (root,) in database.query("SELECT path FROM roots"))
    return any(low.startswith(below(root)[0]) for root in roots)


def check_folder(database: Database, folder: str | os.PathLike[str]) -> None:
    """Check that a folder has photos in the library, or is synced.

    Raises:
        LibraryError: it does not exist, or is not in the library.
    """
    place = os.path.abspath(folder)  # noqa: PTH100
    if holds_photos(database, place):
        return
    _check_is_folder(folder)
    if not is_synced(database, place):
        raise LibraryError(
            f"the folder {folder} is not in the library: anytag library status lists its folders, anytag "
            "library sync adds one"
        )


def _check_is_folder(name: str | os.PathLike[str]) -> None:
    if os.path.isfile(name):  # noqa: PTH113
        raise LibraryError(f"{name} is a file: name its folder")
    if not os.path.isdir(name):  # noqa: PTH112
        raise LibraryError(f"the folder {name} does not exist: correct the name")


def ranges(roots: Sequence[Root]) -> tuple[str, list[object]]:
    """An SQL condition for paths below the scanned folders, and its values."""
    places = [below(root.top) for root in roots]
    where = " OR ".join(["(path >= ? AND path < ?)"] * len(places)) or "0"
    return f"({where})", [bound for place in places for bound in place]


def note_device(connection: sqlite3.Connection, root: Root) -> None:
    """Update the device number of a root and its photos, which can change after a restart."""
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
    """Bounds of the paths p below a folder: low <= p < high, as bytes."""
    low = os.fsencode(os.path.join(folder, ""))  # noqa: PTH118
    return low, low[:-1] + bytes([low[-1] + 1])


def name_of(root: str, path: bytes) -> str:
    """The path relative to a root, for display and search: NFC, with /, invalid UTF-8 as U+FFFD."""
    part = path[len(below(root)[0]) :].decode("utf-8", "replace")
    return unicodedata.normalize("NFC", part.replace(os.sep, "/"))


def signed(number: int) -> int:
    """Convert an inode or device number to SQLite's signed 64 bits."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


def _is_below(folder: str, other: str) -> bool:
    return folder.startswith(os.path.join(other, "")) and folder != other  # noqa: PTH118
