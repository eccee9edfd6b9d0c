"""Group files of one shot, such as RAW + JPEG: one of them, the primary, is tagged and shown for all."""

from __future__ import annotations

import re
from collections.abc import Iterable

from anytag.suffixes import RAW_SUFFIXES

_EDITED = re.compile(r"img_e(\d{4,})\.")  # Apple: IMG_E1234.JPG is IMG_1234.HEIC after editing
_COVER = re.compile(r"(.+\.raw)-\d+(?:\.mp)?\.(cover|original)\.")  # Google: one shot, developed and as RAW
_FIRST = (".jpg", ".jpeg", ".heic", ".heif", ".hif", ".avif", ".tif", ".tiff", ".png", ".webp")
"""Suffixes in order of preference for the primary file of a RAW."""


def seconds(names: Iterable[str]) -> dict[str, str]:
    """Map names of secondary files in a folder to their primary files.

    Secondary are a RAW beside a photo of the same name, Apple's original beside the edited `IMG_E1234`, and
    Google's `.RAW-02.ORIGINAL` beside `.RAW-01.COVER`. Case is ignored. Videos of live photos do not count.
    """
    telling = [name for name in names if _may_tell(name.lower())]
    return _paired(names, telling) if telling else {}


def _may_tell(name: str) -> bool:
    return name[name.rfind(".") :] in RAW_SUFFIXES or name.startswith("img_e") or ".cover." in name


def _paired(names: Iterable[str], telling: list[str]) -> dict[str, str]:
    shots: dict[str, list[str]] = {}
    for name in names:
        shots.setdefault(_stem(name), []).append(name)
    found: dict[str, str] = {}
    for name in telling:
        small = name.lower()
        if small.endswith(tuple(RAW_SUFFIXES)):
            cover = _COVER.match(small)
            for other in sorted(shots.get(cover[1] if cover else _stem(name), ()), key=_rank):
                if not other.lower().endswith(tuple(RAW_SUFFIXES)):
                    found[name] = other
                    break
        elif edited := _EDITED.match(small):
            for other in shots.get(f"img_{edited[1]}", ()):
                found[other] = name
    return {name: found.get(other, other) for name, other in found.items()}


def _stem(name: str) -> str:
    """The common part of the names of one shot."""
    small = name.lower()
    cover = _COVER.match(small)
    return cover[1] if cover else small[: small.rfind(".")]


def _rank(name: str) -> int:
    suffix = name[name.rfind(".") :].lower()
    return _FIRST.index(suffix) if suffix in _FIRST else len(_FIRST)
