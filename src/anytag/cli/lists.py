"""Lists that users type or keep in files: tags between commas, tags a line, paths a line."""

from __future__ import annotations

import codecs
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from anytag.errors import VocabularyError, brief

if TYPE_CHECKING:
    from anytag.queries.requests import CustomTag

_CHUNK = 1 << 16
_PART = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^",\s][^,]*)?)\s*(,|$)')
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def between_commas(values: Iterable[str], option: str, *, described: bool = False) -> list[str] | None:
    """The tags of a repeated option, each value a list between commas; None where it was not given.

    As in CSV a part in double quotes may hold commas, and a double quote is doubled there.

    Args:
        values: what was given, once for each time.
        option: its name, for messages.
        described: parts may be "name: description"; a comma behind an unquoted one is refused, since it may
            belong to the description.

    Raises:
        click.UsageError: a quote is not closed, such a comma, or no tag where one is needed.
    """
    lists = [_parts(decoded(value), option, described=described) for value in values]
    found = [part for parts in lists for part in parts]
    if lists and described and not found:
        raise click.UsageError(
            f"{option} asks for no tag: expected names between commas, as in {option} dog,cat"
        )
    return found if lists else None


def _parts(value: str, option: str, *, described: bool) -> Iterator[str]:
    place = 0
    while place < len(value):
        found = _PART.match(value, place)
        if found is None:
            raise click.UsageError(
                f"{option} {brief(value)}: a double quote opens a tag and does not close it. "
                'Close it before the comma, and write a double quote within as "".'
            )
        quoted, plain, _ = found.groups()
        place = found.end()
        if described and ":" in (plain or "") and value[place:].strip(" ,"):
            raise click.UsageError(_two_readings(value, option))
        if part := (quoted.replace('""', '"') if quoted is not None else plain or "").strip():
            yield part


def _two_readings(value: str, option: str) -> str:
    return (
        f"{option} {brief(value)}: does the comma end the description or belong to it? "
        f"To end it, give the next tag another {option}. To keep it, put double quotes around "
        f"the tag and its description: {option} '\"name: a tall tower, with red walls\"'."
    )


def decoded(text: str) -> str:
    """UTF-8 that Python took for another encoding, under LC_ALL=POSIX say, as what was typed."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return os.fsencode(text).decode(errors="replace")


def tags(path: Path, option: str) -> list[CustomTag]:
    """The tags of a file, one a line; empty lines and those that begin with # are comments.

    Raises:
        click.UsageError: the file cannot be read, holds no tags, or a line is none.
    """
    from anytag.queries.requests import parse_custom_tag

    try:
        text = _text(path.read_bytes())
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{option} {path}: cannot be read as UTF-8 text ({error}).") from error
    found = []
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                found.append(parse_custom_tag(line))
            except VocabularyError as error:
                raise click.UsageError(f"{option} {path}, line {number}: {error}") from error
    if not found:
        raise click.UsageError(f"{option} {path}: holds no tags; expected one a line.")
    return found


def stdin() -> Iterator[bytes]:
    """What has come on stdin, each time.

    Without Python's buffer, whose lock a thread that waits for more would hold when the program ends.

    Raises:
        click.UsageError: there is no stdin.
    """
    if sys.stdin is None:
        raise click.UsageError("- reads paths from stdin, which is closed: name photos, or use --files-from.")
    read: Callable[[int], bytes]
    try:
        read = partial(os.read, sys.stdin.fileno())
    except (OSError, ValueError):  # no file, as in tests
        read = sys.stdin.buffer.read
    return iter(partial(read, _CHUNK), b"")


def file(path: Path) -> Iterator[bytes]:
    """What a file holds, in pieces.

    Raises:
        click.UsageError: it cannot be read.
    """
    try:
        with path.open("rb") as opened:
            yield from iter(partial(opened.read, _CHUNK), b"")
    except OSError as error:
        raise click.UsageError(f"{path} cannot be read: {error.strerror}.") from error


def paths(chunks: Iterator[bytes], *, null: bool) -> Iterator[str]:
    """The paths of a list, each as soon as its end is there; empty ones are left out.

    A file name is bytes: in a list without a byte order mark they are taken as they are.

    Args:
        chunks: the list, in pieces of any size.
        null: paths end with NUL; else with a line break, LF or CRLF.

    Raises:
        click.UsageError: NUL where none is expected, or broken UTF-16.
    """
    end = b"\0" if null else b"\n"
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= 4 or head.endswith(end):
            break
    encoding, skipped = _encoding(head, has_nul=null)
    lines = _lines(_recoded(head[skipped:], chunks, encoding), end)
    for line in lines:
        if b"\0" in line:
            raise click.UsageError("The list of paths holds NUL characters: add --null.")
        if path := line if null else line.rstrip(b"\r"):
            yield path.decode() if encoding != "utf-8" else os.fsdecode(path)


def _recoded(head: bytes, chunks: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    if encoding == "utf-8":  # bytes of names, whatever they mean
        yield head
        yield from chunks
        return
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        yield decoder.decode(head).encode()
        for chunk in chunks:
            yield decoder.decode(chunk).encode()
        yield decoder.decode(b"", final=True).encode()
    except UnicodeError as error:
        raise click.UsageError(f"The list of paths is broken UTF-16 ({error}).") from error


def _lines(chunks: Iterable[bytes], end: bytes) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(end)
        yield from whole
    yield rest


def _text(data: bytes) -> str:
    encoding, skipped = _encoding(data)
    return data[skipped:].decode(encoding)


def _encoding(head: bytes, *, has_nul: bool = False) -> tuple[str, int]:
    """The encoding that the first bytes of a text show, and how many of them are a byte order mark.

    Without a mark, a text whose every other byte is NUL is UTF-16, as Windows programs write it, unless it
    `has_nul` for another reason.
    """
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name, len(mark)
    if len(head) < 4 or has_nul:
        return "utf-8", 0
    if head[0] and head[2] and not head[1] and not head[3]:
        return "utf-16-le", 0
    if head[1] and head[3] and not head[0] and not head[2]:
        return "utf-16-be", 0
    return "utf-8", 0
