"""The only import of torch from the lower layers: runs models that have no graphs."""

from __future__ import annotations

from anytag._optional import needs
from anytag.models.folder import ModelFolder
from anytag.runtime.base import Device, Precision, Runtime


def open_in_torch(
    folder: ModelFolder,
    what: str,
    *,
    device: Device = "auto",
    threads: int | None = None,
    precision: Precision | None = None,
) -> Runtime:
    """Open a runtime in torch; other arguments and errors as for `anytag.torch.open.open_torch`.

    Args:
        what: the feature that needs it, as users call it.

    Raises:
        MissingExtraError: torch is not installed.
    """
    with needs(what):
        from anytag.torch.open import open_torch
    return open_torch(folder, device=device, threads=threads, precision=precision)
