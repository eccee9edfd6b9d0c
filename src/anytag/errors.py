"""Every error that anytag raises at its users.

    AnytagError
    ├── ImageError            a photo that cannot be read
    ├── ModelError            a model folder that is not what it says
    │   ├── CardError         its card.json
    │   ├── FileMismatchError a file that is missing, of another size or of another hash
    │   └── CheckpointError   a published checkpoint, or the tag lists beside it
    ├── UnknownModelError     a model name that resolves to nothing
    ├── VocabularyError       tags, vocabulary files, asked tags
    ├── DeviceError           a device or provider that is asked for and not active
    ├── OutputError           a result that cannot be written: a full disk, a folder that is gone
    │   └── RefusedOutputError  an output that may not be written, found before the work
    ├── LibraryError          a database of photos that is none, or a photo that is not in it
    ├── DownloadError         a file of the Hub that does not arrive, or arrives as another
    ├── EndpointError         a language model's address that refuses or is of no use
    │   └── NoAnswerError     an answer that it did not give
    ├── MetadataError         a photo's metadata that cannot be read or written
    ├── MissingToolError      a program that is not installed: exiftool
    └── MissingExtraError     a capability whose extra is not installed

Each message says what was given, what was expected, and what to type next.
"""

from __future__ import annotations

from numbers import Integral, Real
from reprlib import Repr
from typing import TypeGuard

_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = 80


def brief(value: object) -> str:
    """`repr`, but of a long text or list only its two ends: messages stay readable whatever was given."""
    return _SHORT.repr(value)


def is_whole(value: object) -> TypeGuard[int]:
    """A whole number of Python or numpy, True and False aside?"""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """A real number of Python or numpy, True and False aside?"""
    return isinstance(value, Real) and not isinstance(value, bool)


class AnytagError(Exception):
    """Root of all errors of this library."""


class ImageError(AnytagError):
    """A photo cannot be read: missing, not an image, truncated, too large."""


class ModelError(AnytagError):
    """A model folder is not what it says it is."""


class CardError(ModelError):
    """`card.json` is missing, unreadable, of an unknown format, or lacks a field."""


class FileMismatchError(ModelError):
    """A file of a model folder is missing, leads outside, or has another size or hash than its card says."""


class CheckpointError(ModelError):
    """A published checkpoint or a tag list beside it is not what the family's table of names says."""


class LibraryError(AnytagError):
    """A library's database is none, is of a newer version or in use, or a photo is not in it."""


class DownloadError(AnytagError):
    """A file cannot be fetched from the Hub or sent to it, or is not what the Hub says it is."""


class OutputError(AnytagError):
    """A result cannot be written: no folder, no permission, a full disk."""


class RefusedOutputError(OutputError):
    """An output is an input of the run, or a file that another run or person made: nothing was written."""


class UnknownModelError(AnytagError):
    """A model name is neither embedded, nor installed, nor a folder."""


class VocabularyError(AnytagError):
    """A vocabulary file, a tag id or an asked tag is wrong."""


class DeviceError(AnytagError):
    """A device or execution provider was asked for and is not active."""


class EndpointError(AnytagError):
    """A language model's address refuses: a wrong key, model or address, or a pause too long to wait for."""


class NoAnswerError(EndpointError):
    """One question got no answer in all its attempts; others may."""


class MetadataError(AnytagError):
    """The metadata of one photo, or a sidecar, cannot be read or written; others can."""


class MissingToolError(AnytagError):
    """Another program is needed and not installed; says how to get it."""


class MissingExtraError(AnytagError):
    """A capability needs packages of an extra that is not installed.

    Args:
        what: the capability, as the user would call it.
        extra: the name of the extra, as in ``pip install 'anytag[extra]'``.
    """

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs packages that are not installed: pip install 'anytag[{extra}]'")
        self.what, self.extra = what, extra

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str]]:
        return type(self), (self.what, self.extra)  # errors cross processes by pickle


def escaped(text: str) -> str:
    """A text for JSON and databases: bytes of a file's name that are no Unicode become escapes."""
    return text.encode("utf-8", "backslashreplace").decode()
