"""Model folders, whose files are verified against their card and never lead outside."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from anytag._io import atomic_folder, writing
from anytag.errors import FileMismatchError, ModelError
from anytag.models import card as cards
from anytag.models.card import Card, FileFacts
from anytag.models.registry import EMBEDDED

WEIGHTS = "weights.safetensors"
"""Weights of the torch network, in folders that torch can run."""

_HINT = "Get the model again, or rewrite its card with anytag.models.folder.write_card."
_ADD_TEXT = (
    ", or add one: anytag convert {} --text CLIP, where CLIP is a folder with CLIP ViT-B/16 in the format of "
    "transformers or open_clip; for a published model, anytag pull NAME --text downloads it"
)


def other_files(folder: Path) -> list[str]:
    """Sorted names of the files in a folder that are not those of a model; all of them, if it is none."""
    try:
        known = {cards.FILE_NAME, *Card.read(folder / cards.FILE_NAME).files}
    except ModelError:
        known = set()
    found = (file.relative_to(folder).as_posix() for file in folder.rglob("*") if not file.is_dir())
    return sorted(name for name in found if name not in known)


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A verified model folder; open one with `ModelFolder.open`."""

    path: Path
    card: Card

    @classmethod
    def open(cls, path: str | Path, *, verify: bool | None = None) -> ModelFolder:
        """Read the card and check every file it lists.

        Args:
            path: the folder.
            verify: also compare sha256, not only sizes. By default true, except for the embedded model, which
                is verified by the package's tests and `anytag doctor`, so that loading stays fast.

        Raises:
            CardError: the card is missing or invalid.
            FileMismatchError: a file is missing, lies outside, or has another size or hash.
        """
        path = Path(path)
        folder = cls(path, Card.read(path / cards.FILE_NAME))
        if verify is None:
            verify = path.resolve() != EMBEDDED.resolve()
        for name, facts in folder.card.files.items():
            _check(inside(path, name), facts, verify=verify)
        return folder

    def __contains__(self, name: object) -> bool:
        """Whether the card lists the file `name`."""
        return name in self.card.files

    def file(self, name: str) -> Path:
        """Return the path of a file that the card lists, such as ``image.onnx``; others were never verified.

        Raises:
            FileMismatchError: the card does not list it.
        """
        if name not in self.card.files:
            raise FileMismatchError(f"{self.path}: the card does not list the file {name!r}. {_HINT}")
        return inside(self.path, name)

    def directory(self, name: str) -> Path:
        """Return the path of a subfolder, all of whose files the card lists.

        Raises:
            FileMismatchError: it is missing, lies outside, or has a file that the card does not list.
        """
        path = inside(self.path, name)
        if not path.is_dir():
            raise FileMismatchError(f"{path} is not a folder. {_HINT}")
        for file in _files(path):
            self.file(f"{PurePosixPath(name)}/{file}")
        return path

    @property
    def text(self) -> Path:
        """The text encoder's folder.

        Raises:
            ModelError: the model has no text encoder, only its own vocabulary.
        """
        if self.card.text is None:
            raise ModelError(
                f"{self.card.name} has no text encoder: use tags of its vocabulary only"
                + (
                    _ADD_TEXT.format(self.path)
                    if self.card.network.get("queries", "learned") != "learned"
                    else ""
                )
            )
        return self.directory(self.card.text.folder)


@contextmanager
def edited_copy(base: ModelFolder, output: str | Path, *, without: Collection[str] = ()) -> Iterator[Path]:
    """Yield a copy of a model's files, to be changed; it is renamed to `output` at the end.

    Write its card last, with `write_card`.

    Args:
        without: files that are not copied, because they will be written anew.

    Raises:
        RefusedOutputError: `output` exists.
        OutputError: it cannot be written.
    """
    with atomic_folder(output) as draft:
        for name in base.card.files.keys() - set(without):
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(base.file(name), draft / name)
        yield draft


@contextmanager
def edited(model: ModelFolder) -> Iterator[Path]:
    """Yield a draft folder, whose files are moved into an existing model folder at the end, each atomically.

    Write the card afterwards, with `write_card`.

    Raises:
        OutputError: the folder cannot be written.
    """
    with writing(model.path), tempfile.TemporaryDirectory(dir=model.path, prefix=".draft") as scratch:
        draft = Path(scratch)
        yield draft
        for name in _files(draft):
            (model.path / name).parent.mkdir(parents=True, exist_ok=True)
            (draft / name).replace(model.path / name)


def write_card(folder: str | Path, card: Card) -> Card:
    """Write `card` into `folder`, with `files` describing the folder's current files except hidden ones.

    Returns:
        the card as written.

    Raises:
        FileMismatchError: a link in the folder leads outside.
    """
    folder = Path(folder)
    names = [name for name in _files(folder) if name != cards.FILE_NAME]
    card = replace(card, files={name: _facts(inside(folder, name)) for name in names})
    card.write(folder / cards.FILE_NAME)
    return card


def inside(folder: Path, name: str) -> Path:
    """Return `folder`/`name`, checking that `name` is a plain relative path with '/' that stays inside.

    Raises:
        FileMismatchError: it is not.
    """
    parts = name.split("/")
    # ':' and '\\' mean a drive or a separator on Windows; '\0' raises ValueError deep in the standard library
    if not all(parts) or any(part in (".", "..") for part in parts) or any(mark in name for mark in ":\\\0"):
        raise FileMismatchError(
            f"{folder}: the card names {name!r}; expected a relative path with '/' and without '.' or '..'. "
            f"{_HINT}"
        )
    path = folder.joinpath(*parts)
    try:
        stays = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # a loop of links
        stays = False
    if not stays:
        raise FileMismatchError(f"{path} is a link that leads outside the model folder. {_HINT}")
    return path


def _files(folder: Path) -> list[str]:
    """All files below `folder` except hidden ones, as sorted relative names with forward slashes."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts))


def _check(path: Path, facts: FileFacts, *, verify: bool) -> None:
    if not path.is_file():
        raise FileMismatchError(f"{path} is missing, but the card lists it. {_HINT}")
    size = path.stat().st_size
    if size != facts.bytes:
        raise FileMismatchError(f"{path} has {size} bytes, the card says {facts.bytes}. {_HINT}")
    if verify and (digest := sha256_of(path)) != facts.sha256:
        raise FileMismatchError(f"{path} has sha256 {digest}, the card says {facts.sha256}. {_HINT}")


def _facts(path: Path) -> FileFacts:
    return FileFacts(sha256=sha256_of(path), bytes=path.stat().st_size)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
