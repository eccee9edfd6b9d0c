"""The file of a library: versions, other people's files, network disks, several processes."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from anytag import Library, LibraryError, OutputError
from anytag.library import schema
from anytag.library.database import Database, on_network
from anytag.library.sync_lock import sync_lock
from tests.command import ENVIRONMENT


def pragma(library: Library, name: str) -> object:
    return library.database.query(f"PRAGMA {name}")[0][0]


def test_a_new_library_says_what_it_is(tmp_path: Path) -> None:
    with Library.open(tmp_path / "deep/er/library.db") as library:
        assert pragma(library, "application_id") == schema.APPLICATION
        assert pragma(library, "user_version") == schema.VERSION
        assert pragma(library, "journal_mode") == "wal" and not library.database.is_shared


def test_an_earlier_version_is_brought_to_this_one_and_a_newer_one_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "library.db"
    with Library.open(path) as library:
        library.database.connection.execute("INSERT INTO roots (path, shown) VALUES (x'61', 'a')")
    scripts = (*schema.SCRIPTS, "ALTER TABLE roots ADD COLUMN seen TEXT;\nUPDATE roots SET seen = 'then';")
    with monkeypatch.context() as later:
        later.setattr(schema, "SCRIPTS", scripts)
        later.setattr(schema, "VERSION", len(scripts))
        with Library.open(path) as library:
            assert library.database.query("SELECT shown, seen FROM roots") == [("a", "then")]
    with pytest.raises(LibraryError, match="created by a newer anytag"):
        Library.open(path)


def test_a_step_that_fails_leaves_the_library_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "library.db"
    Library.open(path).close()
    broken = (*schema.SCRIPTS, "ALTER TABLE roots ADD COLUMN seen TEXT;\nALTER TABLE nothing ADD x;")
    with monkeypatch.context() as later:
        later.setattr(schema, "SCRIPTS", broken)
        later.setattr(schema, "VERSION", len(broken))
        with pytest.raises((LibraryError, OutputError)):
            Library.open(path)
    with Library.open(path) as library:
        assert "seen" not in {row[1] for row in library.database.query("PRAGMA table_info(roots)")}


def test_files_of_others_are_refused_and_stay(tmp_path: Path) -> None:
    text, other = tmp_path / "text.db", tmp_path / "other.db"
    text.write_text("not a database, whatever its name says" * 20)
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE photos (path TEXT)")
    connection.close()
    before = text.read_bytes(), other.read_bytes()
    for path in (text, other, tmp_path):
        with pytest.raises(LibraryError, match="--database"):
            Library.open(path)
    assert (text.read_bytes(), other.read_bytes()) == before


@pytest.mark.parametrize(
    ("kind", "is_shared"),
    [("ext4", False), ("nfs4", True), ("cifs", True), ("fuse.sshfs", True), ("9p", True), ("fuseblk", False)],
)
def test_no_log_is_written_ahead_on_network_disks(tmp_path: Path, kind: str, is_shared: bool) -> None:
    place = tmp_path / "my nas"
    place.mkdir()
    mounts = tmp_path / "mounts"
    escaped = str(place.resolve()).replace(" ", "\\040")
    mounts.write_text(
        f"none / ext4 rw 0 0\nserver:/photos {escaped} {kind} rw 0 0\nx {escaped}er nfs rw 0 0\n"
    )
    with Library.open(place / "library.db", mounts=mounts) as library:
        assert library.database.is_shared == is_shared
        assert pragma(library, "journal_mode") == ("truncate" if is_shared else "wal")
        assert pragma(library, "synchronous") == (2 if is_shared else 1)
    assert not on_network(tmp_path / "else.db", mounts)
    assert not on_network(tmp_path, tmp_path / "no mounts here")


def test_a_library_that_moves_to_a_network_disk_loses_its_log(tmp_path: Path) -> None:
    Library.open(tmp_path / "library.db").close()
    mounts = tmp_path / "mounts"
    mounts.write_text("server:/ / nfs rw 0 0\n")
    with Library.open(tmp_path / "library.db", mounts=mounts) as library:
        assert pragma(library, "journal_mode") == "truncate"


def test_many_processes_may_open_a_new_library_at_once(tmp_path: Path) -> None:
    script = f"from anytag import Library; Library.open({str(tmp_path / 'library.db')!r}).close()"
    running = [
        subprocess.Popen([sys.executable, "-c", script], env=ENVIRONMENT, stderr=subprocess.PIPE)
        for _ in range(6)
    ]
    assert [one.communicate()[1] for one in running] == [b""] * 6


def test_a_second_process_learns_who_works(tmp_path: Path) -> None:
    path = tmp_path / "library.db"
    with (
        sync_lock(path),
        pytest.raises(LibraryError, match=rf"process {os.getpid()} on .* is syncing the library"),
        sync_lock(path),
    ):
        pass
    with sync_lock(path):
        pass


def test_what_is_not_committed_is_not_there(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "library.db")
    with pytest.raises(KeyError), database.transaction() as connection:
        connection.execute("INSERT INTO meta VALUES ('a', 'b')")
        raise KeyError
    with database.dry_run(), database.transaction() as connection:
        connection.execute("INSERT INTO meta VALUES ('a', 'b')")
    assert not database.query("SELECT * FROM meta")
    database.close()


def test_a_damaged_library_is_an_error_that_says_so(tmp_path: Path) -> None:
    path = tmp_path / "library.db"
    with Library.open(path) as library, library.database.transaction() as connection:
        connection.execute("INSERT INTO roots VALUES (1, x'61', 'a', 0)")
        connection.executemany(
            "INSERT INTO photos (root, path, name, size, mtime_ns, device, inode, state) "
            "VALUES (1, ?, 'x', 0, 0, 0, 0, 'waiting')",
            ((os.urandom(300),) for _ in range(500)),
        )
    data = bytearray(path.read_bytes())
    for page in range(len(data) // 8192 * 4096, len(data), 4096):  # the first half has the tables' names
        data[page : page + 100] = b"\xff" * 100
    path.write_bytes(data)
    with Library.open(path) as library, pytest.raises(LibraryError, match="is damaged"):
        list(library.photos())


def test_a_full_disk_is_an_error_that_names_the_library(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "library.db")
    pages = database.query("PRAGMA page_count")[0][0]
    database.connection.execute(f"PRAGMA max_page_count = {pages}")
    with (
        pytest.raises(OutputError, match=r"library\.db cannot be written"),
        database.transaction() as connection,
    ):
        connection.executemany("INSERT INTO meta VALUES (?, ?)", [(str(n), "x" * 4000) for n in range(9)])
    assert database.query("PRAGMA integrity_check") == [("ok",)]
    database.close()
