"""Configuration of a server."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path

from anytag.images import MAX_PIXELS
from anytag.runtime.base import Device

KEY_VARIABLE = "ANYTAG_KEY"
"""Environment variable with the API key: `ps` would show a command line option."""


@dataclass(frozen=True)
class Settings:
    """Settings that are fixed when a server starts.

    Attributes:
        model, device: as for `Tagger.load`.
        has_library: whether the routes of a library are served.
        library: path of its database; None for the user's default library.
        label_studio: folders from which Label Studio may request photos; if empty, its routes are left out.
        host, port: the listening address.
        key: API key that clients must send; None for no key, which is allowed on a loopback address only.
        hosts: further Host names that are accepted, besides the address and localhost.
        workers: number of encoding threads; 0 for one per usable core.
        batch_size: maximum number of photos in a batch.
        fetch_urls: whether to fetch photos from URLs with public addresses.
        max_body: maximum bytes of a request, fetched photos included.
        max_pixels: maximum pixels of a decoded photo.
        max_files: maximum photos of a request.
        max_requests: maximum requests in progress, whose bodies have arrived; further ones get 429.
        max_bytes: maximum bytes of all bodies; further ones get 429, if no slow upload can be dropped.
        body_seconds: time limit for a whole body, else 408.
        stall_seconds: time limit for the next part of a body, else 408.
        fetch_seconds: time limit for fetching one photo.
    """

    model: str | None = None
    device: Device = "auto"
    has_library: bool = False
    library: Path | None = None
    label_studio: tuple[Path, ...] = ()
    host: str = "127.0.0.1"
    port: int = 8000
    key: str | None = field(default=None, repr=False)
    hosts: tuple[str, ...] = ()
    workers: int = 0
    batch_size: int = 8
    fetch_urls: bool = False
    max_body: int = 64 << 20
    max_pixels: int = MAX_PIXELS
    max_files: int = 256
    max_requests: int = 256
    max_bytes: int = 256 << 20
    body_seconds: float = 30.0
    stall_seconds: float = 10.0
    fetch_seconds: float = 15.0

    @property
    def is_local(self) -> bool:
        """Whether the address is reachable from this computer only."""
        return is_loopback(self.host)

    @property
    def allowed_hosts(self) -> frozenset[str]:
        """Accepted values of the Host header: the defence against DNS rebinding."""
        return frozenset({"localhost", "127.0.0.1", "[::1]", _bracketed(self.host), *self.hosts})


def is_loopback(host: str) -> bool:
    """Whether an address or name is a loopback address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def key_from_environment() -> str | None:
    """The value of ANYTAG_KEY without spaces and line breaks around it; None if it is unset or empty."""
    return os.environ.get(KEY_VARIABLE, "").strip() or None


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
