"""What needs a package of an extra, and what is said where that is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from anytag.errors import MissingExtraError

_EXTRAS = {
    "accelerate": "torch",
    "fastapi": "serve",
    "fsspec": "data",
    "ijson": "data",
    "nltk": "eval",
    "onnx": "torch",
    "onnxscript": "torch",
    "open_clip": "baselines",
    "openai": "llm",
    "pandas": "ray",
    "prometheus_client": "serve",
    "pyarrow": "data",
    "pycocoevalcap": "eval",
    "python_multipart": "serve",
    "ray": "ray",
    "scipy": "torch",
    "spacy": "spacy",
    "starlette": "serve",
    "tensorboard": "train",
    "timm": "torch",
    "torch": "torch",
    "transformers": "clip",
    "uvicorn": "serve",
    "wandb": "wandb",
}


def extra_of(error: ModuleNotFoundError) -> str | None:
    """The extra that brings the package that was not found; None where none does."""
    return _EXTRAS.get((error.name or "").partition(".")[0])


@contextmanager
def needs(what: str) -> Iterator[None]:
    """A package of an extra that cannot be imported within the block is named by its extra.

    Args:
        what: the capability that needs it, as users call it.

    Raises:
        MissingExtraError: a package of an extra is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (extra := extra_of(error)) is None:
            raise
        raise MissingExtraError(what, extra) from error
