"""Requests that are refused: what they are answered."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import Scope

from anytag.errors import escaped

VISION = "/api/v1/vision"
"""Where PhotoPrism asks."""
_RETRY_SECONDS = 1
_SHORT = 1 << 18
"""Bytes of a body that is read to its end although it is refused."""


class Refusal(Exception):
    """A request that is not let in.

    Args:
        status: of HTTP.
        reason: a word, for the metrics and for programs.
        message: for people.
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message

    def response(self, scope: Scope) -> JSONResponse:
        """The answer to a request."""
        headers = {} if self.status != 408 and _is_short(scope) else {"connection": "close"}
        if self.status == 429:
            headers["retry-after"] = str(_RETRY_SECONDS)
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        body = error_body(scope["path"], self.status, self.reason, self.message)
        return JSONResponse(body, self.status, headers)


def _is_short(scope: Scope) -> bool:
    """Whether the rest of a request's body comes and costs less to read than another connection."""
    headers = Headers(scope=scope)
    length = headers.get("content-length", "0")
    is_unsure = "transfer-encoding" in headers or "expect" in headers
    return not is_unsure and length.isdigit() and int(length) <= _SHORT


def error_body(path: str, status: int, kind: str, message: str) -> dict[str, object]:
    """The JSON of every error; PhotoPrism takes no other than its own."""
    if path.startswith(VISION):
        return {"code": status, "error": escaped(message), "result": {}}
    return {"error": {"type": kind, "message": escaped(message)}}
