"""Client for a language model at an OpenAI-compatible endpoint, with rate limit and retries."""

from __future__ import annotations

import email.utils
import math
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from anytag.errors import EndpointError, MissingExtraError, NoAnswerError

KEY_VARIABLE = "OPENAI_API_KEY"
MAX_FAILURES, MAX_SILENCE = 5, 5.0
"""After this many consecutive failures and seconds without a response, an endpoint counts as down."""
MAX_RETRY_AFTER = 300.0
"""Maximum delay in seconds that an endpoint may request."""
_TRANSIENT = frozenset({408, 409, 425, 429})


class RateLimiter:
    """Schedules requests: evenly spaced, and not before the endpoint allows.

    Args:
        per_minute: requests per minute, over all threads; None is no limit.
    """

    def __init__(self, per_minute: float | None = None) -> None:
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._next = 0.0
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def acquire(self) -> bool:
        """Wait until this request may start; False if the limiter is closed."""
        while not self._closed.is_set():
            with self._lock:
                now = time.monotonic()
                if (left := self._next - now) <= 0:
                    self._next = now + self._gap
                    return True
            self._closed.wait(left)
        return False

    def delay_all(self, seconds: float) -> None:
        """Delay all further requests."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)

    def delay_thread(self, seconds: float) -> None:
        """Wait in the calling thread, at most until the limiter is closed."""
        self._closed.wait(seconds)

    def close(self) -> None:
        """Start no further requests."""
        self._closed.set()


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters; the defaults are those of RAM++ (Huang et al., 2023)."""

    model: str
    temperature: float = 0.99
    max_tokens: int = 77


class Endpoint:
    """A chat model at an OpenAI-compatible endpoint. Thread-safe.

    Args:
        base_url: as in the endpoint's documentation, usually ending in /v1.
        sampling: the model's name and sampling parameters.
        per_minute: maximum requests per minute; None is no limit.
        timeout: of a request, in seconds.
        attempts: maximum number of requests for one answer.
        backoff: delay in seconds before the second attempt, doubled for each further one.
        key_variable: environment variable with the API key. Local endpoints usually need none.

    Raises:
        MissingExtraError: the client is not installed.
    """

    def __init__(
        self,
        base_url: str,
        sampling: Sampling,
        *,
        per_minute: float | None = None,
        timeout: float = 60.0,
        attempts: int = 6,
        backoff: float = 1.0,
        key_variable: str = KEY_VARIABLE,
    ) -> None:
        try:
            import openai
        except ImportError as error:
            raise MissingExtraError("using a language model", "llm") from error
        self.base_url, self.sampling, self.key_variable = base_url, sampling, key_variable
        self._attempts, self._backoff = attempts, backoff
        self._limiter = RateLimiter(per_minute)
        self._lock = threading.Lock()
        self._failures = 0
        self._last_response: float | None = None
        self._started = time.monotonic()
        # retries are ours, because a delay requested from one thread applies to all
        self._client = openai.OpenAI(
            base_url=base_url,
            api_key=os.environ.get(key_variable) or "none",
            max_retries=0,
            timeout=timeout,
        )

    def answer(self, prompt: str, *, read: Callable[[str], str] = str) -> str:
        """Return one answer, with normalised whitespace.

        Args:
            prompt: the question.
            read: extracts the result from an answer, or returns "" to reject it; then it is requested again.

        Raises:
            NoAnswerError: no attempt returned an acceptable answer; other requests may succeed.
            EndpointError: the endpoint refuses or is not reachable: wrong key, model or address, or the
                server is down. No further request can succeed.
        """
        reason = "stopped before the request"
        for attempt in range(self._attempts):
            if not self._limiter.acquire():
                break
            reason, reply = self._attempt(prompt, min(self._backoff * 2**attempt, MAX_RETRY_AFTER))
            if text := read(reply) if reply else "":
                return text
            reason = f"a rejected answer: {reply[:80]!r}" if reply else reason
        raise NoAnswerError(f"no answer to {prompt!r} in {self._attempts} attempts ({reason})")

    def close(self) -> None:
        """Start no further requests; running ones finish by themselves."""
        self._limiter.close()

    def _attempt(self, prompt: str, delay: float) -> tuple[str, str]:
        """Return an error and "", or the answer. Delays the next attempt, and after a 429 all requests."""
        import openai

        try:
            response = self._client.chat.completions.create(
                model=self.sampling.model,
                messages=[{"role": "user", "content": prompt}],
                temperature=self.sampling.temperature,
                max_tokens=self.sampling.max_tokens,
            )
            self._record_response()
            if not (text := _text(response)):
                self._limiter.delay_thread(delay)
            return "an answer without text", text
        except openai.APIStatusError as error:
            self._check(error)
            if error.status_code >= 500:
                self._record_failure(f"status {error.status_code}: {_brief(error)}")
            else:
                self._record_response()
            self._limiter.delay_all(_requested_delay(error) or delay)  # at most MAX_RETRY_AFTER: see `_check`
            return f"status {error.status_code}", ""
        except openai.APIConnectionError as error:  # includes timeouts
            self._record_failure(_why(error), refused=_is_refused(error))
            self._limiter.delay_thread(delay)
            return _why(error), ""
        # not a valid response of a chat model
        except (openai.APIError, ValueError, TypeError, LookupError, AttributeError) as error:
            self._limiter.delay_thread(delay)
            return str(error) or type(error).__name__, ""

    def _record_response(self) -> None:
        with self._lock:
            self._failures, self._last_response = 0, time.monotonic()

    def _record_failure(self, why: str, *, refused: bool = False) -> None:
        """Count a request without a response.

        Raises:
            EndpointError: the endpoint was never reachable, or there were too many consecutive failures.
        """
        with self._lock:
            self._failures += 1
            failures = self._failures
            silence = time.monotonic() - (self._last_response or self._started)
            never = self._last_response is None
        if refused and never:
            raise EndpointError(
                f"{self.base_url} is not reachable ({why}); check the address and that the server is running"
            )
        if failures >= MAX_FAILURES and silence >= MAX_SILENCE:
            raise EndpointError(
                f"{self.base_url} has not answered {failures} requests in a row ({why}); repeat the command "
                "later, with a longer --timeout if the endpoint is slow"
            )

    def _check(self, error: Any) -> None:
        """Raise EndpointError unless the same request may succeed later."""
        status = int(error.status_code)
        wait = _requested_delay(error)
        if wait is not None and wait > MAX_RETRY_AFTER:
            raise EndpointError(
                f"{self.base_url} asks to wait {wait:.0f} s (status {status}); repeat the command later"
            )
        if status < 500 and status not in _TRANSIENT:
            key = "is set" if os.environ.get(self.key_variable) else "is not set"
            raise EndpointError(
                f"{self.base_url} refuses (status {status}: {_brief(error)}); check the address, --model "
                f"{self.sampling.model!r} and the key: the environment variable {self.key_variable} {key}"
            )


def _text(response: Any) -> str:
    """The text of a chat model's response; "" if there is none."""
    choices = getattr(response, "choices", None) or []
    content = choices[0].message.content if choices and getattr(choices[0], "message", None) else None
    return " ".join(content.split()) if isinstance(content, str) else ""


def _requested_delay(error: Any) -> float | None:
    """Seconds from a Retry-After header, which contains seconds or a date."""
    header = error.response.headers.get("retry-after")
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(header).timestamp() - time.time()
        except (ValueError, TypeError):
            return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def _is_refused(error: BaseException) -> bool:
    """Whether no connection could be established: connection refused, or unknown host."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConnectionRefusedError | socket.gaierror):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _why(error: BaseException) -> str:
    return str(error.__cause__ or error) or type(error).__name__


def _brief(error: Any) -> str:
    return " ".join(str(error).split())[:200]
