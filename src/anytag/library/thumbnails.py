"""Thumbnails of a library's photos, beside its database: made by a sync, else when first looked at."""

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
"""Pixels of the longer side."""
SPARE = 1 << 30
"""Bytes of the disk that thumbnails leave free."""
_NAME = re.compile(r"(..)/\.?\1[0-9a-f-]+\.jpg(\..+\.new)?")  # with drafts of what was killed


class Thumbnails:
    """Files under the hash of a picture, so that photos that are moved or copied keep theirs.

    Args:
        database: the file of the library.
    """

    def __init__(self, database: Path) -> None:
        self._folder = database.with_name(f"{database.name}.thumbnails")

    def read(self, key: str) -> bytes | None:
        """The JPEG of a picture, if it is kept."""
        try:
            return self._file(key).read_bytes()
        except OSError:
            return None

    def keep(self, key: str, jpeg: bytes) -> None:
        """Writes one; on a disk that is nearly full or read-only it is made each time it is shown."""
        file = self._file(key)
        with suppress(OSError, OutputError):
            file.parent.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(file.parent).free > SPARE:
                with atomic_write(file) as draft:
                    draft.write_bytes(jpeg)

    def tidy(self, database: Database) -> None:
        """Removes those of pictures that no photo has any more."""
        if not self._folder.is_dir():
            return
        kept = [Path(folder, name) for folder, _, names in os.walk(self._folder) for name in names]
        ours = [file for file in kept if _NAME.fullmatch(f"{file.parent.name}/{file.name}")]
        query = "SELECT picture, size, mtime_ns FROM photos WHERE state != 'gone'"
        used = {f"{key(*row)}.jpg" for row in database.query(query)}
        for file in ours:
            if file.name not in used:
                with suppress(OSError):  # it cannot be written, or somebody else removed it
                    file.unlink()

    def _file(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.jpg"


def key(picture: bytes | None, size: int, mtime_ns: int) -> str:
    """What a thumbnail is known by: the hash of the picture; of one that waits, size and time of its file."""
    return picture.hex() if picture else f"{size:x}-{mtime_ns:x}"
