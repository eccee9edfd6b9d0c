"""A persistent exiftool process (`-stay_open`), controlled through pipes.

PyExifTool is not used: it reads stderr only after stdout, so that many warnings cause a deadlock; it has no
timeout; and a line break in an argument starts another argument.
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
"""Time limit of a command in seconds."""

_CHUNK = 1 << 20
_CONFIG = Path(__file__).with_name("exiftool.config")


@dataclass(frozen=True, slots=True)
class Answer:
    """The output of a command: stdout, and the lines of stderr."""

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
    """Runs commands in one exiftool process, which is started on demand, also after a crash; thread-safe.

    Args:
        command: name or path of exiftool.
        timeout: time limit of a command in seconds, after which the process is killed.
    """

    def __init__(self, command: str = "exiftool", *, timeout: float = TIMEOUT) -> None:
        self._command, self._timeout = command, timeout
        self._lock = threading.Lock()
        self._process: _Process | None = None

    def run(self, *arguments: str) -> Answer:
        """Run a command. File names must come from `named`, assignments from `assigned`.

        Raises:
            MissingToolError: exiftool is not installed.
            MetadataError: the process ended or timed out; the next command starts a new one.
        """
        if any("\n" in argument or "\r" in argument or not argument for argument in arguments):
            raise MetadataError(
                f"invalid arguments for exiftool {arguments!r}: each must be one line, not empty"
            )
        with self._lock:
            process = self._process or _Process(find(self._command))
            self._process = None  # after an error the next command must not read the rest of this output
            try:
                answer = process.ask(arguments, self._timeout)
            except OSError as error:
                raise _restarted(f"ended unexpectedly ({process.ending()})") from error
            except queue.Empty as error:
                process.kill()
                raise _restarted(f"took longer than {self._timeout:g} seconds") from error
            except BaseException:
                process.kill()
                raise
            self._process = process
            return answer

    def close(self) -> None:
        """Stop the process; the next command starts a new one."""
        with self._lock:
            if self._process is not None:
                self._process.end()
                self._process = None


def _restarted(reason: str) -> MetadataError:
    return MetadataError(f"exiftool {reason}: it is restarted for the next file")


_mine = threading.local()
_numbers = itertools.count()


def shared() -> ExifTool:
    """The instance for this thread, from a pool of one per usable core."""
    if not hasattr(_mine, "number"):
        _mine.number = next(_numbers) % usable_cores()
    return _numbered(_mine.number)


@cache
def _numbered(_: int) -> ExifTool:
    tool = ExifTool()
    atexit.register(tool.close)
    return tool


def find(command: str = "exiftool") -> str:
    """Find the path of exiftool.

    Raises:
        MissingToolError: it is not installed; the message says how to install it.
    """
    if (found := shutil.which(command)) is None:
        raise MissingToolError(
            f"{command} is not installed, but is needed for metadata: on Debian and Ubuntu "
            "`apt install libimage-exiftool-perl`, on macOS `brew install exiftool`, on Windows "
            "`winget install OliverBetz.ExifTool`"
        )
    return found


@contextmanager
def named(path: str | os.PathLike[str]) -> Iterator[str]:
    """A file's path as an argument: absolute, so that it is not an option, and in one line.

    A path with a line break is passed as a temporary symbolic link, since exiftool's escape for them
    (`#[CSTR]`) changes every $ and @ in version 12.57.
    """
    name = os.path.abspath(path)  # noqa: PTH100  # accepts any bytes
    if name.isprintable() or not any(character in name for character in "\n\r"):
        yield name
        return
    with tempfile.TemporaryDirectory(prefix="anytag-") as folder:
        link = Path(folder, "photo" + "".join(Path(name).suffix.split()))
        link.symlink_to(name)
        yield os.fspath(link)


def assigned(values: Sequence[tuple[str, str]]) -> list[str]:
    """Arguments that assign values to tags: several of one tag are a list; "" deletes it.

    Values with several lines or leading spaces need `-E`, which doubles the time of a command.
    """
    if not any(value[:1].isspace() or "\n" in value or "\r" in value for _, value in values):
        return [f"-{tag}={value}" for tag, value in values]
    return ["-E", *(f"-{tag}={_escaped(value)}" for tag, value in values)]


def _escaped(value: str) -> str:
    """Escape a value for `-E`: in one line, with its leading space kept."""
    plain = value.replace("&", "&amp;")
    return "".join(c if c > " " or c == " " else f"&#{ord(c)};" for c in plain).replace(" ", "&#32;", 1)


class _Process:
    """A running exiftool, with a thread that continuously reads each pipe, so that neither fills up."""

    def __init__(self, path: str) -> None:
        self._running = subprocess.Popen(
            [path, "-config", os.fspath(_CONFIG), "-stay_open", "True", "-@", "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # Ctrl-C must reach only the parent, which then stops it
        )
        assert self._running.stdin and self._running.stdout and self._running.stderr
        self._input = self._running.stdin
        self._output, self._errors = _parts(self._running.stdout), _parts(self._running.stderr)

    def ask(self, arguments: Sequence[str], timeout: float) -> Answer:
        """Run a command, and read both pipes up to the end marks."""
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
        """Stop it gracefully, or kill it after 5 seconds."""
        with suppress(OSError, subprocess.TimeoutExpired):
            self._input.write(b"-stay_open\nFalse\n")
            self._running.wait(5)
        self.kill()

    def ending(self) -> str:
        """Wait for the end; return the signal or exit status, and the last line of stderr."""
        with suppress(subprocess.TimeoutExpired):  # its pipes are closed a little earlier
            self._running.wait(5)
        self.kill()
        errors = b""
        with suppress(queue.Empty):
            while part := self._errors.get(timeout=1):
                errors += part
        code = self._running.returncode
        how = f"signal {-code}" if code < 0 else f"exit status {code}"
        return ": ".join([how, *errors.decode("utf-8", "replace").splitlines()[-1:]])

    def kill(self) -> None:
        self._running.kill()
        self._running.wait()
        self._input.close()


def _parts(pipe: IO[bytes]) -> queue.SimpleQueue[bytes]:
    """A queue of the chunks of a pipe; an empty one at its end."""
    parts: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def read() -> None:
        with pipe:
            while part := os.read(pipe.fileno(), _CHUNK):
                parts.put(part)
        parts.put(b"")

    threading.Thread(target=read, name="anytag-exiftool", daemon=True).start()
    return parts


def _until(parts: queue.SimpleQueue[bytes], mark: bytes, deadline: float) -> bytes:
    """Read up to the line of the mark, exclusive; the rest of the last chunk is dropped.

    Raises:
        queue.Empty: the deadline passed.
        BrokenPipeError: the process ended.
    """
    found = bytearray()
    while (end := found.find(mark, max(0, len(found) - _CHUNK - len(mark)))) < 0 or b"\n" not in found[end:]:
        part = parts.get(timeout=max(0, deadline - time.monotonic()))
        if not part:
            raise BrokenPipeError("exiftool ended")
        found += part
    return bytes(found[:end])
