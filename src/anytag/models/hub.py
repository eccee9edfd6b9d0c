"""Files of the Hugging Face Hub: resumable, verified downloads, and upload of model folders.

`ANYTAG_HUB` is the URL of a mirror, which serves all paths below it; the token is read from `HF_TOKEN` only.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

from anytag.errors import DownloadError
from anytag.models import card as cards
from anytag.models.card import Card
from anytag.models.folder import ModelFolder, inside, sha256_of
from anytag.models.model_card import model_page
from anytag.progress import SILENT, Progress, Reporter

if TYPE_CHECKING:  # importing it takes longer than tagging a photo
    from huggingface_hub import HfFileMetadata

HUB = "https://huggingface.co"
PREFIX = "hf-hub:"
State = Literal["downloaded", "already there", "already there, not checked"]
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_TRIES, _TIMEOUT = 5, 30.0  # consecutive attempts without progress; seconds without data
_SHA256, _GIT_SHA = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Remote:
    """A file published on the Hub or another host.

    Attributes:
        path: below the host, with forward slashes.
        host: with its scheme; replaced by the mirror, if one is set.
        sha256: if known in advance; otherwise the Hub's hash is used.
        name: local name, relative to the download folder.
    """

    path: str
    host: str = HUB
    sha256: str = ""
    name: str = ""

    @property
    def local(self) -> str:
        return self.name or self.path.rpartition("/")[2]

    @property
    def url(self) -> str:
        """The URL, on the mirror if one is set."""
        return f"{os.environ.get('ANYTAG_HUB', '').rstrip('/') or self.host}/{self.path}"

    @property
    def token(self) -> str | Literal[False]:
        """The access token; only for the Hub itself and its mirror."""
        return (self.host == HUB and os.environ.get("HF_TOKEN")) or False


@dataclass(frozen=True, slots=True)
class Fetched:
    """A downloaded file.

    Attributes:
        state: what was done; not checked means that the Hub could not be reached.
        revision: the Hub's commit, or "".
    """

    path: Path
    url: str
    sha256: str
    state: State
    revision: str

    @property
    def bytes(self) -> int:
        return self.path.stat().st_size


def fetch(remotes: Iterable[Remote], folder: Path, *, report: Reporter = SILENT) -> list[Fetched]:
    """Download files into `folder`, where they are missing or different.

    A file that the Hub does not provide, but that exists, is used; unchecked, if its hash is not known.

    Args:
        report: receives the progress, in megabytes.

    Raises:
        DownloadError: some files can neither be downloaded nor exist: lists their URLs and local paths. Or a
            download was interrupted (the part is kept), or has the wrong size or hash.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fetched, missing, reasons = [], [], []
    for remote in remotes:
        try:
            metadata = _metadata(remote)
        except Exception as error:  # httpx's errors; their module changes with huggingface_hub's version
            reasons.append(_reason(error))
            here = inside(folder, remote.local)
            if here.is_file() and _fits(here, remote.sha256):
                state: State = "already there" if remote.sha256 else "already there, not checked"
                fetched.append(Fetched(here, remote.url, sha256_of(here), state, ""))
            else:
                missing.append(f"  {remote.url}\n    -> {here}")
        else:
            fetched.append(_download(remote, inside(folder, remote.local), metadata, report))
    if missing:
        raise DownloadError(
            f"could not download all files ({'; '.join(dict.fromkeys(reasons))}). Retry when the Hub can "
            "be reached, or place them manually:\n" + "\n".join(missing)
        )
    return fetched


def fetch_folder(repository: str, target: Path, *, report: Reporter = SILENT) -> list[Fetched]:
    """Download the anytag model folder ``owner/name`` from the Hub: its card, and the files it lists.

    Raises:
        DownloadError: as for `fetch`; or `target` exists.
        ModelError: it is not an anytag model folder.
    """
    _check_repository(repository)
    if target.exists():
        raise DownloadError(f"{target} exists already; remove it first, or pull it under another --name")
    draft = target.with_name(f".{repository.replace('/', '--')}.new")
    base = f"{repository}/resolve/main/"
    fetched = fetch([Remote(base + cards.FILE_NAME)], draft)
    files = Card.read(draft / cards.FILE_NAME).files
    for name in files:
        inside(draft, name).parent.mkdir(parents=True, exist_ok=True)
    remotes = [Remote(base + name, sha256=facts.sha256, name=name) for name, facts in files.items()]
    fetched += fetch(remotes, draft, report=report)
    ModelFolder.open(draft, verify=False)  # hashes were verified by `fetch`
    draft.replace(target)
    return [replace(file, path=target / file.path.relative_to(draft)) for file in fetched]


def push_folder(folder: Path, repository: str) -> str:
    """Upload a model folder to the Hub as ``owner/name``, with a README.md generated from its card.

    Returns:
        its URL.

    Raises:
        ModelError: the folder's files do not match its card.
        DownloadError: `HF_TOKEN` is not set, or the Hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    _check_repository(repository)
    model = ModelFolder.open(folder, verify=True)
    if not (hub := Remote("")).token:
        raise DownloadError(
            "uploading to the Hub needs a token with write access: set HF_TOKEN in the environment"
        )
    files = {name: model.file(name) for name in model.card.files if name != "README.md"}
    sent = [CommitOperationAdd(name, path) for name, path in files.items()]
    sent.append(CommitOperationAdd(cards.FILE_NAME, folder / cards.FILE_NAME))
    sent.append(CommitOperationAdd("README.md", model_page(model.card, repository).encode()))
    api = HfApi(endpoint=hub.url.rstrip("/"), token=hub.token)
    try:
        api.create_repo(repository, exist_ok=True)
        commit = api.create_commit(repository, sent, commit_message=f"{model.card.name} {model.card.version}")
    except Exception as error:  # as in `fetch`
        raise DownloadError(f"{repository} was not uploaded: {_reason(error)}") from error
    return str(commit.repo_url)


def _check_repository(repository: str) -> None:
    if _REPOSITORY.fullmatch(repository) is None:
        raise DownloadError(f"{repository!r} is not the name of a repository on the Hub; expected owner/name")


def _metadata(remote: Remote) -> HfFileMetadata:
    from huggingface_hub import get_hf_file_metadata

    return get_hf_file_metadata(remote.url, token=remote.token)


def _download(remote: Remote, path: Path, metadata: HfFileMetadata, report: Reporter) -> Fetched:
    """Download a file to `path`, resuming a partial download."""
    digest = remote.sha256 or metadata.etag or ""
    state: State = "already there"
    if not (path.is_file() and metadata.size in (None, path.stat().st_size) and _fits(path, digest)):
        version = re.sub(r"\W", "", digest)[:12]
        part = path.with_name(f".{path.name}.{version}.part")
        _continue(remote, part, metadata.size, report)
        _check(part, remote.url, size=metadata.size, digest=digest)
        part.replace(path)
        state = "downloaded"
    return Fetched(path, remote.url, sha256_of(path), state, metadata.commit_hash or "")


def _continue(remote: Remote, part: Path, size: int | None, report: Reporter) -> None:
    """Download the missing rest of `part`.

    `hf_hub_download` would discard a partial download, here of gigabytes.
    """
    if part.is_file() and size is not None and part.stat().st_size > size:
        part.unlink()
    if size is not None:
        _check_space(part, size)
    tries = 0
    with part.open("ab") as file:
        while size is None or file.tell() < size:
            before = file.tell()
            try:
                return _append(remote, file, size, report)
            except OSError as error:
                if error.errno is not None:  # a disk error
                    raise
                raise _broken(remote.url, file.tell(), error) from error
            except Exception as error:  # as in `fetch`
                tries = 1 if file.tell() > before else tries + 1
                if tries > _TRIES:
                    raise _broken(remote.url, file.tell(), error) from error
                time.sleep(1)


def _append(remote: Remote, file: BinaryIO, size: int | None, report: Reporter) -> None:
    """Append the rest of the file, with one request."""
    from huggingface_hub import get_session

    headers = {"Accept-Encoding": "identity"}
    if file.tell():
        headers["Range"] = f"bytes={file.tell()}-"
    if remote.token:
        headers["Authorization"] = f"Bearer {remote.token}"  # dropped on redirects to another host
    with get_session().stream(
        "GET", remote.url, headers=headers, timeout=_TIMEOUT, follow_redirects=True
    ) as response:
        if response.status_code >= 500 or response.status_code == 429:
            response.raise_for_status()  # requested again
        if response.status_code not in (200, 206):
            raise OSError(f"{response.status_code} {response.reason_phrase}")
        if response.status_code == 200:  # the whole file, although a range was requested
            file.seek(0)
            file.truncate()
        megabytes = None if size is None else round(size / 1e6)
        for chunk in response.iter_bytes():
            file.write(chunk)
            report.progress(Progress(remote.local, round(file.tell() / 1e6), megabytes, "MB"))


def _check_space(part: Path, size: int) -> None:
    needed = size - (part.stat().st_size if part.is_file() else 0)
    free = shutil.disk_usage(part.parent).free
    if needed > free:
        raise DownloadError(f"{part.parent} has {free:,} bytes free, the download needs {needed:,}")


def _broken(url: str, count: int, error: Exception) -> DownloadError:
    return DownloadError(
        f"the download of {url} was interrupted after {count:,} bytes ({_reason(error)}). They are kept: "
        "repeat the command to resume"
    )


def _check(part: Path, url: str, *, size: int | None, digest: str) -> None:
    """Check size and hash of a download; removes it and raises DownloadError if they are wrong."""
    actual = part.stat().st_size
    if size is not None and actual != size:
        fault = f"has {actual:,} bytes, expected {size:,}"
    elif not _fits(part, digest):
        fault = f"has sha256 {sha256_of(part)}, expected {digest}"
    else:
        return
    part.unlink()
    raise DownloadError(f"{url} {fault}: it was damaged in transit or on the server. Repeat the command")


def _fits(path: Path, digest: str) -> bool:
    """Whether a file has the Hub's etag: sha256 for large files, git's blob hash for small ones."""
    if _SHA256.fullmatch(digest):
        return sha256_of(path) == digest
    if _GIT_SHA.fullmatch(digest):
        content = path.read_bytes()
        return (
            hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() == digest
        )
    return True


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
