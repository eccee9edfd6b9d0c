"""Files on disk and behind any URL that fsspec knows (s3://, gs://, https://, memory://, tar://...::...)."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import IO, Any
from urllib.request import url2pathname

from anytag._io import atomic_write, refuse_inputs, refuse_other_kind, refuse_photo_name, writing
from anytag.data.backoff import patiently
from anytag.errors import AnytagError, MissingExtraError, OutputError, RefusedOutputError

MOST_BYTES = 100 << 20
"""Of a photo from a URL: a video of 50 GB is not read to its end to find out that it is none."""
_TRIES = 4  # for a photo: of a million addresses many lead to servers that are gone
_ONE_REQUEST = 5 << 30  # bytes: S3 takes no more in one


def is_url(path: str) -> bool:
    """Is it fsspec's to open, rather than a path on disk?"""
    return "://" in path


_SECRETS = re.compile(
    r"(?<=[?&;])(?:X-(?:Amz|Goog)-[\w-]+|AWSAccessKeyId|GoogleAccessId|Signature|Expires|Policy|Key-Pair-Id|"
    r"se|sig|sp|spr|sr|ss|srt|st|sv|skoid|sktid|skt|ske|sks|skv|(?:[\w-]*[_-])?(?:token|secret|password|passwd|"
    r"auth|signature|credentials?|api[_-]?key|access[_-]?key)|key)=[^&;#\s'\")]*[&;]?",
    re.IGNORECASE,
)
_LOGIN = re.compile(r"(?<=://)[^/\s@?#]*@")


def public(text: str) -> str:
    """A text whose URLs have lost their passwords, keys and signatures: for messages, ids and manifests."""
    return _SECRETS.sub("", _LOGIN.sub("", text))


def absolute(path: str) -> str:
    """A path that means the same to processes that began in another folder."""
    return path if is_url(path) else Path(path).absolute().as_posix()


def open_read(path: str) -> IO[bytes]:
    """Opens a file to be read.

    Raises:
        AnytagError: there is none, or it cannot be opened.
        MissingExtraError: a URL, and the package for it is not installed.
    """
    with _readable(path):
        if not is_url(path):
            return Path(path).open("rb")
        system, inner = _system(path)
        file: IO[bytes] = system.open(inner, "rb")
        return file


@contextmanager
def _readable(path: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise AnytagError(f"{public(path)}: no such file") from error
    except (OSError, ValueError, KeyError) as error:
        raise AnytagError(public(f"{path}: cannot be read ({error})")) from error
    except Exception as error:
        if not is_url(path) or isinstance(error, AnytagError):
            raise
        # Each of fsspec's systems has errors of its own, such as botocore's of missing keys.
        raise AnytagError(public(f"{path}: cannot be read ({error})")) from error


@contextmanager
def open_write(path: str) -> Iterator[IO[bytes]]:
    """Opens a file to be written; it appears, whole, when all went well, and else not at all."""
    if is_url(path):
        system, inner = _system(path)
        with system.transaction, system.open(inner, "wb") as file:
            yield file
        return
    with writing(path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as draft, draft.open("wb") as file:
        yield file


@contextmanager
def draft(path: str) -> Iterator[Path]:
    """A file on disk to write into. It becomes `path` in one step at the end, or after an error not at all.

    An object store gets it by one request, not in parts: of an upload that is killed nothing stays.

    Raises:
        OutputError: it cannot be written.
    """
    if not is_url(path):
        with writing(path):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            yield file
        return
    system, inner = _system(path)
    with tempfile.TemporaryDirectory(prefix="anytag-") as folder:
        file = Path(folder, "draft")
        yield file
        try:
            patiently(lambda: system.put_file(str(file), inner, **_in_one_request(system)))
        except Exception as error:  # each of fsspec's systems has errors of its own
            raise OutputError(public(f"{path} cannot be written: {error}")) from error


def _in_one_request(system: Any) -> dict[str, int]:
    names = {system.protocol} if isinstance(system.protocol, str) else set(system.protocol)
    return {"chunksize": _ONE_REQUEST} if names & {"s3", "s3a", "gs", "gcs"} else {}


def refuse_output(output: str, inputs: Iterable[str], is_kind: Callable[[bytes], bool], what: str) -> None:
    """Holds an output against inputs and against what is there: see `_io.refuse_other_kind`.

    Raises:
        OutputError: it is an input, a photo by name, or something else than such outputs are.
    """
    place, places = _on_disk(output), [_on_disk(one) for one in inputs]
    if is_url(place):
        if place in places:
            raise RefusedOutputError(f"{output} is an input of this run: give another file to write to")
        refuse_photo_name(place)
        return
    refuse_inputs(place, [one for one in places if not is_url(one)])
    refuse_other_kind(place, is_kind, what)


def refuse_filled(folder: str) -> None:
    """Holds a folder of outputs against what is there: old files among new ones would be read with them.

    Raises:
        OutputError: it has files, or is none.
    """
    place = _on_disk(folder)
    if exists(place) and (not is_folder(place) or next(listing(place), None) is not None):
        raise RefusedOutputError(f"{folder} is not empty: give another folder, or remove what is in it first")


def _on_disk(path: str) -> str:
    """A file: URL as a path; all else as it is."""
    return url2pathname(path.removeprefix("file://")) if path.startswith("file://") else path


def exists(path: str) -> bool:
    """Is there a file or a folder?"""
    if not is_url(path):
        return Path(path).exists()
    system, inner = _system(path)
    system.invalidate_cache()  # others write there, too
    with _readable(path):
        return bool(patiently(lambda: system.exists(inner)))


def fingerprint(path: str) -> str:
    """Of a file, what changes with its contents: where it lies, its size, when it was written.

    Raises:
        AnytagError: there is none.
    """
    with _readable(path):
        if not is_url(path):
            stat = Path(path).stat()
            return f"{Path(path).resolve()} {stat.st_size} {stat.st_mtime_ns}"
        system, inner = _system(path)
        info: dict[str, Any] = system.info(inner)
    return f"{path} {_stamp(info)}"


def _stamp(info: dict[str, Any]) -> str:
    """Of what a file system says of a file, what changes with its contents."""
    known = (
        "ETag", "etag", "md5Hash", "mtime", "LastModified", "Last-Modified", "last_modified", "created",
        "updated",
    )  # fmt: skip
    changed = next((str(info[name]) for name in known if info.get(name)), "")
    return f"{info.get('size')} {changed}"


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A file of a listing.

    Attributes:
        path: or URL, absolute.
        stamp: what changes with its contents: size and, as the file system has it, etag or time.
        bytes: its size, 0 where that is not said.
    """

    path: str
    stamp: str
    bytes: int


def files_at(path: str) -> list[FileFacts]:
    """A file, or all files below a folder, as a fresh listing tells them; hidden ones left out.

    Raises:
        AnytagError: it is not there, or cannot be listed.
    """
    if not is_url(path):
        names = [join(path, name) for name in listing(path)] if Path(path).is_dir() else [path]
        return [_facts_on_disk(name) for name in names]
    with _readable(path):
        system, inner = _system(path)
        system.invalidate_cache()
        if not path.endswith("/") and patiently(
            lambda: system.isfile(inner)
        ):  # of the web, "/" tells a folder
            return [_file_facts(path, patiently(lambda: system.info(inner)))]
        whole: dict[str, dict[str, Any]] = patiently(lambda: system.find(inner, detail=True))
        if not whole:
            raise FileNotFoundError(path)
    start = inner.rstrip("/") + "/"
    inside = {name.removeprefix(start): info for name, info in whole.items()}
    shown = sorted(name for name in inside if not any(part.startswith(".") for part in name.split("/")))
    return [
        _file_facts(join(path, name), inside[name])
        for name in shown
        if inside[name].get("type") != "directory"
    ]


def _file_facts(path: str, info: dict[str, Any]) -> FileFacts:
    return FileFacts(path, _stamp(info), int(info.get("size") or 0))


def _facts_on_disk(path: str) -> FileFacts:
    with _readable(path):
        facts = Path(path).stat()
    return FileFacts(absolute(path), f"{facts.st_size} {facts.st_mtime_ns}", facts.st_size)


def is_folder(path: str) -> bool:
    """Is it a folder?"""
    if not is_url(path):
        return Path(path).is_dir()
    system, inner = _system(path)
    return bool(system.isdir(inner))


def listing(folder: str) -> Iterator[str]:
    """Paths of all files below a folder, relative to it, with '/', sorted by folder; hidden ones left out."""
    if is_url(folder):
        system, inner = _system(folder)
        start = inner.rstrip("/") + "/"
        paths = sorted(path.removeprefix(start) for path in system.find(inner))
        yield from (path for path in paths if not any(part.startswith(".") for part in path.split("/")))
        return
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        base = Path(parent).relative_to(folder)
        yield from ((base / name).as_posix() for name in sorted(files) if not name.startswith("."))


def folder_of(path: str) -> str:
    """The folder that relative names in a file are relative to; "" is the working folder."""
    if is_url(path):
        return path.rpartition("/")[0]
    parent = str(Path(path).parent)
    return "" if parent == "." else parent


def join(root: str, image: str) -> str:
    """Where a photo is that a file in folder `root` names; of tar://NAME::SHARD, the shard is relative."""
    inside, mark, outer = image.rpartition("::")
    if mark:
        return f"{inside}::{join(root, outer)}"
    if not root or is_url(image) or Path(image).is_absolute():
        return image
    return f"{root.rstrip('/')}/{image}"


def rebased(image: str, root: str, to: str) -> str:
    """What a file in folder `to` calls the photo that a file in folder `root` calls `image`."""
    inside, mark, outer = image.rpartition("::")
    if mark:
        return f"{inside}::{rebased(outer, root, to)}"
    path = join(root, image)
    if is_url(path) or Path(image).is_absolute():
        return path
    if is_url(to):
        return Path(path).absolute().as_posix()
    base, end = _real(root), _real(to)
    if Path(base).drive != Path(end).drive:  # of Windows: no way leads from one to the other
        return Path(base, image).as_posix()
    return Path(os.path.relpath(os.path.join(base, image), end)).as_posix()  # noqa: PTH118


def _real(folder: str) -> str:
    """A folder without links: ".." of a link leads elsewhere than its name says."""
    return _resolved(os.path.abspath(folder))  # noqa: PTH100


@cache
def _resolved(folder: str) -> str:
    return os.path.realpath(folder)


def photo_source(root: str, image: str) -> str | bytes:
    """What `anytag.images.load` takes for a photo: its path, or from a URL its bytes.

    Raises:
        AnytagError: the URL cannot be read, or holds more than `MOST_BYTES`.
    """
    path = join(root, image)
    if not is_url(path):
        return path
    with _readable(path):
        system, inner = _system(path)  # a tar file closes when its file system is forgotten
        photo = patiently(lambda: _first_bytes(system, inner), tries=_TRIES)
    if len(photo) > MOST_BYTES:
        raise AnytagError(
            f"{public(path)}: more than {MOST_BYTES:,} bytes, which no photo from a URL may have"
        )
    return photo


def _first_bytes(system: Any, inner: str) -> bytes:
    """A file, or if it is larger than any photo its beginning, in one request."""
    try:
        return bytes(system.cat_file(inner, 0, MOST_BYTES + 1))
    except (OSError, ValueError):  # some servers give no range that ends behind the file, or of an empty one
        is_large = int(system.size(inner) or 0) > MOST_BYTES
        return bytes(system.cat_file(inner, 0, MOST_BYTES + 1) if is_large else system.cat_file(inner))


def _system(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it."""
    try:
        fsspec = import_module("fsspec.core")
    except ImportError as error:
        raise MissingExtraError(f"reading {url}", "data") from error
    try:
        system, path = fsspec.url_to_fs(url)
    except ImportError as error:
        extra = "s3" if url.partition("://")[0] in ("s3", "s3a") else None
        if extra:
            raise MissingExtraError(f"reading {url}", extra) from error
        raise AnytagError(f"{url}: {error}") from error
    except (OSError, ValueError) as error:
        raise AnytagError(f"{url}: cannot be opened ({error})") from error
    return system, str(path)
