"""A lock file: only one process at a time can sync a library."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from anytag._io import lock, writing
from anytag.errors import LibraryError


@contextmanager
def sync_lock(database: Path) -> Iterator[None]:
    """Hold the lock of a library; it is released when the process ends, even if killed.

    Raises:
        LibraryError: another process, which is named, holds it.
        OutputError: the lock file cannot be written.
    """
    path = database.with_name(database.name + ".lock")
    with writing(path):
        file = path.open("ab+", buffering=0)
    with file:
        if not lock(file):
            file.seek(0)
            who = file.read(200).decode("utf-8", "replace").strip() or "another process"
            raise LibraryError(f"{who} is syncing the library {database}: wait until it has finished")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
