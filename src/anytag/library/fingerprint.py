"""Identify a photo by a hash of its picture data, and read its date."""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

from PIL import Image

from anytag.images.parts import parts_of
from anytag.images.quiet import quiet_pillow

_EXIF, _TAKEN, _ORIENTATION = 0x8769, 36867, 274
_TIME = re.compile(r"(\d{4}):(\d\d):(\d\d)[ T](\d\d):(\d\d):(\d\d)")


class Fingerprint(NamedTuple):
    """Attributes:
    picture: hash of the picture data without metadata, 16 bytes.
    taken: EXIF's DateTimeOriginal as "2019-06-01T12:00:00", or None.
    orientation: EXIF's Orientation, 1 to 8; 1 if there is none.
    """

    picture: bytes
    taken: str | None
    orientation: int = 1


def fingerprint(data: bytes) -> Fingerprint:
    """Compute the fingerprint of the content of a file."""
    found = parts_of(data)
    digest = hashlib.blake2b(digest_size=16)
    for part in found.picture:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return Fingerprint(digest.digest(), *_dated(bytes(found.exif)))


def _dated(exif: bytes) -> tuple[str | None, int]:
    """Date and orientation."""
    if not exif:
        return None, 1
    try:
        with quiet_pillow():
            block = Image.Exif()
            block.load(exif)
            orientation, taken = block.get(_ORIENTATION), block.get_ifd(_EXIF).get(_TAKEN)
    except Exception:  # damaged metadata must not fail the photo
        return None, 1
    return _date(taken), orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _date(taken: object) -> str | None:
    found = _TIME.match(taken) if isinstance(taken, str) else None
    if found is None or found[1] == "0000":
        return None
    return "{}-{}-{}T{}:{}:{}".format(*found.groups())
