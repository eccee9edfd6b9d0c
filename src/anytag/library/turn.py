"""Whose turn it is: one process at a time syncs a library, and another learns which."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from anytag._io import lock, writing
from anytag.errors import LibraryError


@contextmanager
def turn(database: Path) -> Iterator[None]:
    """Holds the lock beside a library's database; a process that is killed holds it no more.

    Raises:
        LibraryError: another process holds it; says which.
        OutputError: the lock cannot be written.
    """
    path = database.with_name(database.name + ".lock")
    with writing(path):
        file = path.open("ab+", buffering=0)
    with file:
        if not lock(file):
            file.seek(0)
            who = file.read(200).decode("utf-8", "replace").strip() or "another process"
            raise LibraryError(f"{who} works on the library {database}: wait until it has ended")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
