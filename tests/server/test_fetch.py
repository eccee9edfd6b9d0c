from __future__ import annotations

import asyncio
import io
import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Semaphore
from typing import Any

import httpcore
import pytest
from PIL import Image

from anytag.results import Failure
from anytag.server.fetch import Fetcher, is_public
from tests.http_service import EXAMPLE_JPEG, Served, serving
from tests.tiny import make_tiny_model
from tests.tls import Authority, https

PUBLIC = "93.184.216.34"
NOT_PUBLIC = [
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "203.0.113.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:7f00:1",
    "::ffff:93.184.216.34",
    "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::5db8:d822",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:5db8:d822::",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
]
LOOPBACK = [
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "2130706433",
    "0x7f000001",
    "0x7f.0.0.1",
    "0177.0.0.1",
    "017700000001",
    "127.000.000.001",
    "0",
    "0.0.0.0",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::]",
    "127.0.0.1.",
]
REFUSED = [
    *(f"http://{host}/a.jpg" for host in LOOPBACK),
    *(f"http://{f'[{host}]' if ':' in host else host}/" for host in NOT_PUBLIC if "%" not in host),
    "https://127.0.0.1/",
    "http://\uff11\uff12\uff17.\uff10.\uff10.\uff11/",
    "http://127\u30020\u30020\u30021/",
    "http://169.254.169.254/latest/meta-data/",
    "http://[fe80::1%25eth0]/",
    f"http://user@{PUBLIC}/",
    f"http://user:secret@{PUBLIC}/",
    f"http://{PUBLIC}:22/",
    f"http://{PUBLIC}:8000/",
    f"https://{PUBLIC}:80/",
    f"ftp://{PUBLIC}/",
    "file:///etc/passwd",
    "gopher://127.0.0.1/",
    "data:image/png;base64,AAAA",
    "unix:///var/run/docker.sock",
    "//127.0.0.1/",
    "/etc/passwd",
    "http://",
    "http:///a",
    "http://[/",
    "http://a b/",
    "http://\r\nhost/",
    "nonsense",
    "http://a..b/x.jpg",
    "http://.example.org/x.jpg",
    "http://xn--/x.jpg",
    f"http://{'a' * 64}.org/x.jpg",
    "",
]


class Budget:
    """The memory of a request, unlimited unless `most` is given."""

    def __init__(self, most: float = float("inf")) -> None:
        self.most, self.taken = most, 0

    def grow(self, count: int) -> None:
        self.taken += count
        if self.taken > self.most:
            raise MemoryError(self.taken)


class Nobody(httpcore.AsyncNetworkBackend):
    """Connects to nobody, and a test that tries fails."""

    async def connect_tcp(self, host: str, port: int, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        raise AssertionError(f"connected to {host}:{port}")

    async def connect_unix_socket(self, path: str, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        raise AssertionError(path)

    async def sleep(self, seconds: float) -> None:
        raise AssertionError(seconds)


class Answers(Nobody):
    """Addresses at which answers lie ready: HTTP as it goes over the wire, one a connection."""

    def __init__(self, *answers: bytes) -> None:
        self.answers, self.asked = list(answers), [("", 0)][:0]

    async def connect_tcp(self, host: str, port: int, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        self.asked.append((host, port))
        answer = self.answers.pop(0)
        return httpcore.AsyncMockStream([answer[n : n + 65536] for n in range(0, len(answer), 65536)])


def ok(body: bytes, *headers: str) -> bytes:
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def moved(place: str, status: int = 302) -> bytes:
    return f"HTTP/1.1 {status} Moved\r\nLocation: {place}\r\nContent-Length: 0\r\n\r\n".encode()


def at(*addresses: str) -> Any:
    """A resolver that knows each of these once, in turn, and then fails the test."""
    left = list(addresses)

    async def resolve(host: str, port: int) -> list[str]:
        return left.pop(0).split()

    return resolve


def fetch(url: str, *, budget: Budget | None = None, seconds: float = 5, **parts: Any) -> bytes | Failure:
    async def work() -> bytes | Failure:
        (found,) = await Fetcher(seconds=seconds, **parts).photos([url], budget or Budget())
        return found

    return asyncio.run(work())


def why(url: str, **parts: Any) -> str:
    found = fetch(url, **parts)
    assert isinstance(found, Failure), found
    assert found.type == "FetchError"
    return found.message


# --- what is never connected to


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", [PUBLIC, "1.1.1.1", "2606:4700:4700::1111", "2a00:1450:4001:81b::200e"])
def test_addresses_that_are(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("url", REFUSED)
def test_nothing_connects_to_what_is_not_public(url: str) -> None:
    why(url, backend=Nobody())  # names by the system's own resolver


def test_one_address_that_is_not_public_refuses_the_name() -> None:
    for addresses in (f"{PUBLIC} 127.0.0.1", f"::1 {PUBLIC}", f"{PUBLIC} 64:ff9b::a00:1", ""):
        assert "no public address" in why("http://a.example/", resolve=at(addresses), backend=Nobody())


def test_the_address_that_was_checked_is_connected_to() -> None:
    """A second look at the name would give another address: rebinding."""
    backend = Answers(ok(b"photo"))
    assert fetch("http://a.example/", resolve=at(PUBLIC, "127.0.0.1"), backend=backend) == b"photo"
    assert backend.asked == [(PUBLIC, 80)]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    ("place", "address"),
    [
        ("http://127.0.0.1/", "127.0.0.1"),
        ("//localhost/", "127.0.0.1"),
        ("http://b.example/", "10.0.0.1"),
        ("/again", "127.0.0.1"),
    ],
)
def test_a_redirect_is_checked_as_the_first_was(status: int, place: str, address: str) -> None:
    backend = Answers(moved(place, status))
    message = why("http://a.example/", resolve=at(PUBLIC, address), backend=backend)
    assert "no public address" in message
    assert backend.asked == [(PUBLIC, 80)]


@pytest.mark.parametrize("place", ["file:///etc/passwd", "http://u:p@b.example/", "http://b.example:22/"])
def test_a_redirect_to_no_plain_url_is_refused(place: str) -> None:
    backend = Answers(moved(place))
    why("http://a.example/", resolve=at(PUBLIC, PUBLIC), backend=backend)
    assert backend.asked == [(PUBLIC, 80)]


def test_redirects_end() -> None:
    backend = Answers(*[moved("http://b.example/")] * 9)
    assert "more than 3 redirects" in why("http://a.example/", resolve=at(*[PUBLIC] * 9), backend=backend)
    assert len(backend.asked) == 4


def test_the_environment_names_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    backend = Answers(ok(b"photo"))
    assert fetch("http://a.example/", resolve=at(PUBLIC), backend=backend) == b"photo"
    assert backend.asked == [(PUBLIC, 80)]


# --- what is fetched


def test_a_redirect_to_a_public_address_is_followed() -> None:
    backend = Answers(moved("http://b.example/photo"), ok(b"photo"))
    assert fetch("http://a.example/", resolve=at(PUBLIC, "1.1.1.1"), backend=backend) == b"photo"
    assert backend.asked == [(PUBLIC, 80), ("1.1.1.1", 80)]


def test_the_next_address_is_tried() -> None:
    class Second(Answers):
        async def connect_tcp(self, host: str, port: int, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
            stream = await super().connect_tcp(host, port)
            if len(self.asked) == 1:
                self.answers.append(ok(b"photo"))
                raise httpcore.ConnectError
            return stream

    backend = Second(b"", ok(b"photo"))
    both = f"{PUBLIC} 1.1.1.1"
    assert fetch("http://a.example/", resolve=at(both), backend=backend) == b"photo"
    assert [host for host, _ in backend.asked] == both.split()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\n" + b"x" * 200_000,
    ],
)
def test_a_broken_answer_is_no_photo(answer: bytes) -> None:
    why("http://a.example/", resolve=at(PUBLIC), backend=Answers(answer))


def test_bytes_are_limited() -> None:
    budget = Budget(most=100_000)
    with pytest.raises(MemoryError):
        fetch("http://a.example/", budget=budget, resolve=at(PUBLIC), backend=Answers(ok(b"x" * 10_000_000)))
    assert budget.taken < 300_000


def test_seconds_are_limited() -> None:
    class Slow(Answers):
        async def connect_tcp(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
            await asyncio.sleep(60)
            raise AssertionError

    assert "0.2 seconds" in why("http://a.example/", seconds=0.2, resolve=at(PUBLIC), backend=Slow())


# --- over TLS


class Loopback(Nobody):
    """Connects to a port of this computer, whatever address was checked."""

    def __init__(self, port: int) -> None:
        self._port, self.asked = port, [("", 0)][:0]

    async def connect_tcp(self, host: str, port: int, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        self.asked.append((host, port))
        return await httpcore.AnyIOBackend().connect_tcp("127.0.0.1", self._port)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.mark.parametrize("names", [["a.example"], ["b.example", "a.example"]])
def test_a_certificate_for_the_name_is_accepted(
    authority: Authority, tmp_path: Path, names: list[str]
) -> None:
    with https(authority.server(tmp_path, *names), b"photo") as there:
        backend = Loopback(there.port)
        url = "https://a.example/photo?1"
        assert fetch(url, resolve=at(PUBLIC), backend=backend, trust=authority.client) == b"photo"
    assert backend.asked == [(PUBLIC, 443)]
    assert (there.names, there.paths) == (["a.example"], ["/photo?1"])


@pytest.mark.parametrize(
    ("url", "names", "days", "says"),
    [
        ("https://a.example/", ["b.example"], 1, "Hostname mismatch"),
        ("https://a.example/", ["a.example.b.example", "*.a.example", "example"], 1, "Hostname mismatch"),
        ("https://a.example/", [PUBLIC, "127.0.0.1"], 1, "Hostname mismatch"),
        (f"https://{PUBLIC}/", ["a.example", "1.1.1.1"], 1, "IP address mismatch"),
        ("https://a.example/", ["a.example"], -1, "expired"),
    ],
)
def test_a_certificate_for_another_name_is_refused(
    authority: Authority, tmp_path: Path, url: str, names: list[str], days: int, says: str
) -> None:
    with https(authority.server(tmp_path, *names, days=days), b"photo") as there:
        message = why(url, resolve=at(PUBLIC), backend=Loopback(there.port), trust=authority.client)
    assert "its certificate is not accepted" in message
    assert says in message
    assert there.paths == [], "nothing was asked"


def test_a_certificate_for_the_address_serves_the_address(authority: Authority, tmp_path: Path) -> None:
    with https(authority.server(tmp_path, PUBLIC), b"photo") as there:
        backend = Loopback(there.port)
        assert (
            fetch(f"https://{PUBLIC}/", resolve=at(PUBLIC), backend=backend, trust=authority.client)
            == b"photo"
        )


def test_an_unknown_authority_is_refused(authority: Authority, tmp_path: Path) -> None:
    for trust in (None, Authority().client):
        with https(authority.server(tmp_path, "a.example"), b"photo") as there:
            message = why("https://a.example/", resolve=at(PUBLIC), backend=Loopback(there.port), trust=trust)
        assert "its certificate is not accepted" in message
        assert there.paths == []


def test_a_redirect_to_https_is_checked_too(authority: Authority, tmp_path: Path) -> None:
    class Both(Loopback):
        async def connect_tcp(self, host: str, port: int, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
            if port == 443:
                return await super().connect_tcp(host, port)
            return httpcore.AsyncMockStream([moved("https://a.example/there")])

    for name, is_good in (("a.example", True), ("b.example", False)):
        with https(authority.server(tmp_path, name), b"photo") as there:
            found = fetch(
                "http://b.example/",
                resolve=at(PUBLIC, PUBLIC),
                backend=Both(there.port),
                trust=authority.client,
            )
        assert (found == b"photo") == is_good
        assert there.paths == ["/there"] * is_good


def test_a_host_that_answers_no_hello_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        backend = Loopback(silent.getsockname()[1])
        assert "0.3 seconds" in why("https://a.example/", seconds=0.3, resolve=at(PUBLIC), backend=backend)


# --- over HTTP


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def served(model: str) -> Iterator[Served]:
    with serving(model=model, fetch_urls=True, max_body=100_000, max_bytes=150_000) as one:
        yield one


def png(size: tuple[int, int] = (40, 30)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, "PNG")
    return file.getvalue()


def stub(served: Served, *answers: bytes, addresses: Iterable[str] = ()) -> Answers:
    """Lets the running server find these answers."""
    backend = Answers(*answers)
    served.app.state.service.fetcher = Fetcher(
        seconds=5, resolve=at(*(addresses or [PUBLIC] * len(answers))), backend=backend
    )
    return backend


def test_photos_behind_urls_are_tagged_as_if_they_were_sent(served: Served) -> None:
    sent = served.tag(png())
    for files in (None, [("files", ("sent.png", png()))]):
        stub(served, ok(png()), b"HTTP/1.1 500 No\r\n\r\n")
        urls = ["http://a.example/a.png", "http://a.example/b.png"]
        rows = served.client.post("/v1/tag", files=files, data={"urls": urls}).json()["photos"]
        assert [row["name"] for row in rows[-2:]] == urls
        assert [{**row, "name": None} for row in rows[:-1]] == [sent] * (1 + bool(files))
        assert rows[-1]["error"]["type"] == "FetchError"
    stub(served, ok(png()), b"")
    data = {"urls": urls, "texts": "a red square"}
    answer = served.client.post("/v1/match", data=data).json()
    assert [photo["error"] is None for photo in answer["photos"]] == [True, False]
    assert len(answer["texts"][0]["matches"]) == 1
    stub(served, b"")
    assert served.client.post("/v1/tag", data={"urls": urls[:1]}).status_code == 422


def test_what_is_fetched_counts_as_if_it_were_sent(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anytag.server.capacity._SLOW_SECONDS", 60)
    stub(served, ok(b"x" * 200_000))
    response = served.client.post("/v1/tag", data={"urls": "http://a.example/"})
    assert response.status_code == 413
    stub(served, ok(b"x" * 60_000), ok(b"x" * 60_000))
    response = served.client.post("/v1/tag", data={"urls": ["http://a.example/"] * 2})
    assert response.status_code == 413
    stub(served, ok(b"x" * 60_000))
    with served.connect() as waiting:
        lines = [
            "POST /v1/tag HTTP/1.1",
            "Host: 127.0.0.1",
            "Content-Length: 99000",
            "Content-Type: image/png",
        ]
        waiting.sendall("\r\n".join([*lines, "", ""]).encode())
        waiting.sendall(b"x" * 98_999)
        while "bytes_in_flight 98999" not in served.client.get("/metrics").text:
            pass
        response = served.client.post("/v1/tag", data={"urls": "http://a.example/"})
    assert response.status_code == 429
    while "requests_in_flight 0.0" not in served.client.get("/metrics").text:
        pass
    assert "bytes_in_flight 0.0" in served.client.get("/metrics").text


def test_hosts_that_stall_take_no_place_of_the_work(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Answers):
        async def connect_tcp(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
            waiting.release()
            await asyncio.sleep(60)
            raise AssertionError

    waiting = Semaphore(0)
    form = b"urls=http%3A%2F%2Fa.example%2F"
    kind = "Content-Type: application/x-www-form-urlencoded"
    head = ["POST /v1/tag HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(form)}", kind, "", ""]
    with serving(model=model, fetch_urls=True, max_requests=1) as served, ExitStack() as closing:
        names = at(*[PUBLIC] * 4)
        served.app.state.service.fetcher = Fetcher(seconds=60, resolve=names, backend=Slow())
        slow = [closing.enter_context(served.connect()) for _ in range(4)]
        for connection in slow:
            connection.sendall("\r\n".join(head).encode() + form)
            assert waiting.acquire(timeout=20)
        monkeypatch.setattr("anytag.server.capacity._SLOW_SECONDS", 0)
        assert served.tag(png())["error"] is None
        assert slow[0].recv(100).startswith(b"HTTP/1.1 408"), "it gave way"


def test_photos_behind_https_are_tagged(served: Served, authority: Authority, tmp_path: Path) -> None:
    with https(authority.server(tmp_path, "a.example"), png()) as there:
        served.app.state.service.fetcher = Fetcher(
            seconds=5, resolve=at(*[PUBLIC] * 2), backend=Loopback(there.port), trust=authority.client
        )
        urls = ["https://a.example/a.png", "https://b.example/b.png"]
        good, bad = served.client.post("/v1/tag", data={"urls": urls}).json()["photos"]
    assert (good["name"], good["error"]) == (urls[0], None)
    assert "certificate" in bad["error"]["message"]


def test_a_running_server_connects_to_none_of_the_refused(served: Served) -> None:
    served.app.state.service.fetcher = Fetcher(seconds=5, backend=Nobody())
    for url in REFUSED:
        response = served.client.post("/v1/tag", data={"urls": url})
        assert response.status_code == 422, url
        assert response.json()["error"]["type"] == "FetchError"
    rows = served.client.post("/v1/tag", data={"urls": REFUSED}).json()["photos"]
    assert {row["error"]["type"] for row in rows} == {"FetchError"}


def test_without_the_switch_nothing_is_fetched(model: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as trap, serving(model=model) as served:
        url = f"http://127.0.0.1:{trap.getsockname()[1]}/"
        for response in (
            served.client.post("/v1/tag", data={"urls": url}),
            served.client.post("/v1/tag", files=[("files", ("a", png()))], data={"urls": url}),
            served.client.post("/v1/tag", content=png(), params={"urls": url}, headers=EXAMPLE_JPEG),
        ):
            assert response.status_code == 422
            assert "--fetch-urls" in response.json()["error"]["message"]
        trap.setblocking(False)
        with pytest.raises(BlockingIOError):
            trap.accept()
