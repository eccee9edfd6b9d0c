"""All errors that anytag raises.

    AnytagError
    ├── ImageError            a photo cannot be read
    ├── ModelError            a model folder is invalid
    │   ├── CardError         its card.json is invalid
    │   ├── FileMismatchError a file is missing or has the wrong size or hash
    │   └── CheckpointError   a published checkpoint, or a tag list beside it, is invalid
    ├── UnknownModelError     a model name is unknown
    ├── VocabularyError       tags, vocabulary files or requested tags are invalid
    ├── DeviceError           a requested device or provider is not available
    ├── OutputError           a result cannot be written: a full disk, a missing folder
    │   └── RefusedOutputError  an output may not be written, found before the work starts
    ├── LibraryError          a photo database is invalid or in use, or a photo is not in it
    ├── DownloadError         a file of the Hub cannot be fetched or is not the expected one
    ├── EndpointError         a language model's endpoint refuses or is unusable
    │   └── NoAnswerError     one request got no answer
    ├── MetadataError         a photo's metadata cannot be read or written
    ├── MissingToolError      a program is not installed: exiftool
    └── MissingExtraError     a feature's optional extra is not installed

Each message says what was given, what was expected, and what to do next.
"""

from __future__ import annotations

from numbers import Integral, Real
from reprlib import Repr
from typing import TypeGuard

_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = 80


def brief(value: object) -> str:
    """Return a `repr` that shows only the two ends of a long text or list, so that messages stay readable."""
    return _SHORT.repr(value)


def is_whole(value: object) -> TypeGuard[int]:
    """Whether a value is an integer of Python or numpy, but not a bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a real number of Python or numpy, but not a bool."""
    return isinstance(value, Real) and not isinstance(value, bool)


class AnytagError(Exception):
    """Base class of all errors of this library."""


class ImageError(AnytagError):
    """A photo cannot be read: missing, not an image, truncated, too large."""


class ModelError(AnytagError):
    """A model folder does not match its description."""


class CardError(ModelError):
    """`card.json` is missing, unreadable, of an unknown format, or lacks a field."""


class FileMismatchError(ModelError):
    """A file of a model folder is missing, lies outside it, or has another size or hash than in the card."""


class CheckpointError(ModelError):
    """A published checkpoint or a tag list beside it does not match the family's table of weight names."""


class LibraryError(AnytagError):
    """A library's database is invalid, of a newer version or in use, or a photo is not in it."""


class DownloadError(AnytagError):
    """A file cannot be downloaded from or uploaded to the Hub, or differs from what the Hub describes."""


class OutputError(AnytagError):
    """A result cannot be written: missing folder, no permission, full disk."""


class RefusedOutputError(OutputError):
    """An output is an input of the run, or a file that the run did not make; nothing was written."""


class UnknownModelError(AnytagError):
    """A model name is neither the embedded model, nor installed, nor a folder."""


class VocabularyError(AnytagError):
    """A vocabulary file, a tag id or a requested tag is invalid."""


class DeviceError(AnytagError):
    """A requested device or execution provider is not available."""


class EndpointError(AnytagError):
    """A language model's endpoint refuses: wrong key, model or address, or a retry delay that is too long."""


class NoAnswerError(EndpointError):
    """One request failed in all its attempts; others may succeed."""


class MetadataError(AnytagError):
    """The metadata of one photo or sidecar cannot be read or written; other photos are not affected."""


class MissingToolError(AnytagError):
    """An external program is needed and not installed; says how to get it."""


class MissingExtraError(AnytagError):
    """A feature needs packages of an extra that is not installed.

    Args:
        what: the feature, as users call it.
        extra: the name of the extra, as in ``pip install 'anytag[extra]'``.
    """

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs packages that are not installed: pip install 'anytag[{extra}]'")
        self.what, self.extra = what, extra

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str]]:
        return type(self), (self.what, self.extra)  # errors cross processes by pickle


def escaped(text: str) -> str:
    """Encode text for JSON and databases: bytes of a file name that are not Unicode become escapes."""
    return text.encode("utf-8", "backslashreplace").decode()
