"""Questions to a language model behind any OpenAI-compatible endpoint: paced, tried again, given up on."""

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
LOST, SILENT = 5, 5.0
"""After so many failures in a row and so many seconds without an answer, an endpoint is taken for gone."""
LONGEST_HOLD = 300.0
"""Seconds: an endpoint that asks us to wait longer is not waited for."""
_TRANSIENT = frozenset({408, 409, 425, 429})


class Gate:
    """When the next request may start: evenly spaced, and not before the endpoint wants one.

    Args:
        per_minute: requests a minute, over all threads; no limit when None.
    """

    def __init__(self, per_minute: float | None = None) -> None:
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._next = 0.0
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def enter(self) -> bool:
        """Waits for this request's turn; False once the gate is closed."""
        with self._lock:
            turn = max(time.monotonic(), self._next)
            self._next = turn + self._gap
        while not self._closed.is_set() and (left := turn - time.monotonic()) > 0:
            self._closed.wait(left)
        return not self._closed.is_set()

    def hold(self, seconds: float) -> None:
        """Lets nobody start for so long."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)

    def pause(self, seconds: float) -> None:
        """Waits in the calling thread alone, at most until the gate closes."""
        self._closed.wait(seconds)

    def close(self) -> None:
        """Lets nobody start any more."""
        self._closed.set()


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn; RAM++'s own (Huang et al., 2023) by default."""

    model: str
    temperature: float = 0.99
    max_tokens: int = 77


class Endpoint:
    """A chat model behind an OpenAI-compatible address. Safe to use from several threads.

    Args:
        base_url: as the endpoint's own manual has it, mostly ending in /v1.
        sampling: the model's name and how it draws answers.
        per_minute: requests a minute at most; no limit when None.
        timeout: seconds until a request counts as lost.
        attempts: requests for one answer before it is given up.
        backoff: seconds before the second attempt; doubled for each further one.
        key_variable: the environment variable that holds the key. Endpoints at home mostly need none.

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
            raise MissingExtraError("asking a language model", "llm") from error
        self.base_url, self.sampling, self.key_variable = base_url, sampling, key_variable
        self._attempts, self._backoff = attempts, backoff
        self._gate = Gate(per_minute)
        self._lock = threading.Lock()
        self._lost = 0
        self._heard: float | None = None  # when it answered last
        self._began = time.monotonic()
        # our own retries: the pause that one thread is told to make holds for all
        self._client = openai.OpenAI(
            base_url=base_url,
            api_key=os.environ.get(key_variable) or "none",
            max_retries=0,
            timeout=timeout,
        )

    def answer(self, prompt: str, *, read: Callable[[str], str] = str) -> str:
        """One answer, its white space as single spaces.

        Args:
            prompt: the question.
            read: makes an answer what is wanted of it, or "" where it is none; then it is asked again.

        Raises:
            NoAnswerError: no attempt gave a text; others may.
            EndpointError: the endpoint refuses, or nobody listens there: a wrong key, model or address, or a
                server that has gone. All is lost with it.
        """
        reason = "stopped before it was asked"
        for attempt in range(self._attempts):
            if not self._gate.enter():
                break
            reason, reply = self._attempt(prompt, self._backoff * 2**attempt)
            if text := read(reply) if reply else "":
                return text
            reason = f"an answer that is none: {reply[:80]!r}" if reply else reason
        raise NoAnswerError(f"no answer to {prompt!r} in {self._attempts} attempts ({reason})")

    def close(self) -> None:
        """Starts no further request; those under way end by themselves."""
        self._gate.close()

    def _attempt(self, prompt: str, delay: float) -> tuple[str, str]:
        """Why there is no answer, and the answer or "". The next attempt waits, and after a 429 all do."""
        import openai

        try:
            response = self._client.chat.completions.create(
                model=self.sampling.model,
                messages=[{"role": "user", "content": prompt}],
                temperature=self.sampling.temperature,
                max_tokens=self.sampling.max_tokens,
            )
            self._is_there()
            return "an answer without text", _text(response)
        except openai.APIStatusError as error:
            self._check(error)
            if error.status_code >= 500:
                self._is_lost(f"status {error.status_code}: {_brief(error)}")
            else:
                self._is_there()
            self._gate.hold(min(_requested_delay(error) or delay, LONGEST_HOLD))
            return f"status {error.status_code}", ""
        except openai.APIConnectionError as error:  # which a request that took too long is, too
            self._is_lost(_why(error), refused=_is_refused(error))
            self._gate.pause(min(delay, LONGEST_HOLD))
            return _why(error), ""
        except (openai.APIError, ValueError, TypeError) as error:  # not what a chat model answers
            self._gate.pause(min(delay, LONGEST_HOLD))
            return str(error) or type(error).__name__, ""

    def _is_there(self) -> None:
        with self._lock:
            self._lost, self._heard = 0, time.monotonic()

    def _is_lost(self, why: str, *, refused: bool = False) -> None:
        """Counts a request that nobody answered.

        Raises:
            EndpointError: nobody listens from the first request on, or too many were lost in a row.
        """
        with self._lock:
            self._lost += 1
            lost, silent = self._lost, time.monotonic() - (self._heard or self._began)
            never = self._heard is None
        if refused and never:
            raise EndpointError(
                f"nobody answers at {self.base_url} ({why}); check the address and that the server runs"
            )
        if lost >= LOST and silent >= SILENT:
            raise EndpointError(
                f"{self.base_url} has not answered {lost} requests in a row ({why}); run the same "
                "command again when it does, with a longer --timeout if it is slow"
            )

    def _check(self, error: Any) -> None:
        """Raises EndpointError unless the same request may do better later."""
        status = int(error.status_code)
        wait = _requested_delay(error)
        if wait is not None and wait > LONGEST_HOLD:
            raise EndpointError(
                f"{self.base_url} asks to wait {wait:.0f} s (status {status}); run the same command later"
            )
        if status < 500 and status not in _TRANSIENT:
            key = "is set" if os.environ.get(self.key_variable) else "is not set"
            raise EndpointError(
                f"{self.base_url} refuses (status {status}: {_brief(error)}); check the address, --model "
                f"{self.sampling.model!r} and the key: the environment variable {self.key_variable} {key}"
            )


def _text(response: Any) -> str:
    """What a chat model said; "" where the response holds nothing like it."""
    choices = getattr(response, "choices", None) or []
    content = choices[0].message.content if choices and getattr(choices[0], "message", None) else None
    return " ".join(content.split()) if isinstance(content, str) else ""


def _requested_delay(error: Any) -> float | None:
    """Seconds of a Retry-After header, which holds seconds or a date."""
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
    """Whether no connection came about: nobody listens, or the name is not known."""
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
