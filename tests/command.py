"""Runs `anytag` for tests: within this process, or as a process of its own where that matters."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
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
