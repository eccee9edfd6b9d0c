"""`anytag doctor`: report the environment and check that anytag works."""

from __future__ import annotations

import math
import platform
import sys
from collections.abc import Callable
from importlib import metadata
from itertools import starmap
from typing import Literal

import click

from anytag.cli.writers import style

PACKAGES = (
    "anytag",
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "pillow",
    "pillow-heif",
    "tokenizers",
    "torch",
)
OPTIONAL = ("onnxruntime-gpu", "pillow-heif", "torch")

Device = Literal["auto", "cpu", "cuda"]


@click.command("doctor", short_help="Show versions, device and health.")
@click.option("--model", metavar="NAME|FOLDER", help="Check this model instead of the embedded one.")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Check this device.",
)
def command(model: str | None, device: Device) -> None:
    """Show versions, providers, the device in use and why; check the model's files and tag a test image.

    Exit code: 0 all checks passed, 1 a check failed.
    """
    _line("python", f"{platform.python_version()} on {platform.platform()}")
    for package in PACKAGES:
        _line(package, _version(package))
    _line("exiftool", _exiftool())
    checks: dict[str, Callable[[], str]] = {
        "providers": _providers,
        "model": lambda: _verified(model),
        "device": lambda: _device(model, device),
        "self-test": lambda: _self_test(model, device),
    }
    if not all(list(starmap(_check, checks.items()))):
        sys.exit(1)


def _line(name: str, value: str, *, bad: bool = False) -> None:
    click.echo(f"{name:<16} " + style(value, fg="red" if bad else None))


def _check(name: str, check: Callable[[], str]) -> bool:
    """Run a check and print its result or error; returns whether it passed."""
    from anytag.errors import AnytagError

    try:
        _line(name, check())
    except (AnytagError, ImportError) as error:
        _line(name, f"FAILED: {error}", bad=True)
        return False
    return True


def _version(package: str) -> str:
    """The installed version; the package is not imported."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed" + (" (optional)" if package in OPTIONAL else "")


def _exiftool() -> str:
    """The version of exiftool, which is needed only to read and write metadata."""
    from anytag.errors import MetadataError, MissingToolError
    from anytag.metadata.exiftool import shared

    try:
        return shared().run("-ver").output.decode().strip()
    except (MetadataError, MissingToolError):
        return "not installed (optional)"


def _providers() -> str:
    from anytag.runtime.onnx import available_providers

    return ", ".join(available_providers())


def _verified(model: str | None) -> str:
    from anytag.models.folder import ModelFolder
    from anytag.models.registry import resolve

    folder = ModelFolder.open(resolve(model), verify=True)
    files = folder.card.files
    size = sum(facts.bytes for facts in files.values()) / 1e6
    name = f"{folder.card.name} {folder.card.version}"
    return f"{name} in {folder.path}: {len(files)} files, {size:.1f} MB, sha256 verified"


def _device(model: str | None, device: Device) -> str:
    from anytag.batching import usable_cores
    from anytag.runtime.onnx import available_providers
    from anytag.tagger import Tagger

    runtime = Tagger.load(model, device=device).runtime
    if runtime.device == "cuda":
        reason = "active" if device == "auto" else "requested, and active"
    elif device == "cpu":
        reason = "requested"
    elif "CUDAExecutionProvider" in available_providers():
        reason = "onnxruntime has CUDA but could not start it; --device cuda shows the error"
    else:
        reason = "this onnxruntime has no CUDA; install onnxruntime-gpu to use it"
    return f"{runtime.device} ({runtime.provider}; {reason}); {usable_cores()} usable cores"


def _self_test(model: str | None, device: Device) -> str:
    """Tag a random image with the whole vocabulary and one custom tag."""
    import numpy as np

    from anytag.errors import ModelError
    from anytag.tagger import Tagger

    tagger = Tagger.load(model, device=device)
    picture = np.random.default_rng(0).integers(0, 256, (375, 500, 3), np.uint8)
    also = ["anytag doctor"] if tagger.card.text else None
    scores = [tag.score for tag in tagger.tag(picture, threshold=0, also=also).tags]
    expected = len(tagger.vocabulary) + (1 if also else 0)
    if len(scores) != expected or not all(map(math.isfinite, scores)):
        raise ModelError(
            f"a test image got {len(scores)} tags instead of {expected}, or scores that are not finite"
        )
    return f"ok: a test image got finite scores for {len(tagger.vocabulary):,} tags" + (
        " and a custom one" if also else ""
    )
