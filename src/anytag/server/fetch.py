"""Fetch photos from URLs, from public addresses only (protection against SSRF).

A host name is resolved once, all its addresses are checked, and the connection goes to one of them, so DNS
rebinding has no effect. Redirects cannot bypass the check, since all connections go through `PublicOnly`;
proxies and cookies are not used.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Protocol

import httpcore
import httpx

from anytag import __version__
from anytag.errors import escaped
from anytag.results import Failure

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""Resolves a host name and port to IP addresses."""

_REDIRECTS = 3
_BAD_RESPONSE = "its host does not respond correctly"
_CONCURRENCY = 8
_RESOLVERS = 64
"""Threads for name resolution: a name server that does not respond blocks one for long."""
_PORTS = {"http": 80, "https": 443}
_HEADERS = [
    ("accept", "image/*"),
    ("accept-encoding", "identity"),  # so that the counted bytes are those in memory
    ("user-agent", f"anytag/{__version__}"),
]
_RESERVED_NETWORKS = tuple(
    map(
        ipaddress.ip_network,
        # IETF protocol assignments, 6to4 relays, Azure's host; then IPv6 that embeds IPv4, and documentation
        ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32", "2001::/23", "2002::/16", "3fff::/20"),
    )
)
_UNICAST = ipaddress.ip_network("2000::/3")  # excludes IPv4-mapped, NAT64 and local addresses


class FetchError(Exception):
    """Why a photo was not fetched."""


class Reservation(Protocol):
    """The memory that a request has reserved."""

    def grow(self, count: int) -> None:
        """Reserve more bytes, or raise."""
        ...


def is_public(address: str) -> bool:
    """Whether an IP address is public and embeds no other address."""
    ip = ipaddress.ip_address(address)
    if not ip.is_global or ip.is_multicast or any(ip in network for network in _RESERVED_NETWORKS):
        return False
    return ip.version == 4 or ip in _UNICAST


class PublicOnly(httpcore.AsyncNetworkBackend):
    """Network backend that connects to public addresses only.

    Args:
        backend: opens the connections.
        resolve: resolves host names.
    """

    def __init__(self, backend: httpcore.AsyncNetworkBackend, resolve: Resolve) -> None:
        self._backend, self._resolve = backend, resolve
        self._streams: list[httpcore.AsyncNetworkStream] = []

    async def aclose(self) -> None:
        """Close all streams: httpcore leaks a connection whose TLS handshake is cancelled."""
        for stream in self._streams:
            await stream.aclose()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address that accepts.

        Raises:
            FetchError: the host has no address, or one that is not public.
        """
        addresses = await self._resolve(host.strip("[]"), port)
        if not addresses or not all(map(is_public, addresses)):
            raise FetchError("its host has no public address")
        for address in addresses[:-1]:
            try:
                return await self._connected(address, port, timeout)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return await self._connected(addresses[-1], port, timeout)

    async def _connected(self, address: str, port: int, timeout: float | None) -> httpcore.AsyncNetworkStream:
        stream = await self._backend.connect_tcp(address, port, timeout)
        self._streams.append(stream)
        return stream

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Refuse Unix sockets.

        Raises:
            FetchError: always.
        """
        raise FetchError("Unix sockets are not allowed")

    async def sleep(self, seconds: float) -> None:
        """Wait between attempts."""
        await self._backend.sleep(seconds)


class Fetcher:
    """Fetches photos from URLs.

    Args:
        seconds: time limit for one photo.
        resolve, backend: resolve names and open connections; by default the system's.
        trust: TLS context; by default with the certificates of the system and of certifi.
    """

    def __init__(
        self,
        *,
        seconds: float,
        resolve: Resolve | None = None,
        backend: httpcore.AsyncNetworkBackend | None = None,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        self._seconds = seconds
        self._trust = trust or httpcore.default_ssl_context()  # created once: it is slow to load
        self._resolvers = ThreadPoolExecutor(_RESOLVERS, "resolver")
        self._backend, self._resolve = backend or httpcore.AnyIOBackend(), resolve or self._addresses

    async def photos(self, urls: Sequence[str], reservation: Reservation) -> list[bytes | Failure]:
        """Fetch each URL: its content, or why it could not be fetched.

        Args:
            urls: of photos.
            reservation: counts the bytes that are read; its exceptions cancel all fetches.
        """
        free = asyncio.Semaphore(_CONCURRENCY)  # one per request, so that requests do not wait for each other
        tasks = [asyncio.ensure_future(self._photo(url, reservation, free)) for url in urls]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _photo(self, url: str, reservation: Reservation, free: asyncio.Semaphore) -> bytes | Failure:
        try:
            async with free, asyncio.timeout(self._seconds):
                return await self._get(url, reservation)
        except FetchError as error:
            reason = str(error)
        except UnicodeError:  # of a host name that no name server takes: a..b
            reason = "it is not a valid URL"
        except TimeoutError:
            reason = f"it did not arrive within {self._seconds:g} seconds"
        except httpcore.ConnectError as error:
            reason = _connect_reason(error)
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, OSError):
            reason = _BAD_RESPONSE
        return Failure(FetchError.__name__, f"{escaped(url[:200])} cannot be fetched: {reason}")

    async def _get(self, url: str, reservation: Reservation) -> bytes:
        at = _checked_url(url)
        async with (
            aclosing(PublicOnly(self._backend, self._resolve)) as backend,
            httpcore.AsyncConnectionPool(self._trust, network_backend=backend) as pool,
        ):
            for _ in range(1 + _REDIRECTS):
                headers = [("host", at.netloc.decode()), *_HEADERS]
                async with pool.stream("GET", _target(at), headers=headers) as answer:
                    if answer.status == 200:
                        return await _read(answer, reservation)
                    at = _checked_url(_location(answer), base=at)
        raise FetchError(f"more than {_REDIRECTS} redirects")

    async def _addresses(self, host: str, port: int) -> list[str]:
        """Resolve a name in a separate thread pool: the system's resolver cannot be cancelled."""
        ask = lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)  # noqa: E731
        found = await asyncio.get_running_loop().run_in_executor(self._resolvers, ask)
        return [str(place[0]) for *_, place in found]


def _connect_reason(error: httpcore.ConnectError) -> str:
    """Why the connection failed; certificates are checked against the name, not the address."""
    cause = error.args[0] if error.args else None
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {cause.verify_message}"
    return _BAD_RESPONSE


def _checked_url(url: str, *, base: httpx.URL | None = None) -> httpx.URL:
    """Parse a URL; raise FetchError unless it is http(s) without port or credentials."""
    try:
        at = base.join(url) if base else httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise FetchError("it is not a valid URL") from error
    if at.scheme not in _PORTS or not at.host:
        raise FetchError("it is not http://... or https://...")
    if at.port not in (None, _PORTS[at.scheme]):
        raise FetchError("URLs with a port are not allowed")
    if at.userinfo:
        raise FetchError("URLs with a user name or password are not allowed")
    return at


def _target(at: httpx.URL) -> httpcore.URL:
    """The URL for httpcore from the parsed parts, so that the host is the one that was checked."""
    return httpcore.URL(scheme=at.raw_scheme, host=at.raw_host, port=at.port, target=at.raw_path)


def _location(answer: httpcore.Response) -> str:
    places = [value for name, value in answer.headers if name.lower() == b"location"]
    if answer.status not in (301, 302, 303, 307, 308) or len(places) != 1:
        raise FetchError(f"its host responded with status {answer.status}")
    return places[0].decode("latin-1")


async def _read(answer: httpcore.Response, reservation: Reservation) -> bytes:
    parts = []
    async for part in answer.aiter_stream():
        reservation.grow(len(part))
        parts.append(part)
    return b"".join(parts)
