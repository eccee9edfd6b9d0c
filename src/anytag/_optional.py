"""The one door from the inner ring to the outer, whose packages need not be installed."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from anytag.errors import MissingExtraError

_PACKAGES = {
    "accelerate": "torch",
    "onnx": "torch",
    "open_clip": "rivals",
    "scipy": "torch",
    "timm": "torch",
    "torch": "torch",
    "torchvision": "torch",
    "transformers": "clip",
}


def outer(module: str, what: str) -> Any:
    """The module `anytag.<module>`.

    Args:
        what: the capability that needs it, as users call it.

    Raises:
        MissingExtraError: a package of an extra is not installed.
    """
    try:
        return import_module(f"anytag.{module}")
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _PACKAGES:
            raise
        raise MissingExtraError(what, _PACKAGES[package]) from error
