"""What a photo is known by when its file moves or gets tags, and when it was taken."""

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
    picture: 16 bytes, hash of the picture data without metadata.
    taken: EXIF's DateTimeOriginal as "2019-06-01T12:00:00", or None.
    """

    picture: bytes
    taken: str | None


def fingerprint(data: bytes) -> Fingerprint:
    """Of a photo's file."""
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
            said = block.get_ifd(_EXIF).get(_TAKEN)
    except Exception:  # a damaged block: the picture is still good
        return None
    found = _TIME.match(said) if isinstance(said, str) else None
    if found is None or found[1] == "0000":
        return None
    return "{}-{}-{}T{}:{}:{}".format(*found.groups())
