from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event

import pytest
from starlette.types import Message

from anytag.server.capacity import BodyTimeouts
from anytag.server.limits import Admission
from anytag.server.metrics import Metrics
from anytag.server.settings import Settings
from tests.http_service import EXAMPLE_JPEG, Served, serving
from tests.tiny import make_tiny_model

KEY = "correct horse"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def narrow(model: str) -> Iterator[Served]:
    """A server that has one request of a kilobyte in work at a time, and waits for it for half a second."""
    with serving(model=model, max_body=1000, max_requests=1, body_seconds=0.5) as served:
        yield served


@pytest.fixture(scope="module")
def keyed(model: str) -> Iterator[Served]:
    with serving(model=model, key=KEY) as served:
        yield served


def answer(connection: socket.socket, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of what comes back to a body; then the connection is closed."""
    with connection:
        connection.sendall(body)
        return _answer(connection)


def until(served: Served, figure: str) -> None:
    """Waits for a line of the metrics."""
    deadline = time.monotonic() + 20
    while figure not in served.client.get("/metrics").text:
        assert time.monotonic() < deadline, figure
        time.sleep(0.01)


def _answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(65536)
        assert part, data
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    while len(body) < int(headers["content-length"]):
        body += connection.recv(65536)
    return int(first.split()[1]), headers, body


def begin(served: Served, *headers: str, path: str = "/v1/tag", kind: str = "image/jpeg") -> socket.socket:
    """A request whose body is still to come."""
    connection = served.connect()
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Type: {kind}", *headers]
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    return connection


@contextmanager
def at_work(served: Served) -> Iterator[None]:
    """A request is in work within the block, and does not get on."""
    go_on = Event()
    with ThreadPoolExecutor() as threads:
        try:
            for _ in range(2):  # of the server's threads
                served.app.state.service.batcher.submit(b"no photo", lambda _: go_on.wait(60))
            answered = threads.submit(served.client.post, "/v1/tag", content=b"x", headers=EXAMPLE_JPEG)
            until(served, "anytag_queue_depth 1.0")
            yield
        finally:
            go_on.set()
        assert answered.result().status_code == 422


# --- who may ask


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:80", "", "[::2]"])
def test_a_foreign_host_name_is_refused(narrow: Served, host: str) -> None:
    response = narrow.client.get("/v1/models", headers={"host": host})
    assert response.status_code in (400, 421)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000"])
def test_own_names_are_let_in(narrow: Served, host: str) -> None:
    assert narrow.client.get("/v1/models", headers={"host": host}).status_code == 200


def test_another_name_can_be_allowed(model: str) -> None:
    with serving(model=model, hosts=("photos.lan",)) as served:
        assert served.client.get("/livez", headers={"host": "photos.lan:80"}).status_code == 200


def test_pages_of_other_sites_are_refused(narrow: Served) -> None:
    origin = f"http://127.0.0.1:{narrow.port}"
    for given, status in (("https://evil.example", 403), ("null", 403), ("http://[", 403), (origin, 422)):
        response = narrow.client.post("/v1/tag", content=b"x", headers={**EXAMPLE_JPEG, "origin": given})
        assert response.status_code == status


@pytest.mark.parametrize(
    "given", [None, "", "Bearer wrong", "Bearer", "Bearer " + KEY + "x", "Basic " + KEY, KEY]
)
def test_a_wrong_key_is_refused(keyed: Served, given: str | None) -> None:
    headers = {} if given is None else {"authorization": given}
    for method, path in (
        ("POST", "/v1/tag"),
        ("GET", "/v1/models"),
        ("GET", "/metrics"),
        ("GET", "/openapi.json"),
    ):
        response = keyed.client.request(method, path, headers=headers)
        assert response.status_code == 401
        assert response.json()["error"]["type"] == "key"


def test_keys_are_bytes_of_any_kind(model: str) -> None:
    with serving(model=model, key="Schlüssel \udcff") as served:
        for given, status in (
            (b"Schl\xc3\xbcssel \xff", 200),
            (b"Schl\xfcssel \xff", 401),
            (b"\xff\xfe", 401),
        ):
            for scheme in (b"Bearer ", b"bearer  "):
                headers = [(b"authorization", scheme + given)]
                assert served.client.get("/v1/models", headers=headers).status_code == status


def test_the_key_lets_in_and_page_and_health_need_none(keyed: Served) -> None:
    headers = {"authorization": f"Bearer {KEY}", "host": "any.name"}
    assert keyed.client.get("/v1/models", headers=headers).status_code == 200
    for path in ("/", "/page/main.js", "/livez", "/readyz"):
        assert keyed.client.get(path).status_code == 200


def test_an_endless_upload_without_a_key_is_not_read(
    keyed: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    piece = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    sent = 0
    with begin(keyed, "Transfer-Encoding: chunked") as connection, pytest.raises(OSError):
        connection.settimeout(10)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)  # else the system takes megabytes
        while sent < 10 << 30:
            sent += connection.send(piece)
    assert sent < 1 << 20


def test_several_names_are_none(narrow: Served) -> None:
    for name in ("Host", "Origin"):
        lines = ["GET /v1/models HTTP/1.1", "Host: 127.0.0.1", f"{name}: evil.example", "", ""]
        connection = narrow.connect()
        connection.sendall("\r\n".join(lines).encode())
        assert answer(connection)[0] in (400, 403, 421)


def test_every_error_is_json_and_head_is_answered(narrow: Served) -> None:
    for method, path, status in (
        ("GET", "/nothing", 404),
        ("GET", "/page/%2e%2e/app.py", 404),
        ("PUT", "/v1/tag", 405),
        ("OPTIONS", "/v1/tag", 405),
    ):
        response = narrow.client.request(method, path)
        assert response.status_code == status
        assert response.json()["error"]["message"]
    for path in ("/", "/livez", "/page/main.js"):
        response = narrow.client.head(path)
        assert (response.status_code, response.content) == (200, b"")


def test_metrics_have_no_words_of_clients(narrow: Served) -> None:
    for path in ("/livez", "/private.jpg"):
        narrow.client.request("PROPFIND", path)
    text = narrow.client.get("/metrics").text
    assert 'method="other"' in text
    assert "PROPFIND" not in text
    assert "private" not in text


# --- how much


def test_a_long_body_is_refused_before_it_is_read(narrow: Served) -> None:
    status, headers, body = answer(begin(narrow, "Content-Length: 10000000000"))
    assert status == 413
    assert headers["connection"] == "close"
    assert "10,000,000,000" in json.loads(body)["error"]["message"]


def test_a_long_body_of_unknown_length_is_refused(narrow: Served) -> None:
    connection = begin(narrow, "Transfer-Encoding: chunked")
    connection.sendall(b"800\r\n" + b"x" * 2048 + b"\r\n")
    assert answer(connection)[0] == 413


def test_a_slow_body_is_refused(narrow: Served) -> None:
    connection = begin(narrow, "Content-Length: 100")
    connection.sendall(b"x")
    assert answer(connection)[0] == 408


@pytest.mark.parametrize("start", [b"", b"x"])
def test_a_body_that_stalls_is_refused(model: str, start: bytes) -> None:
    with serving(model=model, stall_seconds=0.3) as served:
        connection = begin(served, "Content-Length: 100")
        status, headers, _ = answer(connection, start)
    assert status == 408
    assert headers["connection"] == "close"


def test_the_rest_of_a_refused_short_body_is_dropped(keyed: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    with begin(keyed, "Content-Length: 100000") as connection:
        assert _answer(connection)[0] == 401
        connection.sendall(b"x" * 100_000 + b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
        assert _answer(connection)[0] == 200, "the connection is kept"
    monkeypatch.setattr("anytag.server.run._IDLE_SECONDS", 0.3)
    with begin(keyed, "Content-Length: 100000") as connection:
        assert _answer(connection)[0] == 401
        connection.sendall(b"x" * 100_000)
        assert connection.recv(1) == b"", "an idle connection is closed"
    monkeypatch.setattr("anytag.server.run._HEADER_SECONDS", 0.3)
    with begin(keyed, "Content-Length: 100000") as connection:
        assert _answer(connection)[0] == 401
        with pytest.raises(OSError):
            for _ in range(200):
                connection.sendall(b"x")
                time.sleep(0.02)


@pytest.mark.parametrize(
    "header",
    ["Content-Length: 300000", "Transfer-Encoding: chunked", "Content-Length: 9\r\nExpect: 100-continue"],
)
def test_a_connection_whose_refused_body_is_not_read_is_closed(keyed: Served, header: str) -> None:
    status, headers, _ = answer(begin(keyed, header))
    assert status == 401
    assert headers["connection"] == "close"


def ask(served: Served, count: int = 20) -> None:
    """Honest requests, which are let in and answered."""
    for _ in range(count):
        response = served.client.post("/v1/tag", content=b"no photo" * 20, headers=EXAMPLE_JPEG)
        assert response.status_code == 422, response.text


def test_uploads_that_stall_take_no_place_of_the_work(model: str) -> None:
    with serving(model=model, max_requests=50) as served, ExitStack() as closing:
        slow = [begin(served, "Content-Length: 60000000") for _ in range(199)]
        for connection in slow:
            closing.enter_context(connection)
            connection.sendall(b"x")
        until(served, "anytag_requests_in_flight 199.0")
        ask(served)


def test_where_places_are_short_an_upload_that_stalls_gives_way(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(model=model, max_requests=2) as served, ExitStack() as closing:
        slow = []
        for count in range(1, 9):  # one by one, so that they arrive in this order
            slow.append(closing.enter_context(begin(served, "Content-Length: 100")))
            until(served, f"anytag_requests_in_flight {count}.0")
        assert answer(begin(served, "Content-Length: 100"))[0] == 429, "none of them is slow yet"
        monkeypatch.setattr("anytag.server.capacity._SLOW_SECONDS", 0)
        for oldest in range(20):
            slow.append(closing.enter_context(begin(served, "Content-Length: 100")))
            assert _answer(slow[oldest])[0] == 408
        ask(served)
        assert _answer(slow[20])[0] == 408
        slow[-1].sendall(b"x" * 100)
        assert _answer(slow[-1])[0] == 422, "the others go on"


def test_an_upload_that_trickles_gives_way_before_one_that_flows(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anytag.server.capacity._SLOW_SECONDS", 0)
    with serving(model=model, max_requests=1) as served, ExitStack() as closing:
        flowing, *trickling = (
            closing.enter_context(begin(served, "Content-Length: 100000")) for _ in range(4)
        )
        until(served, "anytag_requests_in_flight 4.0")
        flowing.sendall(b"x" * 20_000)
        until(served, "anytag_bytes_in_flight 20000.0")
        for connection in trickling:
            connection.sendall(b"x")
        until(served, "anytag_bytes_in_flight 20003.0")
        for _ in trickling:
            closing.enter_context(begin(served, "Content-Length: 100"))
        assert [_answer(connection)[0] for connection in trickling] == [408] * 3
        flowing.sendall(b"x" * 80_000)
        assert _answer(flowing)[0] == 422


def test_bytes_of_an_upload_that_stalls_give_way(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anytag.server.capacity._SLOW_SECONDS", 0)
    with serving(model=model, max_bytes=1000) as served, ExitStack() as closing:
        few, many = (closing.enter_context(begin(served, f"Content-Length: {size}")) for size in (900, 1000))
        until(served, "anytag_requests_in_flight 2.0")  # or the first had to make room for the second
        few.sendall(b"x" * 9)
        many.sendall(b"x" * 890)
        until(served, "anytag_bytes_in_flight 899.0")
        ask(served)
        assert _answer(many)[0] == 408
        until(served, "anytag_bytes_in_flight 9.0")
        few.sendall(b"x" * 891)
        assert _answer(few)[0] == 422


@pytest.mark.parametrize(
    ("sent", "status"), [("Content-Length: 100", 408), ("Transfer-Encoding: chunked", 413)]
)
def test_json_is_refused_as_photos_are(narrow: Served, sent: str, status: int) -> None:
    connection = begin(narrow, sent, path="/api/v1/vision/labels", kind="application/json")
    answered, _, body = answer(connection, b"7e0\r\n" + b" " * 2016 if status == 413 else b"{")
    assert answered == json.loads(body)["code"] == status


def test_what_is_no_http_is_answered_in_json(narrow: Served) -> None:
    for nonsense in (b"nonsense\r\n\r\n", b"GET /\xff HTTP/1.1\r\n\r\n", b"GET http://[ HTTP/1.1\r\n\r\n"):
        status, headers, body = answer(narrow.connect(), nonsense)
        assert (status, headers["connection"]) == (400, "close")
        assert json.loads(body)["error"]["type"] == "http"


def test_slow_headers_close_the_connection(narrow: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anytag.server.run._HEADER_SECONDS", 0.3)
    for start in (b"", b"G", b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nX", b"whole"):
        with narrow.connect() as connection:
            if start == b"whole":  # and a half one on the same connection
                connection.sendall(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                assert _answer(connection)[0] == 200
                start = b"GET /"
            connection.sendall(start)
            assert connection.recv(1) == b"", start
    with narrow.connect() as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert _answer(connection)[0] == 200
        time.sleep(0.5)  # an idle connection that is used again stays
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert _answer(connection)[0] == 200


def test_more_work_than_the_server_takes_is_refused_at_once(model: str) -> None:
    with serving(model=model, max_requests=1) as served, begin(served, "Content-Length: 3") as late:
        until(served, "anytag_requests_in_flight 1.0")
        with at_work(served):
            status, headers, _ = answer(begin(served, "Content-Length: 100"))
            assert status == 429
            assert int(headers["retry-after"]) >= 1
            late.sendall(b"bad")
            assert _answer(late)[0] == 429, "its place was taken while its body came"
            assert served.client.get("/readyz").status_code == 200  # is no photo
        ask(served, count=1)
        begin(served, "Content-Length: 100").close()
        until(served, "anytag_requests_in_flight 0.0")


def test_bytes_in_flight_are_limited(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anytag.server.capacity._SLOW_SECONDS", 60)
    with serving(model=model, max_bytes=1000) as served:
        slow = begin(served, "Content-Length: 900")  # takes the room of what has come of it
        assert answer(begin(served, "Content-Length: 3"), b"bad")[0] == 422
        slow.sendall(b"x" * 899)
        until(served, "anytag_bytes_in_flight 899")
        assert answer(begin(served, "Content-Length: 200"))[0] == 429
        waiting = slow
        assert served.client.post("/v1/tag", content=b"x" * 50, headers=EXAMPLE_JPEG).status_code == 422
        waiting.close()


def test_nothing_is_written_to_the_temporary_folder(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    with serving(model=model) as served:
        files = [("files", ("a", b"x" * (5 << 20)))]
        assert served.client.post("/v1/tag", files=files).status_code == 422


def test_a_request_that_a_stop_cancels_is_told() -> None:
    """uvicorn cancels requests that are not finished some time after the stop signal."""

    async def cancelled(*_: object) -> None:
        raise asyncio.CancelledError

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    settings = Settings()
    timeouts = BodyTimeouts(settings.body_seconds, stall=settings.stall_seconds)
    admission = Admission(cancelled, settings=settings, metrics=Metrics(), timeouts=timeouts)
    scope = {"type": "http", "method": "GET", "path": "/v1/tag", "headers": [(b"host", b"127.0.0.1")]}
    asyncio.run(admission(scope, receive, send))
    assert sent[0]["status"] == 503
    assert json.loads(sent[1]["body"])["error"]["type"] == "stopping"
