"""What a server refuses for the moment is asked again, later each time and never in step with others."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from typing import TypeVar

Out = TypeVar("Out")

TRIES = 8
_FIRST, _LONGEST = 0.5, 60.0  # seconds
_BUSY = re.compile(
    r"SlowDown|reduce your request rate|TooManyRequests|RequestTimeout|InternalError|ServiceUnavailable"
    r"|\b(?:429|500|502|503|504)\b|timed? ?out|[Cc]onnection|[Cc]annot connect|Broken pipe|IncompleteRead",
)
_KINDS = re.compile(r"Timeout|Connection|ServerDisconnected|IncompleteRead|PayloadError")


def is_transient(error: BaseException) -> bool:
    """May the same request succeed later? What caused an error first is asked: others quote paths."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, FileNotFoundError | PermissionError):
        return False
    status = getattr(error, "status", None)  # of a response of the web
    if isinstance(status, int):
        return status in (408, 429) or status >= 500
    return bool(_KINDS.search(type(error).__name__) or _BUSY.search(str(error)))


def patiently(
    call: Callable[[], Out], *, tries: int = TRIES, sleep: Callable[[float], None] = time.sleep
) -> Out:
    """What `call` gives; after a transient error it is called again, after a random pause of growing bound.

    Raises:
        Exception: the last one of `tries`, or one that is not transient.
    """
    for attempt in range(tries - 1):
        try:
            return call()
        except Exception as error:
            if not is_transient(error):
                raise
        sleep(random.uniform(0, min(_LONGEST, _FIRST * 2**attempt)))
    return call()
