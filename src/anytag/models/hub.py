"""Files of the Hugging Face Hub: fetched, so that a broken download goes on; checked; folders sent there.

`ANYTAG_HUB` names a mirror, which serves everything below its root; a token comes from `HF_TOKEN` alone.
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
_TRIES, _TIMEOUT = 5, 30.0  # in a row that bring nothing; seconds without an answer
_SHA256, _GIT_SHA = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Remote:
    """A file that is published somewhere.

    Attributes:
        path: below the host, with forward slashes.
        host: with its scheme; a mirror takes its place.
        sha256: where it is known beforehand; otherwise the Hub's word is taken.
        name: of the file here, relative to the folder it is fetched into.
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
        """Where to fetch it now."""
        return f"{os.environ.get('ANYTAG_HUB', '').rstrip('/') or self.host}/{self.path}"

    @property
    def token(self) -> str | Literal[False]:
        """What to show there: the Hub's token is for nobody else."""
        return (self.host == HUB and os.environ.get("HF_TOKEN")) or False


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that lies here now.

    Attributes:
        state: what was done; not checked means that the Hub could not be asked.
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
    """Every file in `folder`, downloaded where it is missing or another.

    A file that the Hub does not give, but that lies there, is taken as it is.

    Args:
        report: told of what comes, in megabytes.

    Raises:
        DownloadError: some can neither be reached nor lie there: lists which to put where. Or a download
            broke off (what came is kept), or has another size or hash than it should.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fetched, missing, reasons = [], [], []
    for remote in remotes:
        try:
            metadata = _metadata(remote)
        except Exception as error:  # httpx's errors; their module changes with huggingface_hub's version
            reasons.append(_reason(error))
            here = inside(folder, remote.local)
            if here.is_file():
                fetched.append(Fetched(here, remote.url, sha256_of(here), "already there, not checked", ""))
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
    """A model folder of ours from the Hub, as ``owner/name``: its card, and the files that the card lists.

    Raises:
        DownloadError: as `fetch`; or `target` is there already.
        ModelError: it is no model folder of ours.
    """
    _check_repository(repository)
    if target.exists():
        raise DownloadError(f"{target} is there already; remove it first, or pull under another --name")
    draft = target.with_name(f".{repository.replace('/', '--')}.new")
    base = f"{repository}/resolve/main/"
    fetched = fetch([Remote(base + cards.FILE_NAME)], draft)
    files = Card.read(draft / cards.FILE_NAME).files
    for name in files:
        inside(draft, name).parent.mkdir(parents=True, exist_ok=True)
    remotes = [Remote(base + name, sha256=facts.sha256, name=name) for name, facts in files.items()]
    fetched += fetch(remotes, draft, report=report)
    ModelFolder.open(draft, verify=False)  # hashes were compared as files came
    draft.replace(target)
    return [replace(file, path=target / file.path.relative_to(draft)) for file in fetched]


def push_folder(folder: Path, repository: str) -> str:
    """Send a model folder to the Hub as ``owner/name``, with a README.md made of its card.

    Returns:
        its address there.

    Raises:
        ModelError: the folder's files are not what its card says.
        DownloadError: no `HF_TOKEN` in the environment, or the Hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    _check_repository(repository)
    model = ModelFolder.open(folder, verify=True)
    if not (hub := Remote("")).token:
        raise DownloadError(
            "sending to the Hub needs a token that may write: set HF_TOKEN in the environment"
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
        raise DownloadError(f"{repository} was not sent: {_reason(error)}") from error
    return str(commit.repo_url)


def _check_repository(repository: str) -> None:
    if _REPOSITORY.fullmatch(repository) is None:
        raise DownloadError(f"{repository!r} is no name of a repository on the Hub; expected owner/name")


def _metadata(remote: Remote) -> HfFileMetadata:
    from huggingface_hub import get_hf_file_metadata

    return get_hf_file_metadata(remote.url, token=remote.token)


def _download(remote: Remote, path: Path, metadata: HfFileMetadata, report: Reporter) -> Fetched:
    """The file at `path`, which goes on from a part that lies there."""
    digest = remote.sha256 or metadata.etag or ""
    state: State = "already there"
    if not (path.is_file() and metadata.size in (None, path.stat().st_size) and _fits(path, digest)):
        part = path.with_name(f".{path.name}.{digest[:12]}.part")  # of this version of the file, no other
        _continue(remote, part, metadata.size, report)
        _check(part, remote.url, size=metadata.size, digest=digest)
        part.replace(path)
        state = "downloaded"
    return Fetched(path, remote.url, sha256_of(path), state, metadata.commit_hash or "")


def _continue(remote: Remote, part: Path, size: int | None, report: Reporter) -> None:
    """Append to `part` what it lacks.

    `hf_hub_download` would throw away what came of a broken download, here of gigabytes.
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
                if error.errno is not None:  # the disk's fault
                    raise
                raise _broken(remote.url, file.tell(), error) from error
            except Exception as error:  # as in `fetch`
                tries = 1 if file.tell() > before else tries + 1
                if tries > _TRIES:
                    raise _broken(remote.url, file.tell(), error) from error
                time.sleep(1)


def _append(remote: Remote, file: BinaryIO, size: int | None, report: Reporter) -> None:
    """One request: the rest of the file, as far as it comes."""
    from huggingface_hub import get_session

    headers = {"Accept-Encoding": "identity"}
    if file.tell():
        headers["Range"] = f"bytes={file.tell()}-"
    if remote.token:
        headers["Authorization"] = f"Bearer {remote.token}"  # dropped where another host is redirected to
    with get_session().stream(
        "GET", remote.url, headers=headers, timeout=_TIMEOUT, follow_redirects=True
    ) as response:
        if response.status_code not in (200, 206):
            raise OSError(f"{response.status_code} {response.reason_phrase}")
        if response.status_code == 200:  # all of it, whatever was asked
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
        f"{url} broke off after {count:,} bytes ({_reason(error)}). They are kept: "
        "type the same again to go on from there"
    )


def _check(part: Path, url: str, *, size: int | None, digest: str) -> None:
    """Remove `part` and raise where it is not what it should be."""
    came = part.stat().st_size
    if size is not None and came != size:
        fault = f"has {came:,} bytes, expected {size:,}"
    elif not _fits(part, digest):
        fault = f"has sha256 {sha256_of(part)}, expected {digest}"
    else:
        return
    part.unlink()
    raise DownloadError(f"{url} {fault}: it was damaged on its way or where it lies. Type the same again")


def _fits(path: Path, digest: str) -> bool:
    """Is this the file that the Hub's etag means: sha256 of a large file, git's hash of a small one?"""
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
