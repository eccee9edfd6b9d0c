"""Photos behind URLs, where the server is told to fetch them: from public addresses alone.

A name is resolved once, each of its addresses is checked, and one of these is connected to: a name that means
another computer a moment later (DNS rebinding) changes nothing. No redirect, proxy or cookie is a way around,
since all connections go through `PublicOnly`.
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
"""Name and port -> addresses."""

_REDIRECTS = 3
_UNANSWERED = "its host does not answer as it should"
_AT_ONCE = 8
_RESOLVERS = 64
"""Threads: a name whose servers do not answer holds one for long."""
_PORTS = {"http": 80, "https": 443}
_HEADERS = [
    ("accept", "image/*"),
    ("accept-encoding", "identity"),  # what comes is counted as it is
    ("user-agent", f"anytag/{__version__}"),
]
_SPECIAL = tuple(
    map(
        ipaddress.ip_network,
        # IETF's own, relays, Azure's host; then 6to4 and documentation, which hold or hide other addresses
        ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32", "2001::/23", "2002::/16", "3fff::/20"),
    )
)
_UNICAST = ipaddress.ip_network("2000::/3")  # without it mapped, NAT64 and local forms of IPv6


class FetchError(Exception):
    """A photo is not fetched, and why."""


class Claim(Protocol):
    """The room that a request takes in memory."""

    def grow(self, count: int) -> None:
        """Takes more bytes, or raises."""
        ...


def is_public(address: str) -> bool:
    """Whether an address is one of the open internet, and hides no other one."""
    ip = ipaddress.ip_address(address)
    if not ip.is_global or ip.is_multicast or any(ip in network for network in _SPECIAL):
        return False
    return ip.version == 4 or ip in _UNICAST


class PublicOnly(httpcore.AsyncNetworkBackend):
    """Connects to public addresses only.

    Args:
        backend: connects.
        resolve: names to addresses.
    """

    def __init__(self, backend: httpcore.AsyncNetworkBackend, resolve: Resolve) -> None:
        self._backend, self._resolve = backend, resolve
        self._streams: list[httpcore.AsyncNetworkStream] = []

    async def aclose(self) -> None:
        """Closes what is open: httpcore forgets a connection whose TLS is broken off by a cancellation."""
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
        """To the first address that answers.

        Raises:
            FetchError: the name has no address, or one that is not public.
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
        """Never."""
        raise FetchError("a socket of this computer is no URL")

    async def sleep(self, seconds: float) -> None:
        """Between tries."""
        await self._backend.sleep(seconds)


class Fetcher:
    """Fetches photos.

    Args:
        seconds: for all of a photo.
        resolve, backend: of names and connections; by default those of the system.
        trust: whose certificates are believed; by default those of the system and of certifi.
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
        self._trust = trust or httpcore.default_ssl_context()  # once: to read it takes a while
        self._resolvers = ThreadPoolExecutor(_RESOLVERS, "resolver")
        self._backend, self._resolve = backend or httpcore.AnyIOBackend(), resolve or self._addresses

    async def photos(self, urls: Sequence[str], claim: Claim) -> list[bytes | Failure]:
        """What is behind each URL, or why there is nothing.

        Args:
            urls: of photos.
            claim: told of all that is read; what it raises ends the whole.
        """
        free = asyncio.Semaphore(_AT_ONCE)  # of this request: another's slow hosts keep nobody waiting
        tasks = [asyncio.ensure_future(self._photo(url, claim, free)) for url in urls]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _photo(self, url: str, claim: Claim, free: asyncio.Semaphore) -> bytes | Failure:
        try:
            async with free, asyncio.timeout(self._seconds):
                return await self._get(url, claim)
        except FetchError as error:
            why = str(error)
        except TimeoutError:
            why = f"it did not come within {self._seconds:g} seconds"
        except httpcore.ConnectError as error:
            why = _unanswered(error)
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, OSError):
            why = _UNANSWERED
        return Failure(FetchError.__name__, f"{escaped(url[:200])} cannot be fetched: {why}")

    async def _get(self, url: str, claim: Claim) -> bytes:
        at = _checked(url)
        async with (
            aclosing(PublicOnly(self._backend, self._resolve)) as backend,
            httpcore.AsyncConnectionPool(self._trust, network_backend=backend) as pool,
        ):
            for _ in range(1 + _REDIRECTS):
                headers = [("host", at.netloc.decode()), *_HEADERS]
                async with pool.stream("GET", _target(at), headers=headers) as answer:
                    if answer.status == 200:
                        return await _read(answer, claim)
                    at = _checked(_location(answer), base=at)
        raise FetchError(f"more than {_REDIRECTS} redirects")

    async def _addresses(self, host: str, port: int) -> list[str]:
        """In a pool of its own: the system's resolver can take long, and cannot be stopped."""
        ask = lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)  # noqa: E731
        found = await asyncio.get_running_loop().run_in_executor(self._resolvers, ask)
        return [str(place[0]) for *_, place in found]


def _unanswered(error: httpcore.ConnectError) -> str:
    """Why there is no connection; a certificate is checked against the name, not the address."""
    cause = error.args[0] if error.args else None
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {cause.verify_message}"
    return _UNANSWERED


def _checked(url: str, *, base: httpx.URL | None = None) -> httpx.URL:
    """Raises FetchError for what is no plain URL of the web."""
    try:
        at = base.join(url) if base else httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise FetchError("it is no URL") from error
    if at.scheme not in _PORTS or not at.host:
        raise FetchError("it is not http://... or https://...")
    if at.port not in (None, _PORTS[at.scheme]):
        raise FetchError("it names a port")
    if at.userinfo:
        raise FetchError("it holds a name or password")
    return at


def _target(at: httpx.URL) -> httpcore.URL:
    """The very host that was checked, not a text that is read again."""
    return httpcore.URL(scheme=at.raw_scheme, host=at.raw_host, port=at.port, target=at.raw_path)


def _location(answer: httpcore.Response) -> str:
    places = [value for name, value in answer.headers if name.lower() == b"location"]
    if answer.status not in (301, 302, 303, 307, 308) or len(places) != 1:
        raise FetchError(f"its host answers with status {answer.status}")
    return places[0].decode("latin-1")


async def _read(answer: httpcore.Response, claim: Claim) -> bytes:
    parts = []
    async for part in answer.aiter_stream():
        claim.grow(len(part))
        parts.append(part)
    return b"".join(parts)
