"""A chat model at home: an OpenAI-compatible server on 127.0.0.1 that also misbehaves when told to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Fault = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Chat:
    """What the server was asked, and what it does wrong: `faults` are used up from the front, one each."""

    url: str = ""
    faults: list[Fault] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def prompts(self) -> list[str]:
        return [request["messages"][-1]["content"] for request in self.asked]

    def take(self, body: dict[str, Any], key: str) -> Fault | None:
        with self.lock:
            self.asked.append(body)
            self.times.append(time.monotonic())
            self.keys.append(key)
            return self.faults.pop(0) if self.faults else None


def send(handler: BaseHTTPRequestHandler, status: int, body: str, **headers: str) -> None:
    raw = body.encode()
    handler.send_response(status)
    for name, value in {"Content-Type": "application/json", **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(raw)))
    handler.end_headers()
    handler.wfile.write(raw)


def says(text: Any) -> Fault:
    """A chat completion with this content."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    return lambda handler: send(handler, 200, json.dumps(body))


def status(code: int, **headers: str) -> Fault:
    return lambda handler: send(handler, code, '{"error": {"message": "no"}}', **headers)


def body(text: str, **headers: str) -> Fault:
    """Anything else, with status 200."""
    return lambda handler: send(handler, 200, text, **headers)


def closes(handler: BaseHTTPRequestHandler) -> None:
    """No answer at all."""
    handler.close_connection = True
    handler.connection.close()


def hangs(handler: BaseHTTPRequestHandler) -> None:
    """An answer that never comes, as far as a client waits."""
    time.sleep(1.0)
    closes(handler)


@contextmanager
def chat_server() -> Iterator[Chat]:
    """The server, for as long as the block runs; it answers "answer N to PROMPT"."""
    chat = Chat()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            fault = chat.take(asked, self.headers.get("Authorization", ""))
            prompt = asked["messages"][-1]["content"]
            (fault or says(f"answer {len(chat.asked)}  to\n{prompt.rstrip('?')}"))(self)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # clients that went away

    server = Server(("127.0.0.1", 0), Handler)
    chat.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield chat
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
