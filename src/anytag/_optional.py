"""Map packages of optional extras to the extra to install, and report missing ones."""

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
    """Return the extra that installs the missing package, or None."""
    return _EXTRAS.get((error.name or "").partition(".")[0])


@contextmanager
def needs(what: str) -> Iterator[None]:
    """Raise MissingExtraError if a package of an extra cannot be imported within the block.

    Args:
        what: the feature that needs it, as users call it.

    Raises:
        MissingExtraError: a package of an extra is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (extra := extra_of(error)) is None:
            raise
        raise MissingExtraError(what, extra) from error
