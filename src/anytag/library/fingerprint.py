"""Identify a photo by a hash of its picture data, and read its date."""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

from PIL import Image

from anytag.images.parts import parts_of
from anytag.images.quiet import quiet_pillow

_EXIF, _TAKEN = 0x8769, 36867
_TIME = re.compile(r"(\d{4}):(\d\d):(\d\d)[ T](\d\d):(\d\d):(\d\d)")


class Fingerprint(NamedTuple):
    """Attributes:
    picture: hash of the picture data without metadata, 16 bytes.
    taken: EXIF's DateTimeOriginal as "2019-06-01T12:00:00", or None.
    """

    picture: bytes
    taken: str | None


def fingerprint(data: bytes) -> Fingerprint:
    """Compute the fingerprint of the content of a file."""
    found = parts_of(data)
    digest = hashlib.blake2b(digest_size=16)
    for part in found.picture:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return Fingerprint(digest.digest(), _taken(bytes(found.exif)))


def _taken(exif: bytes) -> str | None:
    if not exif:
        return None
    try:
        with quiet_pillow():
            block = Image.Exif()
            block.load(exif)
            taken = block.get_ifd(_EXIF).get(_TAKEN)
    except Exception:  # damaged metadata must not fail the photo
        return None
    found = _TIME.match(taken) if isinstance(taken, str) else None
    if found is None or found[1] == "0000":
        return None
    return "{}-{}-{}T{}:{}:{}".format(*found.groups())
