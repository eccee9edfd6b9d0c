"""Keywords and captions in photos and their XMP sidecars, read and written by exiftool.

    from anytag.metadata import read_keywords, write_keywords, undo
    write_keywords("photo.jpg", ["dog", ("animal", "dog")])   # photo.jpg.xmp

What a photo's owner wrote stays: every field holds his words and ours. What anytag added is recorded beside
it in a namespace of its own, so that it can be taken out again, and that a word that he took out stays out.
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
