"""A server on this machine that answers as the Hugging Face Hub does: files, hashes, ranges, commits."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

COMMIT = "c0ffee" + "0" * 34


@dataclass
class Hub:
    """What the server has, does wrong, and has seen.

    Attributes:
        files: by path below the root.
        breaks: path -> bytes after which the connection ends; each is used once.
        etags: path -> a hash to tell instead of the true one.
        sizes: path -> a size to tell instead of the true one.
        refused: paths that answer GET with an error of the server.
        errors: path -> statuses that GET answers with first; each is used once.
        down: paths that answer HEAD with an error of the server.
        elsewhere: path -> the address that GET is sent to.
        whole: answer every GET with the whole file, whatever part of it was asked for.
        asked: method, path, Range and Authorization of every request.
        commits: files of each commit, by name.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    breaks: dict[str, list[int]] = field(default_factory=dict)
    etags: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    errors: dict[str, list[int]] = field(default_factory=dict)
    down: set[str] = field(default_factory=set)
    elsewhere: dict[str, str] = field(default_factory=dict)
    whole: bool = False
    asked: list[tuple[str, str, str | None, str | None]] = field(default_factory=list)
    commits: list[dict[str, bytes]] = field(default_factory=list)
    url: str = ""

    def put(self, base: str, files: Mapping[str, bytes]) -> None:
        """Files below a path."""
        self.files |= {f"{base}/{name}": content for name, content in files.items()}

    def etag(self, path: str) -> str:
        """sha256 of a large file, git's hash of a small one."""
        content = self.files[path]
        large = path.endswith((".pth", ".safetensors", ".onnx"))
        blob = b"blob %d\0" % len(content) + content
        true = hashlib.sha256(content).hexdigest() if large else hashlib.sha1(blob).hexdigest()
        return self.etags.get(path, true)

    def ranges(self, path: str) -> list[str | None]:
        """The Range of each GET of a file."""
        return [asked for method, at, asked, _ in self.asked if (method, at) == ("GET", path)]


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub on a free port of 127.0.0.1."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        path = self._path()
        if path not in self.hub.files:
            return self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        if path in self.hub.down:
            return self._answer(500, b"")
        size = self.hub.sizes.get(path, len(self.hub.files[path]))
        self._answer(200, b"", {**self._facts(path), "Content-Length": str(size)})

    def do_GET(self) -> None:
        path = self._path()
        if path not in self.hub.files:
            return self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        if path in self.hub.refused:
            return self._answer(500, b"")
        if errors := self.hub.errors.get(path):
            return self._answer(errors.pop(0), b"")
        if path in self.hub.elsewhere:
            return self._answer(302, b"", {"Location": self.hub.elsewhere[path]})
        content = self.hub.files[path]
        start = int((self.headers["Range"] or "bytes=0-")[len("bytes=") :].rstrip("-"))
        start = 0 if self.hub.whole else start
        facts = self._facts(path) | {"Content-Length": str(len(content) - start)}
        if start:
            facts["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        breaks = self.hub.breaks.get(path)
        if breaks:
            content = content[: breaks.pop(0)]
            self.close_connection = True
        self._answer(206 if start else 200, content[start:], facts)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = self._path()
        if path == "api/repos/create":
            asked = json.loads(body)
            return self._json({"url": f"{self.hub.url}/{asked['organization']}/{asked['name']}"})
        if path == "api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if "/preupload/" in path:
            files = [
                {**file, "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]
            ]
            return self._json({"files": files})
        rows: list[dict[str, Any]] = [json.loads(line) for line in body.splitlines()]
        files = [row["value"] for row in rows if row["key"] == "file"]
        self.hub.commits.append({file["path"]: base64.b64decode(file["content"]) for file in files})
        repository = "/".join(path.split("/")[2:4])
        self._json({"commitUrl": f"{self.hub.url}/{repository}/commit/{COMMIT}", "commitOid": COMMIT})

    def _path(self) -> str:
        path = self.path.lstrip("/")
        self.hub.asked.append((self.command, path, self.headers["Range"], self.headers["Authorization"]))
        return path

    def _facts(self, path: str) -> dict[str, str]:
        return {"ETag": f'"{self.hub.etag(path)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}

    def _json(self, data: object) -> None:
        self._answer(200, json.dumps(data).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
