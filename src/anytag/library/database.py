"""The SQLite file of a library: opening, schema migration, and a journal mode that suits its file system."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Any

from anytag.errors import LibraryError, OutputError
from anytag.library import schema, words

MOUNTS = Path("/proc/mounts")
WAIT = 30.0
"""Seconds to wait for another process's transaction."""
_CANNOT_WRITE = ("full", "locked", "readonly", "disk I/O", "unable to open")

_NETWORK = frozenset(
    "9p afs ceph cifs davfs fakeowner fuse glusterfs grpcfuse lustre nfs nfs4 osxfs smb3 smbfs "  # noqa: SIM905
    "virtiofs".split()
)


class Database:
    """An open library database: SQLite with foreign keys; changes are made in transactions.

    Attributes:
        path: the file.
        connection: in autocommit mode; use `transaction` for changes.
        is_shared: whether the file is on a network file system, which does not support a write-ahead log.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, *, is_shared: bool) -> None:
        self.path, self.connection, self.is_shared = path, connection, is_shared
        self._lock = RLock()
        self._is_dry_run = False

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, mounts: Path = MOUNTS) -> Database:
        """Open the library in a file; created, with its parent folders, if it does not exist.

        Args:
            path: the file.
            mounts: the table of mounted file systems, as on Linux.

        Raises:
            LibraryError: the file is not a library, is of a newer anytag, or cannot be opened.
        """
        file = Path(path).absolute()
        is_shared = on_network(file, mounts)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(file, timeout=WAIT, isolation_level=None, check_same_thread=False)
            try:
                words.add_functions(connection)
                database = cls(file, connection, is_shared=is_shared)
                database._check()
                database._settle()
                database._migrate()
            except BaseException:
                connection.close()
                raise
        except (OSError, sqlite3.Error) as error:
            raise LibraryError(
                f"{file} cannot be opened as a library ({error}): give another file with --database"
            ) from error
        return database

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A transaction: committed at the end of the block, rolled back after an exception.

        Raises:
            OutputError: the disk is full, the database cannot be written, or another process has it locked.
        """
        if self._is_dry_run:
            yield self.connection
            return
        with self._lock, self._explained():
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield self.connection
                self.connection.execute("COMMIT")
            except BaseException:
                self.connection.rollback()
                raise

    @contextmanager
    def dry_run(self) -> Iterator[None]:
        """Roll back everything in the block at its end, transactions included."""
        self.connection.execute("BEGIN IMMEDIATE")
        self._is_dry_run = True
        try:
            yield
        finally:
            self._is_dry_run = False
            self.connection.rollback()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """A read transaction: all queries in the block see the same state; errors as for `query`."""
        with self._lock, self._explained():
            if self.connection.in_transaction:
                yield
                return
            self.connection.execute("BEGIN")
            try:
                yield
            finally:
                self.connection.rollback()  # only ends the read transaction

    def query(self, statement: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query; thread-safe.

        Raises:
            LibraryError: the database is damaged.
        """
        with self._lock, self._explained():
            return self.connection.execute(statement, values).fetchall()

    def stream(self, statement: str, values: Sequence[object] = ()) -> Iterator[tuple[Any, ...]]:
        """Iterate over the rows of a query; not thread-safe; errors as for `query`."""
        with self._explained():
            yield from self.connection.execute(statement, values)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Convert SQLite errors about the file to ours; others, of statements, are passed on."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if not any(one in str(error) for one in _CANNOT_WRITE):
                raise
            reason = "another process has locked it" if "locked" in str(error) else error
            raise OutputError(f"{self.path} cannot be written: {reason}") from error
        except sqlite3.DatabaseError as error:
            if type(error) is not sqlite3.DatabaseError:
                raise
            raise LibraryError(
                f"{self.path} is damaged ({error}): restore it from a backup, or remove it and sync again"
            ) from error

    @property
    def state(self) -> tuple[int, int]:
        """A value that differs after every change, by this process or another, for invalidating caches."""
        return self._number("data_version"), self.connection.total_changes

    def close(self) -> None:
        self.connection.close()

    def _number(self, pragma: str) -> int:
        return int(self.connection.execute(f"PRAGMA {pragma}").fetchone()[0])

    def _check(self) -> None:
        """Raise LibraryError if the file is of another program or of a newer version."""
        self.connection.execute("BEGIN")  # one state for all queries: another process may be creating it
        version, application = self._number("user_version"), self._number("application_id")
        tables = self.connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        self.connection.rollback()
        if application != schema.APPLICATION and (tables or version):
            raise LibraryError(f"{self.path} is a database of another program: give another --database")
        if version > schema.VERSION:
            raise LibraryError(
                f"{self.path} was created by a newer anytag (schema version {version}, this one supports "
                f"{schema.VERSION}): update anytag, or give another --database"
            )

    def _settle(self) -> None:
        self._set_journal_mode("TRUNCATE" if self.is_shared else "WAL")
        self.connection.execute(f"PRAGMA synchronous = {'FULL' if self.is_shared else 'NORMAL'}")
        self.connection.execute("PRAGMA foreign_keys = ON")

    def _set_journal_mode(self, mode: str) -> None:
        """Set the journal mode; SQLite itself does not wait here for other processes."""
        end = time.monotonic() + WAIT
        while True:
            try:
                self.connection.execute(f"PRAGMA journal_mode = {mode}")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > end:
                    raise
                time.sleep(0.02)

    def _migrate(self) -> None:
        """Migrate the schema to this version, in one transaction."""
        if self._number("user_version") == schema.VERSION:
            return
        with self.transaction() as connection:
            for script in schema.SCRIPTS[
                self._number("user_version") :
            ]:  # reread: another process may have migrated
                for statement in _statements(script):
                    connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {schema.APPLICATION}")
            connection.execute(f"PRAGMA user_version = {schema.VERSION}")


def on_network(path: Path, mounts: Path = MOUNTS) -> bool:
    """Whether a file is on a network file system, by the table of mounts."""
    try:
        lines = mounts.read_bytes().splitlines()
    except OSError:
        return False  # not Linux
    place = os.fsencode(path.resolve())
    best, kind = b"", ""
    for line in lines:
        _, point, found, *_ = [*line.split(b" "), b"", b"", b""]
        point = point.replace(b"\\040", b" ").replace(b"\\011", b"\t").replace(b"\\012", b"\n")
        above = point.rstrip(b"/") + b"/"
        if (place + b"/").startswith(above) and len(above) >= len(best):
            best, kind = above, found.decode("ascii", "replace").lower()
    return kind in _NETWORK or kind.startswith("fuse.")  # sshfs, rclone, s3fs, ...; local disks are fuseblk


def _statements(script: str) -> Iterator[str]:
    """Split a script into statements: `executescript` would commit the transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
