"""Refused requests and their error responses."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import Scope

from anytag.errors import escaped

VISION = "/api/v1/vision"
"""Path prefix of the routes for PhotoPrism."""
_RETRY_SECONDS = 1
_DRAIN_BYTES = 1 << 18
"""A refused body of at most this many bytes is read to its end, to keep the connection."""


class Refusal(Exception):
    """A request that is refused.

    Args:
        status: HTTP status code.
        reason: a short identifier, for metrics and client programs.
        message: the explanation for users.
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message

    def response(self, scope: Scope) -> JSONResponse:
        """The error response."""
        headers = {} if self.status != 408 and _is_short(scope) else {"connection": "close"}
        if self.status == 429:
            headers["retry-after"] = str(_RETRY_SECONDS)
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        body = error_body(scope["path"], self.status, self.reason, self.message)
        return JSONResponse(body, self.status, headers)


def _is_short(scope: Scope) -> bool:
    """Whether reading the rest of the body is cheaper than a new connection."""
    headers = Headers(scope=scope)
    length = headers.get("content-length", "0")
    is_unsure = "transfer-encoding" in headers or "expect" in headers
    return not is_unsure and length.isdigit() and int(length) <= _DRAIN_BYTES


def error_body(path: str, status: int, kind: str, message: str) -> dict[str, object]:
    """The JSON body of an error, in PhotoPrism's own form for its routes."""
    if path.startswith(VISION):
        return {"code": status, "error": escaped(message), "result": {}}
    return {"error": {"type": kind, "message": escaped(message)}}
