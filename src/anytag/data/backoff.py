"""Retry requests after transient errors, with exponential backoff and jitter."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from typing import TypeVar

Out = TypeVar("Out")

ATTEMPTS = 8
_FIRST_DELAY, _MAX_DELAY = 0.5, 60.0  # seconds
_BUSY = re.compile(
    r"SlowDown|reduce your request rate|TooManyRequests|RequestTimeout|InternalError|ServiceUnavailable"
    r"|\b(?:429|500|502|503|504)\b|timed? ?out|[Cc]onnection|[Cc]annot connect|Broken pipe|IncompleteRead",
)
_KINDS = re.compile(r"Timeout|Connection|ServerDisconnected|IncompleteRead|PayloadError")


def is_transient(error: BaseException) -> bool:
    """Whether a request may succeed later; judges the error's first cause, because others quote paths."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, FileNotFoundError | PermissionError):
        return False
    status = getattr(error, "status", None)  # of an HTTP response
    if isinstance(status, int):
        return status in (408, 429) or status >= 500
    return bool(_KINDS.search(type(error).__name__) or _BUSY.search(str(error)))


def with_retries(
    call: Callable[[], Out], *, attempts: int = ATTEMPTS, sleep: Callable[[float], None] = time.sleep
) -> Out:
    """Return the result of `call`, retrying after transient errors with random, increasing delays.

    Raises:
        Exception: the error of the last attempt, or one that is not transient.
    """
    for attempt in range(attempts - 1):
        try:
            return call()
        except Exception as error:
            if not is_transient(error):
                raise
        sleep(random.uniform(0, min(_MAX_DELAY, _FIRST_DELAY * 2**attempt)))
    return call()
