"""Find the XMP sidecars of a photo, and name new ones."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from anytag.suffixes import IMAGE_SUFFIXES

SidecarName = Literal["full", "stem"]
"""Name of a new sidecar: photo.jpg.xmp, or photo.xmp, which Adobe's programs expect for RAW."""

_XMP = (".xmp", ".XMP", ".Xmp")
_SHARING = IMAGE_SUFFIXES | {".mov", ".mp4", ".m4v"}  # of live photos
_NAME_BYTES = 255


@dataclass(frozen=True, slots=True)
class Candidates:
    """The XMP files beside a photo.

    Attributes:
        full: photo.jpg.xmp, if it exists.
        stem: photo.xmp, if it exists; it may belong to another photo.
        sharing: other files with the same stem, to which `stem` may belong.
    """

    full: Path | None
    stem: Path | None
    sharing: tuple[str, ...] = ()

    def is_stem_ours(self, photo: Path, references: Iterable[str]) -> bool:
        """Whether photo.xmp belongs to this photo.

        Args:
            photo: this one.
            references: names and suffixes of files that photo.xmp refers to, possibly before they were
                renamed; often empty.
        """
        references = [one.lower() for one in references if one]
        name, suffix = photo.name.lower(), photo.suffix.lower().lstrip(".")
        if any(one in (name, suffix) for one in references):
            return True
        return not self.sharing and all(one.endswith(f".{suffix}") for one in references)


def candidates(photo: Path) -> Candidates:
    """Find XMP files beside a photo by trying names, since listing a large folder is slow."""
    names = [photo.name]
    if photo.suffix != photo.suffix.lower() and not photo.with_suffix(photo.suffix.lower()).exists():
        names.append(photo.stem + photo.suffix.lower())
    full = _first(photo, (name + suffix for name in names for suffix in _XMP))
    stem = _first(photo, (photo.stem + suffix for suffix in _XMP))
    if stem is None:
        return Candidates(full, None)
    return Candidates(full, stem, sharing(photo))


def new_sidecar(photo: Path, naming: SidecarName) -> Path:
    """The path for a new sidecar; named by the stem if the full name is too long."""
    full = photo.with_name(photo.name + ".xmp")
    stem = photo.with_name(photo.stem + ".xmp")
    if naming == "full" and len(os.fsencode(full.name)) <= _NAME_BYTES:
        return full
    return full if stem.exists() or (naming == "stem" and sharing(photo)) else stem


def sharing(photo: Path) -> tuple[str, ...]:
    """Names of other files beside a photo with its stem, to which photo.xmp may belong."""
    suffixes = sorted({*_SHARING, *(suffix.upper() for suffix in _SHARING)} - {photo.suffix})
    return tuple(
        name for suffix in suffixes if _is_other(photo.with_name(name := photo.stem + suffix), photo)
    )


def _is_other(path: Path, photo: Path) -> bool:
    if not os.path.exists(path):  # noqa: PTH110  # also of names that are too long
        return False
    try:
        return not path.samefile(photo)  # the same file on case-insensitive disks
    except OSError:
        return True  # the photo was deleted


def _first(photo: Path, names: Iterable[str]) -> Path | None:
    return next((path for path in map(photo.with_name, names) if os.path.exists(path)), None)  # noqa: PTH110  # also of names that are too long
