"""Resolve model names to folders, without network access."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anytag.errors import UnknownModelError
from anytag.models import card as cards

DEFAULT = "mini"
EMBEDDED = Path(__file__).parent.parent / "assets" / DEFAULT


@dataclass(frozen=True, slots=True)
class Description:
    """A row of `anytag models`.

    Attributes:
        name: value for `--model`.
        bytes: total size on disk.
        family, version, description, training_data, thresholds: as in the card.
    """

    name: str
    path: Path
    bytes: int
    licence: str
    metrics: Mapping[str, Any]
    family: str = ""
    version: str = ""
    description: str = ""
    training_data: str = ""
    thresholds: str = ""


def resolve(name_or_folder: str | Path | None = None) -> Path:
    """Return the folder of a model.

    Args:
        name_or_folder: None or "mini" for the embedded model, a folder with a card.json, or the name of an
            installed model. A folder takes precedence over an installed model of the same name; "mini" is
            always the embedded model (use "./mini" for a folder of that name).

    Raises:
        UnknownModelError: it is none of these; the message lists the installed models.
    """
    if name_or_folder is None or name_or_folder == DEFAULT:
        return EMBEDDED
    if str(name_or_folder) and _is_model(Path(name_or_folder)):
        return Path(name_or_folder)
    if isinstance(name_or_folder, str) and (folder := _cached(name_or_folder)) is not None:
        return folder
    if str(name_or_folder) and _is_model(trained := Path(name_or_folder, "model")):
        raise UnknownModelError(f"{name_or_folder} is the folder of a training run: its model is {trained}")
    raise UnknownModelError(
        f"no model {str(name_or_folder)!r}: it is neither installed nor a folder with a {cards.FILE_NAME}. "
        f"Installed: {', '.join(path.name for path in installed()) or 'none'}. "
        f"Leave the model out for the embedded one ({DEFAULT}), or give the path of a model folder, "
        f"or put one into {cache()}, or download one: anytag pull ram-plus, anytag pull hf-hub:owner/name"
    )


def installed() -> list[Path]:
    """Folders of all models that can be named: the embedded one, then those in the cache, sorted."""
    try:
        names = sorted(path.name for path in cache().iterdir())
    except OSError:  # missing or not readable: nothing is installed for this user
        names = []
    cached = [folder for name in names if name != DEFAULT and (folder := _cached(name)) is not None]
    return ([EMBEDDED] if _is_model(EMBEDDED) else []) + cached


def describe(folder: str | Path) -> Description:
    """Describe one model folder for `anytag models`.

    Raises:
        CardError: its card is missing or invalid.
    """
    folder = Path(folder)
    card = cards.Card.read(folder / cards.FILE_NAME)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Description(
        folder.resolve().name,
        folder,
        size,
        card.licence,
        card.metrics,
        family=card.family,
        version=card.version,
        description=card.description,
        training_data=card.training_data,
        thresholds=card.thresholds,
    )


def cache() -> Path:
    """Folder of installed models: `$ANYTAG_HOME/models`, or `anytag/models` in the user's cache."""
    home = os.environ.get("ANYTAG_HOME")
    return (Path(home).expanduser() if home else _user_cache() / "anytag") / "models"


def _user_cache() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    named = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME")
    # the XDG base directory specification says to ignore relative paths
    return Path(named) if named and Path(named).is_absolute() else Path.home() / ".cache"


def _cached(name: str) -> Path | None:
    """The installed model `name`; neither the name nor a link may lead outside the cache."""
    if cards.NAME.fullmatch(name) is None:
        return None
    path = cache() / name
    return path if _is_model(path) and path.resolve().is_relative_to(cache().resolve()) else None


def _is_model(path: Path) -> bool:
    try:
        return (path / cards.FILE_NAME).is_file()
    except (OSError, ValueError):  # a name too long for the file system, or with a null character
        return False
