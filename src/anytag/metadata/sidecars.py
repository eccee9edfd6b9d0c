"""Which XMP files belong to a photo, and what a new one is called."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from anytag.suffixes import IMAGE_SUFFIXES

SidecarName = Literal["full", "stem"]
"""What a new sidecar is called: photo.jpg.xmp, or photo.xmp as Adobe wants it for RAW."""

_XMP = (".xmp", ".XMP", ".Xmp")
_SHARING = IMAGE_SUFFIXES | {".mov", ".mp4", ".m4v"}  # of live photos
_NAME_BYTES = 255


@dataclass(frozen=True, slots=True)
class Candidates:
    """The XMP files beside a photo.

    Attributes:
        full: photo.jpg.xmp, if it is there.
        stem: photo.xmp, if it is there: it may be another photo's.
        sharing: files beside it of the same stem: each may be whom `stem` belongs to.
    """

    full: Path | None
    stem: Path | None
    sharing: tuple[str, ...] = ()

    def is_stem_ours(self, photo: Path, said: Iterable[str]) -> bool:
        """Does photo.xmp belong to this photo?

        Args:
            photo: this one.
            said: names and suffixes of files that photo.xmp says it belongs to; nothing is said by many.
        """
        said = [one.lower() for one in said if one]
        names = (photo.name.lower(), photo.suffix.lower().lstrip("."))
        return any(one in names for one in said) if said else not self.sharing


def candidates(photo: Path) -> Candidates:
    """Looks beside a photo; names are tried, so that a folder of any size is never listed."""
    names = [photo.name]
    if photo.suffix != photo.suffix.lower() and not photo.with_suffix(photo.suffix.lower()).exists():
        names.append(photo.stem + photo.suffix.lower())
    full = _first(photo, (name + suffix for name in names for suffix in _XMP))
    stem = _first(photo, (photo.stem + suffix for suffix in _XMP))
    if stem is None:
        return Candidates(full, None)
    return Candidates(full, stem, sharing(photo))


def new_sidecar(photo: Path, naming: SidecarName) -> Path:
    """Where a sidecar is made; a name that would be too long is that of the stem."""
    full = photo.with_name(photo.name + ".xmp")
    stem = photo.with_name(photo.stem + ".xmp")
    if naming == "full" and len(os.fsencode(full.name)) <= _NAME_BYTES:
        return full
    return full if stem.exists() or (naming == "stem" and sharing(photo)) else stem


def sharing(photo: Path) -> tuple[str, ...]:
    """Names of other files beside a photo that have its stem: photo.xmp may be theirs."""
    suffixes = sorted({*_SHARING, *(suffix.upper() for suffix in _SHARING)} - {photo.suffix})
    return tuple(
        name for suffix in suffixes if _is_other(photo.with_name(name := photo.stem + suffix), photo)
    )


def _is_other(path: Path, photo: Path) -> bool:
    if not os.path.exists(path):  # noqa: PTH110  # also of names that are too long
        return False
    try:
        return not path.samefile(photo)  # the same on a disk that tells no capitals from small letters
    except OSError:
        return True  # the photo is gone


def _first(photo: Path, names: Iterable[str]) -> Path | None:
    return next((path for path in map(photo.with_name, names) if os.path.exists(path)), None)  # noqa: PTH110  # also of names that are too long
