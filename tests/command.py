"""Runs `anytag` for tests: within this process, or as a process of its own where that matters."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from click.testing import CliRunner, Result

import anytag
from anytag.cli import main

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(anytag.__file__).parents[1]), "PYTHONUNBUFFERED": "1"}


def run(*arguments: str | Path, stdin: bytes | None = None) -> Result:
    """The command within this process; an exception that it lets through fails the test."""
    result = CliRunner().invoke(main, [str(one) for one in arguments], input=stdin, prog_name="anytag")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def start(*arguments: str | Path, **options: object) -> subprocess.Popen[bytes]:
    """The command as a process with pipes; `options` as for Popen."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    options = {"env": ENVIRONMENT, **pipes, **options}
    command = [sys.executable, "-m", "anytag", *map(str, arguments)]
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in a script's background work
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return subprocess.Popen(command, **options)  # type: ignore[call-overload,no-any-return]


def on_a_terminal(*arguments: str | Path, stdout: bool = True) -> tuple[int, str, bytes]:
    """Exit code, what a person sees, and what a program on stdout reads where that is no terminal."""
    import pty  # of POSIX

    master, slave = pty.openpty()
    process = start(*arguments, stdin=slave, stderr=slave, stdout=slave if stdout else subprocess.PIPE)
    os.close(slave)
    piped = [b""]
    reader = threading.Thread(target=lambda: piped.append(process.stdout.read() if process.stdout else b""))
    reader.start()
    seen = _all_of(master)
    reader.join(60)
    os.close(master)
    code = process.wait(60)
    if process.stdout:
        process.stdout.close()
    return code, seen.decode().replace("\r\n", "\n"), piped[-1]


def _all_of(terminal: int) -> bytes:
    """All that is written to a pseudo-terminal until its other side is closed."""
    seen = b""
    while True:
        try:
            chunk = os.read(terminal, 65536)
        except OSError:  # Linux says so when the other side is closed
            return seen
        if not chunk:
            return seen
        seen += chunk
