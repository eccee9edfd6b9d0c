"""The JPEG within a RAW file of a kind that `anytag.images` does not read, by exiftool."""

from __future__ import annotations

import shutil
import subprocess

from anytag.images.damage import frame_of

TOOL = "exiftool"
_TAGS = ("-JpgFromRaw", "-PreviewImage", "-OtherImage")  # the largest first
_SECONDS = 60
_LEAST_SIDE = 640  # as `images.raw`


def preview(path: str) -> bytes | None:
    """The first preview of useful size; None where there is none.

    Raises:
        OSError: the file cannot be opened, or exiftool not be started.
    """
    for tag in _TAGS:
        with open(path, "rb") as file:  # noqa: PTH123  # names of any kind, which exiftool never sees
            try:
                done = subprocess.run(
                    [TOOL, "-b", tag, "-"],
                    stdin=file,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    timeout=_SECONDS,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                return None
        if max(frame_of(done.stdout) or (0,)) >= _LEAST_SIDE:
            return done.stdout
    return None


def is_there() -> bool:
    """Is exiftool installed?"""
    return shutil.which(TOOL) is not None
