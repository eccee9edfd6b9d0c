"""Files on disk and at URLs supported by fsspec (s3://, gs://, https://, memory://, tar://...::...)."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import IO, Any
from urllib.request import url2pathname

from anytag._io import Recognizer, atomic_write, check_output, refuse_photo_name, writing
from anytag.data.backoff import with_retries
from anytag.errors import AnytagError, MissingExtraError, OutputError, RefusedOutputError

MAX_PHOTO_BYTES = 100 << 20
"""Maximum size of a photo from a URL, so that other files, such as large videos, are not read completely."""
_ATTEMPTS = 4  # for a photo: among a million addresses many servers no longer exist
_ONE_REQUEST = 5 << 30  # bytes, the maximum for one request to S3


def is_url(path: str) -> bool:
    """Whether a path is a URL, opened by fsspec."""
    return "://" in path


_VALUE = r"=[^&;#\s'\")]*[&;]?"
_SECRETS = re.compile(
    r"(?<=[?&;])(?:X-(?:Amz|Goog)-[\w-]+|AWSAccessKeyId|GoogleAccessId|Signature|Expires|Policy|Key-Pair-Id|"
    r"sig|(?:[\w-]*[_-])?(?:token|secret|password|passwd|auth|signature|credentials?|api[_-]?key|"
    # a short key, or one with a dot or slash, is the name of a photo
    r"access[_-]?key)|key(?==[\w-]{16,}(?![^&;#\s'\")])))" + _VALUE,
    re.IGNORECASE,
)
_SIGNED = re.compile(r"(?<=\?)[^#\s'\")]*\bsig=[^#\s'\")]*", re.IGNORECASE)
_AZURE = re.compile(
    r"(?<![^&;])(?:se|sp|spr|sr|ss|srt|st|sv|skoid|sktid|skt|ske|sks|skv)" + _VALUE, re.IGNORECASE
)
_LOGIN = re.compile(r"(?<=://)[^/\s@?#]*@")


def public(text: str) -> str:
    """Remove passwords, keys and signatures from URLs in a text, for messages, ids and manifests."""
    text = _SIGNED.sub(lambda query: _AZURE.sub("", query[0]), _LOGIN.sub("", text))
    return _SECRETS.sub("", text)


def public_name(path: str) -> str:
    """The name of a file in ids and manifests: its path, or its URL without credentials."""
    return public(path) if is_url(path) else path


def absolute(path: str) -> str:
    """Make a path absolute, for processes with another working folder."""
    return path if is_url(path) else Path(path).absolute().as_posix()


def open_read(path: str) -> IO[bytes]:
    """Open a file for reading.

    Raises:
        AnytagError: it does not exist or cannot be opened.
        MissingExtraError: it is a URL, and the package for it is not installed.
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
        # fsspec's file systems raise errors of their own, such as botocore's for missing keys.
        raise AnytagError(public(f"{path}: cannot be read ({error})")) from error


@contextmanager
def open_write(path: str) -> Iterator[IO[bytes]]:
    """Open a file for writing, atomically."""
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
    """Yield a file on disk to write to, which is moved or uploaded to `path` at the end.

    Uploads use a single request, so that an interrupted upload leaves nothing in an object store.

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
            with_retries(lambda: system.put_file(str(file), inner, **_in_one_request(system)))
        except Exception as error:  # fsspec's file systems raise errors of their own
            raise OutputError(public(f"{path} cannot be written: {error}")) from error


def _in_one_request(system: Any) -> dict[str, int]:
    names = {system.protocol} if isinstance(system.protocol, str) else set(system.protocol)
    return {"chunksize": _ONE_REQUEST} if names & {"s3", "s3a", "gs", "gcs"} else {}


def refuse_output(
    output: str, inputs: Iterable[str], is_earlier: Recognizer | None = None, kind: str = ""
) -> None:
    """Check an output on disk or at a URL: see `_io.check_output`; without `is_earlier` none may exist.

    Raises:
        OutputError: it is an input, has the suffix of a photo, or exists and `is_earlier` does not accept it.
    """
    place, places = _on_disk(output), [_on_disk(one) for one in inputs]
    if is_url(place):
        if place in places:
            raise RefusedOutputError(f"{output} is an input of this run: give another file to write to")
        refuse_photo_name(place)
        return
    files = [one for one in places if not is_url(one)]
    check_output(place, files, is_earlier=is_earlier, kind=kind, parents=True)


def refuse_nonempty(folder: str) -> None:
    """Check that an output folder is empty, because existing files would be read together with new ones.

    Raises:
        OutputError: it contains files, or is not a folder.
    """
    place = _on_disk(folder)
    if exists(place) and (not is_folder(place) or next(listing(place), None) is not None):
        raise RefusedOutputError(f"{folder} is not empty: give another folder, or empty it first")


def _on_disk(path: str) -> str:
    """Convert a file: URL to a path; others are unchanged."""
    return url2pathname(path.removeprefix("file://")) if path.startswith("file://") else path


def exists(path: str) -> bool:
    """Whether a file or folder exists."""
    if not is_url(path):
        return Path(path).exists()
    system, inner = _system(path)
    system.invalidate_cache()  # other processes may write there
    with _readable(path):
        return bool(with_retries(lambda: system.exists(inner)))


def fingerprint(path: str) -> str:
    """A text that changes with a file's content: path, size and modification time.

    Raises:
        AnytagError: it does not exist.
    """
    with _readable(path):
        if not is_url(path):
            stat = Path(path).stat()
            return f"{Path(path).resolve()} {stat.st_size} {stat.st_mtime_ns}"
        system, inner = _system(path)
        info: dict[str, Any] = system.info(inner)
    return f"{path} {_stamp(info)}"


def _stamp(info: dict[str, Any]) -> str:
    """The part of a file system's metadata that changes with a file's content."""
    known = (
        "ETag", "etag", "md5Hash", "mtime", "LastModified", "Last-Modified", "last_modified", "created",
        "updated",
    )  # fmt: skip
    changed = next((str(info[name]) for name in known if info.get(name)), "")
    return f"{info.get('size')} {changed}"


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A file in a listing.

    Attributes:
        path: absolute path or URL.
        stamp: changes with the content: size and, depending on the file system, etag or time.
        bytes: size, 0 if unknown.
    """

    path: str
    stamp: str
    bytes: int


def files_at(path: str) -> list[FileFacts]:
    """List a file, or all files below a folder except hidden ones, without caching.

    Raises:
        AnytagError: it does not exist, or cannot be listed.
    """
    if not is_url(path):
        if not Path(path).is_dir():
            return [_facts_on_disk(path)]
        return [_facts_in_folder(join(path, name)) for name in listing(path)]
    with _readable(path):
        system, inner = _system(path)
        system.invalidate_cache()
        if not path.endswith("/") and with_retries(
            lambda: system.isfile(inner)
        ):  # a folder on the web ends with "/"
            return [_file_facts(path, with_retries(lambda: system.info(inner)))]
        whole: dict[str, dict[str, Any]] = with_retries(lambda: system.find(inner, detail=True))
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


def _facts_in_folder(path: str) -> FileFacts:
    """As `_facts_on_disk`; a file that has gone, or is a broken link, is reported when it is read."""
    try:
        return _facts_on_disk(path)
    except AnytagError:
        return FileFacts(absolute(path), "", 0)


def is_folder(path: str) -> bool:
    """Whether a path or URL is a folder."""
    if not is_url(path):
        return Path(path).is_dir()
    system, inner = _system(path)
    return bool(system.isdir(inner))


def listing(folder: str) -> Iterator[str]:
    """Paths of all files below a folder, relative to it, with '/', sorted by folder; skips hidden files."""
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
    """The folder that relative paths in a file refer to; "" is the working folder."""
    if is_url(path):
        return path.rpartition("/")[0]
    parent = str(Path(path).parent)
    return "" if parent == "." else parent


def join(root: str, image: str) -> str:
    """Path of a photo named by a file in folder `root`; in tar://NAME::SHARD the shard is relative."""
    inside, mark, outer = image.rpartition("::")
    if mark:
        return f"{inside}::{join(root, outer)}"
    if not root or is_url(image) or Path(image).is_absolute():
        return image
    return f"{root.rstrip('/')}/{image}"


def rebased(image: str, root: str, to: str) -> str:
    """Convert a path relative to folder `root` to one relative to folder `to`."""
    inside, mark, outer = image.rpartition("::")
    if mark:
        return f"{inside}::{rebased(outer, root, to)}"
    path = join(root, image)
    if is_url(path) or Path(image).is_absolute():
        return path
    if is_url(to):
        return Path(path).absolute().as_posix()
    base, end = _real(root), _real(to)
    if Path(base).drive != Path(end).drive:  # on Windows there is no relative path between drives
        return Path(base, image).as_posix()
    return Path(os.path.relpath(os.path.join(base, image), end)).as_posix()  # noqa: PTH118


def _real(folder: str) -> str:
    """Resolve links in a folder's path, because ".." of a link is not its parent by name."""
    return _resolved(os.path.abspath(folder))  # noqa: PTH100


@cache
def _resolved(folder: str) -> str:
    return os.path.realpath(folder)


def local_paths(root: Path, images: Iterable[str]) -> list[Path]:
    """Paths of photos that a command reads repeatedly, and so only from disk.

    Raises:
        AnytagError: a photo is at a URL or in a shard.
    """
    paths = []
    for image in images:
        if is_url(image):
            raise AnytagError(
                f"{public(image)} is at a URL or in a shard, which only anytag train and anytag data read: "
                "save the photos as files, and give their paths"
            )
        paths.append(root / image)
    return paths


def photo_source(root: str, image: str) -> str | bytes:
    """The argument for `anytag.images.load`: the path of a photo, or its bytes from a URL.

    Raises:
        AnytagError: the URL cannot be read, or is larger than `MAX_PHOTO_BYTES`.
    """
    path = join(root, image)
    if not is_url(path):
        return path
    with _readable(path):
        system, inner = _system(path)  # keep the file system: a tar file is closed with it
        photo = with_retries(lambda: _first_bytes(system, inner), attempts=_ATTEMPTS)
    if len(photo) > MAX_PHOTO_BYTES:
        raise AnytagError(
            f"{public(path)}: larger than {MAX_PHOTO_BYTES:,} bytes, the limit for photos from URLs"
        )
    return photo


def _first_bytes(system: Any, inner: str) -> bytes:
    """Read a file, or the beginning of one that is larger than the limit, in one request."""
    try:
        return bytes(system.cat_file(inner, 0, MAX_PHOTO_BYTES + 1))
    except (OSError, ValueError):  # some servers reject ranges beyond the end, or of an empty file
        is_large = int(system.size(inner) or 0) > MAX_PHOTO_BYTES
        return bytes(system.cat_file(inner, 0, MAX_PHOTO_BYTES + 1) if is_large else system.cat_file(inner))


def _system(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path within it."""
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
