"""Parse lists of users: tags separated by commas, and files with a tag or a path per line."""

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
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def split_commas(values: Iterable[str], option: str, *, described: bool = False) -> list[str] | None:
    """Split the values of a repeatable option at commas; None if it was not given.

    As in CSV, a part in double quotes may contain commas, and doubled double quotes.

    Args:
        values: the values of the option.
        option: its name, for messages.
        described: parts may be "name: description", and one tag is required; a comma after an unquoted
            description is refused, since it may belong to the description.

    Raises:
        click.UsageError: an unclosed quote, such a comma, or no tag where one is required.
    """
    lists = [_parts(decoded(value), option, described=described) for value in values]
    found = [part for parts in lists for part in parts]
    if lists and described and not found:
        raise click.UsageError(
            f"{option} has no tags: expected names separated by commas, as in {option} dog,cat"
        )
    return found if lists else None


def _parts(value: str, option: str, *, described: bool) -> Iterator[str]:
    place = 0
    while place < len(value):
        found = _PART.match(value, place)
        if found is None:
            raise click.UsageError(
                f"{option} {brief(value)}: a double quote is not closed. "
                'Close it before the comma, and write a double quote inside as "".'
            )
        quoted, plain, _ = found.groups()
        place = found.end()
        if described and ":" in (plain or "") and value[place:].strip(" ,"):
            raise click.UsageError(_ambiguous_comma(value, option))
        if part := (quoted.replace('""', '"') if quoted is not None else plain or "").strip():
            yield part


def _ambiguous_comma(value: str, option: str) -> str:
    return (
        f"{option} {brief(value)}: does the comma end the description or belong to it? "
        f"To end it, give the next tag another {option}. To keep it, put double quotes around "
        f"the tag and its description: {option} '\"name: a tall tower, with red walls\"'."
    )


def decoded(text: str) -> str:
    """Recover UTF-8 arguments that Python decoded with another encoding, as under LC_ALL=POSIX."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return os.fsencode(text).decode(errors="replace")


def tags(path: Path, option: str) -> list[CustomTag]:
    """The tags of a file, one per line; empty lines and those that begin with # are ignored.

    Raises:
        click.UsageError: the file cannot be read, has no tags, or a line is not a valid tag.
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
        raise click.UsageError(f"{option} {path}: no tags found; expected one per line.")
    return found


def stdin() -> Iterator[bytes]:
    """Chunks of stdin as they arrive.

    Reads without Python's buffer, whose lock a waiting thread would hold when the program ends.

    Raises:
        click.UsageError: stdin is closed.
    """
    if sys.stdin is None:
        raise click.UsageError("- reads paths from stdin, which is closed: name photos, or use --files-from.")
    read: Callable[[int], bytes]
    try:
        read = partial(os.read, sys.stdin.fileno())
    except (OSError, ValueError):  # no descriptor, as in tests
        read = sys.stdin.buffer.read
    return iter(partial(read, _CHUNK), b"")


def file(path: Path) -> Iterator[bytes]:
    """Chunks of a file.

    Raises:
        click.UsageError: it cannot be read.
    """
    try:
        with path.open("rb") as opened:
            yield from iter(partial(opened.read, _CHUNK), b"")
    except OSError as error:
        raise click.UsageError(f"{path} cannot be read: {error.strerror}.") from error


def paths(chunks: Iterator[bytes], *, null: bool) -> Iterator[str]:
    """Parse a list of paths as it arrives; empty ones are skipped.

    File names are bytes: without a byte order mark they are used unchanged.

    Args:
        chunks: the list, in chunks of any size.
        null: whether paths end with NUL, or with a line break, LF or CRLF.

    Raises:
        click.UsageError: unexpected NUL, or invalid UTF-16.
    """
    end = b"\0" if null else b"\n"
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= 4 or head.endswith(end):
            break
    encoding, skipped = _encoding(head, has_nul=null)
    lines = _lines(_as_utf8(head[skipped:], chunks, encoding), end)
    for line in lines:
        if b"\0" in line:
            raise click.UsageError("The list of paths contains NUL characters: add --null.")
        if path := line if null else line.rstrip(b"\r"):
            yield path.decode() if encoding != "utf-8" else os.fsdecode(path)


def _as_utf8(head: bytes, chunks: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    if encoding == "utf-8":  # file names need not be valid UTF-8
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
        raise click.UsageError(f"The list of paths is invalid UTF-16 ({error}).") from error


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
    """Detect the encoding of a text from its first bytes, and the length of its byte order mark.

    Without a mark, a text whose every second byte is NUL is UTF-16, as Windows programs write it, unless it
    `has_nul` as a separator.
    """
    for mark, name in _BOMS:
        if head.startswith(mark):
            return name, len(mark)
    if len(head) < 4 or has_nul:
        return "utf-8", 0
    if head[0] and head[2] and not head[1] and not head[3]:
        return "utf-16-le", 0
    if head[1] and head[3] and not head[0] and not head[2]:
        return "utf-16-be", 0
    return "utf-8", 0
