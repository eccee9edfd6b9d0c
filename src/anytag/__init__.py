"""Tags for photos: a trained vocabulary and your own words, offline, on a CPU.

    from anytag import Tagger
    tagger = Tagger.load()
    tagger.tag("photo.jpg")

The names in `__all__` are the public API. Each is imported on first use, so `import anytag` is fast.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anytag.captioner import Captioner
    from anytag.errors import (
        AnytagError,
        CardError,
        CheckpointError,
        DeviceError,
        DownloadError,
        FileMismatchError,
        ImageError,
        LibraryError,
        MissingExtraError,
        ModelError,
        OutputError,
        UnknownModelError,
        VocabularyError,
    )
    from anytag.gallery import Gallery
    from anytag.library.library import Library
    from anytag.library.photo import Photo
    from anytag.queries.requests import CustomTag
    from anytag.results import Box, Caption, Failure, Match, TagResult, TagScore
    from anytag.retriever import Retriever
    from anytag.tagger import Encoded, Tagger
    from anytag.vocabulary import Tag, Vocabulary

    __version__: str

__all__ = [
    "AnytagError",
    "Box",
    "Caption",
    "Captioner",
    "CardError",
    "CheckpointError",
    "CustomTag",
    "DeviceError",
    "DownloadError",
    "Encoded",
    "Failure",
    "FileMismatchError",
    "Gallery",
    "ImageError",
    "Library",
    "LibraryError",
    "Match",
    "MissingExtraError",
    "ModelError",
    "OutputError",
    "Photo",
    "Retriever",
    "Tag",
    "TagResult",
    "TagScore",
    "Tagger",
    "UnknownModelError",
    "Vocabulary",
    "VocabularyError",
    "__version__",
]

# Privacy: without this, onnxruntime would record what it runs in the home folder and send it to its vendor.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# Names are looked up in these modules in order, the lightest module first.
_MODULES = (
    "errors",
    "results",
    "vocabulary",
    "queries.requests",
    "tagger",
    "gallery",
    "retriever",
    "captioner",
    "library.library",
)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("anytag")
        except PackageNotFoundError:  # run from a source tree
            return "0+uninstalled"
    if name in __all__:
        for module in _MODULES:
            if hasattr(found := import_module(f"{__name__}.{module}"), name):
                return globals().setdefault(name, getattr(found, name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
