"""One kept exiftool process, spoken to over its pipes.

PyExifTool was looked at first. It reads stderr only when stdout has ended, so a file with many warnings stops
both for ever; it waits without a limit; and a line break in an argument is an argument more.
"""

from __future__ import annotations

import atexit
import itertools
import os
import queue
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

from anytag.batching import usable_cores
from anytag.errors import MetadataError, MissingToolError

TIMEOUT = 60.0
"""Seconds that exiftool may take for one command."""

_CHUNK = 1 << 20
_CONFIG = Path(__file__).with_name("exiftool.config")


@dataclass(frozen=True, slots=True)
class Answer:
    """What exiftool said to one command: stdout as it is, stderr line by line."""

    output: bytes
    messages: tuple[str, ...]

    @property
    def error(self) -> str | None:
        """Its first error; None where there is none."""
        return next((plain(line) for line in self.messages if line.startswith("Error: ")), None)


def plain(message: str) -> str:
    """A line of stderr without its kind, and without the name of the file that stands behind it."""
    said = message.removeprefix("Error: ").removeprefix("Warning: ")
    return said.rpartition(" - ")[0] or said


class ExifTool:
    """Starts exiftool when it is first asked, and again after it died. Threads take turns.

    Args:
        command: its name or path.
        timeout: seconds for one command; a process that takes longer is ended.
    """

    def __init__(self, command: str = "exiftool", *, timeout: float = TIMEOUT) -> None:
        self._command, self._timeout = command, timeout
        self._lock = threading.Lock()
        self._process: _Process | None = None

    def run(self, *arguments: str) -> Answer:
        """One command. File names come from `named`, values of tags through `escaped`.

        Raises:
            MissingToolError: exiftool is not installed.
            MetadataError: it ended or took too long: only this command is lost.
        """
        if any("\n" in argument or "\r" in argument or not argument for argument in arguments):
            raise MetadataError(f"exiftool cannot be given {arguments!r}: each is one line, and not empty")
        with self._lock:
            if self._process is None:
                self._process = _Process(find(self._command))
            try:
                return self._process.ask(arguments, self._timeout)
            except BaseException as error:  # the next command must not read what is left of this one
                self._process.kill()
                self._process = None
                if isinstance(error, OSError | queue.Empty):
                    late = isinstance(error, queue.Empty)
                    why = f"took longer than {self._timeout:g} seconds" if late else "ended unexpectedly"
                    raise MetadataError(f"exiftool {why}: it is started again for the next file") from error
                raise

    def close(self) -> None:
        """Ends the process; another command starts a new one."""
        with self._lock:
            if self._process is not None:
                self._process.end()
                self._process = None


_mine = threading.local()
_numbers = itertools.count()


def shared() -> ExifTool:
    """The one of this thread, of as many in this Python process as it has cores."""
    if not hasattr(_mine, "number"):
        _mine.number = next(_numbers) % usable_cores()
    return _numbered(_mine.number)


@cache
def _numbered(_: int) -> ExifTool:
    tool = ExifTool()
    atexit.register(tool.close)
    return tool


def find(command: str = "exiftool") -> str:
    """The path of exiftool.

    Raises:
        MissingToolError: it is not installed; says how to get it.
    """
    if (found := shutil.which(command)) is None:
        raise MissingToolError(
            f"{command} is not installed, and metadata of photos is read and written by it: on "
            "Debian and Ubuntu "
            "`apt install libimage-exiftool-perl`, on macOS `brew install exiftool`, on Windows "
            "`winget install OliverBetz.ExifTool`"
        )
    return found


@contextmanager
def named(path: str | os.PathLike[str]) -> Iterator[str]:
    """A file's name as an argument that is no option and one line, whatever it is called.

    A name with a line break is given as a link of ours: exiftool has an escape for those (`#[CSTR]`), but
    12.57 turns every $ and @ in it into other names.
    """
    name = os.path.abspath(path)  # noqa: PTH100  # takes names of any kind
    if name.isprintable() or not any(character in name for character in "\n\r"):
        yield name
        return
    with tempfile.TemporaryDirectory(prefix="anytag-") as folder:
        link = Path(folder, "photo" + "".join(Path(name).suffix.split()))
        link.symlink_to(name)
        yield os.fspath(link)


def assigned(values: Sequence[tuple[str, str]]) -> list[str]:
    """Arguments that give tags values: of several for one tag, a list; "" takes it out.

    A value of several lines, or that begins with a blank, needs `-E`, which doubles the time of a command.
    """
    if not any(value[:1].isspace() or "\n" in value or "\r" in value for _, value in values):
        return [f"-{tag}={value}" for tag, value in values]
    return ["-E", *(f"-{tag}={_escaped(value)}" for tag, value in values)]


def _escaped(value: str) -> str:
    """A value as `-E` reads it: one line, its first blank kept."""
    plain = value.replace("&", "&amp;")
    return "".join(c if c > " " or c == " " else f"&#{ord(c)};" for c in plain).replace(" ", "&#32;", 1)


class _Process:
    """A running exiftool, and a thread for each pipe: both are read all the time: neither fills up."""

    def __init__(self, path: str) -> None:
        self._running = subprocess.Popen(
            [path, "-config", os.fspath(_CONFIG), "-stay_open", "True", "-@", "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is for whoever started it, and ends it in turn
        )
        assert self._running.stdin and self._running.stdout and self._running.stderr
        self._input = self._running.stdin
        self._output, self._errors = _parts(self._running.stdout), _parts(self._running.stderr)

    def ask(self, arguments: Sequence[str], timeout: float) -> Answer:
        """One command, and all that comes before the marks at the ends of both pipes."""
        number = random.getrandbits(48)
        mark = f"{{ready{number}}}"
        charset = ["-charset", "filename=utf8"] if sys.platform == "win32" else []
        lines = [*charset, *arguments, "-echo4", mark, f"-execute{number}", ""]
        data = memoryview(os.fsencode("\n".join(lines)))
        while data:
            data = data[self._input.write(data) or 0 :]
        deadline = time.monotonic() + timeout
        output = _until(self._output, mark.encode(), deadline)
        messages = _until(self._errors, mark.encode(), deadline)
        return Answer(output, tuple(messages.decode("utf-8", "replace").splitlines()))

    def end(self) -> None:
        """Asks it to end, and ends it if it does not."""
        with suppress(OSError, subprocess.TimeoutExpired):
            self._input.write(b"-stay_open\nFalse\n")
            self._running.wait(5)
        self.kill()

    def kill(self) -> None:
        self._running.kill()
        self._running.wait()
        self._input.close()


def _parts(pipe: IO[bytes]) -> queue.SimpleQueue[bytes]:
    """What comes through a pipe, in parts; an empty one at its end."""
    parts: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def read() -> None:
        with pipe:
            while part := os.read(pipe.fileno(), _CHUNK):
                parts.put(part)
        parts.put(b"")

    threading.Thread(target=read, name="anytag-exiftool", daemon=True).start()
    return parts


def _until(parts: queue.SimpleQueue[bytes], mark: bytes, deadline: float) -> bytes:
    """All up to the line of the mark, without it; what is said after it is forgotten.

    Raises:
        queue.Empty: it is not there at the deadline.
        BrokenPipeError: the process ended.
    """
    found = bytearray()
    while (end := found.find(mark, max(0, len(found) - _CHUNK - len(mark)))) < 0 or b"\n" not in found[end:]:
        part = parts.get(timeout=max(0, deadline - time.monotonic()))
        if not part:
            raise BrokenPipeError("exiftool ended")
        found += part
    return bytes(found[:end])
