"""Keywords and captions in photos and their XMP sidecars, read and written by exiftool.

    from anytag.metadata import read_keywords, write_keywords, undo
    write_keywords("photo.jpg", ["dog", ("animal", "dog")])   # photo.jpg.xmp

The user's keywords are kept: every field holds the user's words and anytag's. What anytag added is recorded
in its own XMP namespace, so that it can be undone, and a word that the user removed is not written again.
"""

from __future__ import annotations

from anytag.metadata.exiftool import ExifTool
from anytag.metadata.keywords import Keyword
from anytag.metadata.sidecars import SidecarName
from anytag.metadata.write import Change, Keywords, read_keywords, undo, write_keywords

__all__ = [
    "Change",
    "ExifTool",
    "Keyword",
    "Keywords",
    "SidecarName",
    "read_keywords",
    "undo",
    "write_keywords",
]
