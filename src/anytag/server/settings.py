"""How a server is set up."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path

from anytag.images import MAX_PIXELS
from anytag.runtime.base import Device

KEY_VARIABLE = "ANYTAG_KEY"
"""The environment variable that holds the key: on a command line `ps` would show it."""


@dataclass(frozen=True)
class Settings:
    """Everything that is chosen when a server starts.

    Attributes:
        model, device: as of `Tagger.load`.
        has_library: whether photos of a library are served, too.
        library: its database; None is the user's own.
        label_studio: folders whose photos Label Studio may ask for; empty leaves its routes out.
        host, port: where it listens.
        key: what clients must send; None asks for none, which only the loopback address may.
        hosts: names under which the server may be called, besides its address and localhost.
        workers: threads that encode; 0 is one a usable core.
        batch_size: photos that go through the network together.
        fetch_urls: whether photos are fetched from URLs, too, at public addresses.
        max_body: bytes of a request, with what is fetched for it.
        max_pixels: of a photo as it is decoded.
        max_files: photos of a request.
        max_requests: requests in work at the same time, their bodies there; more are refused with 429.
        max_bytes: of the bodies of all requests; more are refused with 429, if no slow upload can give way.
        body_seconds, stall_seconds: a body that takes longer, or of which nothing comes for so long, is
            refused with 408.
        fetch_seconds: a photo that takes longer is not fetched.
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
        """Whether only this computer can reach the address."""
        return is_loopback(self.host)

    @property
    def allowed_hosts(self) -> frozenset[str]:
        """Names that a request's Host header may hold; DNS rebinding comes with another."""
        return frozenset({"localhost", "127.0.0.1", "[::1]", _bracketed(self.host), *self.hosts})


def is_loopback(host: str) -> bool:
    """Whether an address or name is that of this computer to itself."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def key_from_environment() -> str | None:
    """The key of ANYTAG_KEY; None where it is not set or empty."""
    return os.environ.get(KEY_VARIABLE) or None


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
