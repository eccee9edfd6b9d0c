from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.command import ENVIRONMENT, run, start

PHOTO = Path(__file__).resolve().parents[2] / "examples" / "photos" / "cat.jpg"


@contextmanager
def process(*options: str, **environment: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`anytag serve` on a free port, and its address."""
    served = start("serve", "--port", "0", *options, env={**ENVIRONMENT, **environment})
    assert served.stderr is not None
    line = served.stderr.readline().decode()
    address = re.search(r"http://\S+", line)
    assert address, line + served.stderr.read().decode()
    try:
        yield served, address[0]
    finally:
        served.kill()
        served.communicate()


def tag(address: str, **headers: str) -> httpx.Response:
    headers = {"content-type": "image/jpeg", **headers}
    return httpx.post(f"{address}/v1/tag", content=PHOTO.read_bytes(), headers=headers, timeout=30)


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_what_runs_end(sign: signal.Signals) -> None:
    with process() as (served, address):
        answers: list[httpx.Response | httpx.HTTPError] = []
        go_on = threading.Event()
        go_on.set()

        def ask() -> None:
            while go_on.is_set():
                try:
                    answers.append(tag(address))
                except httpx.HTTPError as error:
                    answers.append(error)
                    return

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        while len(answers) < 8:
            pass
        served.send_signal(sign)
        assert served.wait(30) == 0
        go_on.clear()
        for thread in threads:
            thread.join(30)
    good = [one for one in answers if isinstance(one, httpx.Response)]
    assert len(good) >= 8
    assert all(one.status_code == 200 and one.json()["photos"] for one in good)
    # who asked after the end was refused; nobody got half an answer
    assert all(isinstance(one, httpx.ConnectError | httpx.RemoteProtocolError | httpx.ReadError)
               for one in answers if not isinstance(one, httpx.Response))  # fmt: skip


def test_a_stop_does_not_wait_for_an_upload_that_hangs() -> None:
    with process() as (served, address):
        url = httpx.URL(address)
        head = "POST /v1/tag HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/jpeg\r\nContent-Length: "
        photo = PHOTO.read_bytes()
        hanging = [socket.create_connection((url.host, url.port)) for _ in range(3)]
        hanging[0].sendall(f"{head}100\r\n\r\n".encode())
        hanging[1].sendall(head.encode())
        hanging[2].sendall(f"{head}{len(photo)}\r\n\r\n".encode() + photo[:-1])
        in_work = "anytag_requests_in_flight 2"
        while in_work not in httpx.get(f"{address}/metrics").text:
            pass
        served.send_signal(signal.SIGTERM)
        hanging[2].settimeout(15)
        hanging[2].sendall(photo[-1:])  # one that goes on is waited for
        assert hanging[2].recv(100).startswith(b"HTTP/1.1 200")
        hanging[0].settimeout(15)
        assert hanging[0].recv(100).startswith(b"HTTP/1.1 408")
        assert served.wait(15) == 0
        for connection in hanging:
            connection.close()


@pytest.mark.skipif(sys.platform == "win32", reason="has no such limit")
def test_connections_that_say_nothing_are_not_the_end_of_open_files() -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The server inherits the limit of this process, which has files open itself.
    limit = max(int(file.name) for file in Path("/dev/fd").iterdir()) + 80
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        serving = process()
        _, address = serving.__enter__()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with ExitStack() as closing:
        closing.push(serving)
        url = httpx.URL(address)
        for _ in range(2 * limit):
            closing.enter_context(socket.create_connection((url.host, url.port)))
        assert tag(address).status_code == 200


def test_the_key_comes_from_the_environment() -> None:
    with process(ANYTAG_KEY="secret") as (_, address):
        assert tag(address).status_code == 401
        assert tag(address, authorization="Bearer secret").status_code == 200


def test_another_address_needs_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANYTAG_KEY", raising=False)
    result = run("serve", "--host", "0.0.0.0")
    assert result.exit_code == 2
    assert "ANYTAG_KEY" in result.output


def test_a_port_that_is_taken_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = run("serve", "--port", str(taken.getsockname()[1]))
    assert result.exit_code == 2
    assert "try another --host or --port" in result.output


def test_a_library_that_is_not_there_is_told_and_not_created(tmp_path: Path) -> None:
    done = run("serve", "--library", tmp_path / "typo.db", "--port", "0")
    assert done.exit_code == 2 and "There is no library at" in done.stderr
    assert not (tmp_path / "typo.db").exists()


def test_a_model_that_is_not_there_is_told() -> None:
    result = run("serve", "--port", "0", "--model", "no-such-model")
    assert result.exit_code == 2
    assert "no-such-model" in result.output


def test_label_studio_is_served_from_its_folder_alone() -> None:
    choices = '<Choices name="c" toName="i"><Choice value="cat"/></Choices>'
    config = f'<View><Image name="i" value="$i"/>{choices}</View>'
    tasks = [{"data": {"i": f"/data/local-files/?d={name}"}} for name in ("cat.jpg", "../../README.md")]
    with process("--label-studio", str(PHOTO.parent)) as (_, address):
        asked = {"label_config": config, "tasks": tasks}
        answer = httpx.post(f"{address}/label-studio/predict", json=asked, timeout=30).json()
    found, refused = answer["results"]
    assert found["result"][0]["value"] == {"choices": ["cat"]}
    assert refused["error"]["type"] == "ImageError"


def test_a_folder_of_label_studio_that_is_not_there_is_told(tmp_path: Path) -> None:
    result = run("serve", "--label-studio", str(tmp_path / "missing"))
    assert result.exit_code == 2
    assert "missing" in result.output and "does not exist" in result.output
