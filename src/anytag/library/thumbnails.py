"""Thumbnails of a library's photos, stored beside its database by a sync or when first requested."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

from anytag._io import atomic_write
from anytag.errors import OutputError
from anytag.library.database import Database

SIDE = 320
"""Length of the longer side in pixels."""
SPARE = 1 << 30
"""Minimum free disk space in bytes for storing thumbnails."""
_NAME = re.compile(r"(..)/\.?\1[0-9a-f-]+\.jpg(\..+\.new)?")  # including drafts of killed processes


class Thumbnails:
    """Thumbnail files, named by the hash of the picture so that moved and copied photos keep them.

    Args:
        database: file of the library.
    """

    def __init__(self, database: Path) -> None:
        self._folder = database.with_name(f"{database.name}.thumbnails")

    def read(self, key: str) -> bytes | None:
        """The JPEG of a picture; None if it is not stored."""
        try:
            return self._file(key).read_bytes()
        except OSError:
            return None

    def keep(self, key: str, jpeg: bytes) -> None:
        """Store a thumbnail, unless the disk is nearly full or read-only."""
        file = self._file(key)
        with suppress(OSError, OutputError):
            file.parent.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(file.parent).free > SPARE:
                with atomic_write(file) as draft:
                    draft.write_bytes(jpeg)

    def tidy(self, database: Database) -> None:
        """Delete thumbnails that no photo uses any more."""
        if not self._folder.is_dir():
            return
        kept = [Path(folder, name) for folder, _, names in os.walk(self._folder) for name in names]
        ours = [file for file in kept if _NAME.fullmatch(f"{file.parent.name}/{file.name}")]
        query = "SELECT picture, size, mtime_ns FROM photos WHERE state != 'gone'"
        used = {f"{key(*row)}.jpg" for row in database.query(query)}
        for file in ours:
            if file.name not in used:
                with suppress(OSError):  # read-only, or deleted by another process
                    file.unlink()

    def _file(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.jpg"


def key(picture: bytes | None, size: int, mtime_ns: int) -> str:
    """The key of a thumbnail: the hash of the picture; if not yet known, size and time of the file."""
    return picture.hex() if picture else f"{size:x}-{mtime_ns:x}"
