"""A model folder: opened only when its files are what its card says, and none leads outside."""

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
"""The torch network's, of a folder that torch can run."""

_MENDING = "Get the model again, or rewrite its card with anytag.models.folder.write_card."
_ADD_TEXT = (
    ", or give it one: anytag convert {} --text CLIP, CLIP being a folder of CLIP ViT-B/16 as transformers "
    "or open_clip writes it; for a published model by its name, anytag pull NAME --text fetches it"
)


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A folder whose files were checked against its card; make one with `ModelFolder.open`."""

    path: Path
    card: Card

    @classmethod
    def open(cls, path: str | Path, *, verify: bool | None = None) -> ModelFolder:
        """Read the card and check every file it lists.

        Args:
            path: the folder.
            verify: also compare sha256, not sizes alone. By default yes, except for the embedded model, which
                is checked when the package is tested and by `anytag doctor`, so that a cold start stays fast.

        Raises:
            CardError: the card is missing or wrong.
            FileMismatchError: a file is missing, leads outside, or has another size or hash.
        """
        path = Path(path)
        folder = cls(path, Card.read(path / cards.FILE_NAME))
        if verify is None:
            verify = path.resolve() != EMBEDDED.resolve()
        for name, facts in folder.card.files.items():
            _check(inside(path, name), facts, verify=verify)
        return folder

    def __contains__(self, name: object) -> bool:
        """Does the card list the file `name`?"""
        return name in self.card.files

    def file(self, name: str) -> Path:
        """The path of a file that the card lists, such as ``image.onnx``; an unlisted file was never checked.

        Raises:
            FileMismatchError: the card does not list it.
        """
        if name not in self.card.files:
            raise FileMismatchError(f"{self.path}: the card lists no file {name!r}. {_MENDING}")
        return inside(self.path, name)

    def directory(self, name: str) -> Path:
        """The path of a subfolder, all of whose files the card lists.

        Raises:
            FileMismatchError: it is missing, leads outside, or holds a file that the card does not list.
        """
        path = inside(self.path, name)
        if not path.is_dir():
            raise FileMismatchError(f"{path} is not a folder. {_MENDING}")
        for file in _files(path):
            self.file(f"{PurePosixPath(name)}/{file}")
        return path

    @property
    def text(self) -> Path:
        """The text encoder's folder.

        Raises:
            ModelError: the model has none; it knows its own vocabulary only.
        """
        if self.card.text is None:
            raise ModelError(
                f"{self.card.name} has no text encoder: ask for tags of its vocabulary only"
                + (
                    _ADD_TEXT.format(self.path)
                    if self.card.network.get("queries", "learned") != "learned"
                    else ""
                )
            )
        return self.directory(self.card.text.folder)


@contextmanager
def edited_copy(base: ModelFolder, output: str | Path, *, without: Collection[str] = ()) -> Iterator[Path]:
    """A copy of the files that a model's card lists, to be changed; it becomes `output` once all is done.

    Write its card last, with `write_card`.

    Args:
        without: files that are not copied, since they are written anew.

    Raises:
        RefusedOutputError: `output` is there already.
        OutputError: it cannot be written.
    """
    with atomic_folder(output) as draft:
        for name in base.card.files.keys() - set(without):
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(base.file(name), draft / name)
        yield draft


@contextmanager
def edited(model: ModelFolder) -> Iterator[Path]:
    """A draft of files for a folder that is there: at the end each is put in its place, whole.

    Write the card then, with `write_card`.

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
    """Write `card` into `folder`, its `files` being what lies there now, hidden files left out.

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
    """`folder`/`name`, where `name` is a plain relative path with '/' and stays inside, links followed.

    Raises:
        FileMismatchError: it is not.
    """
    parts = name.split("/")
    # ':' and '\\' mean a drive or a separator on Windows; '\0' is a ValueError deep in the standard library
    if not all(parts) or any(part in (".", "..") for part in parts) or any(mark in name for mark in ":\\\0"):
        raise FileMismatchError(
            f"{folder}: the card names {name!r}; expected a relative path with '/' and without '.' or '..'. "
            f"{_MENDING}"
        )
    path = folder.joinpath(*parts)
    try:
        stays = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # a loop of links
        stays = False
    if not stays:
        raise FileMismatchError(f"{path} is a link that leads outside of the model folder. {_MENDING}")
    return path


def _files(folder: Path) -> list[str]:
    """All files below `folder`, hidden ones left out, as sorted relative names with forward slashes."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts))


def _check(path: Path, facts: FileFacts, *, verify: bool) -> None:
    if not path.is_file():
        raise FileMismatchError(f"{path} is missing, though the card lists it. {_MENDING}")
    size = path.stat().st_size
    if size != facts.bytes:
        raise FileMismatchError(f"{path} has {size} bytes, the card says {facts.bytes}. {_MENDING}")
    if verify and (digest := sha256_of(path)) != facts.sha256:
        raise FileMismatchError(f"{path} has sha256 {digest}, the card says {facts.sha256}. {_MENDING}")


def _facts(path: Path) -> FileFacts:
    return FileFacts(sha256=sha256_of(path), bytes=path.stat().st_size)


def sha256_of(path: Path) -> str:
    """The hash of a file's content, as the card has it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
