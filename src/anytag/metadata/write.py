"""Write keywords and captions into sidecars or photos, and undo it.

exiftool never writes a file: it outputs the new content, which replaces the file atomically.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from anytag._io import DRAFT_NAME_LENGTH, atomic_write, version, writing
from anytag.errors import MetadataError, OutputError
from anytag.metadata import keywords as words
from anytag.metadata import read, record
from anytag.metadata.exiftool import Answer, ExifTool, assigned, named, plain, shared
from anytag.metadata.keywords import FIELDS, Content, Field, Keyword
from anytag.metadata.sidecars import Candidates, SidecarName, candidates, new_sidecar, sharing
from anytag.results import Failure
from anytag.suffixes import IMAGE_SUFFIXES

_BESIDE: tuple[Field, ...] = ("Subject", "TagsList", "HierarchicalSubject")
_DRAFT = re.compile(r"\.(.+)\.[a-z0-9_]{8}\.new", re.DOTALL)
_LOSSES = ("could not be encoded", "format error")  # lost characters; a whole unparsable XMP block
_STALE = 1.0  # seconds after which a draft is considered to be of a killed process


@dataclass(frozen=True, slots=True)
class Change:
    """The changes to the files of a photo, made or planned.

    Attributes:
        path: the photo.
        files: changed files, sidecars or the photo itself; empty if they are up to date.
        added: added words.
        removed: removed words.
        caption: the new caption; "" if it was removed, None if it is unchanged.
        note: a note on the choice of files.
        error: why not everything could be written.
    """

    path: str
    files: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    caption: str | None = None
    note: str | None = None
    error: Failure | None = None

    def to_dict(self) -> dict[str, Any]:
        """As a dict for JSON: the row of --format jsonl."""
        row: dict[str, Any] = {"path": self.path, "files": list(self.files)}
        row |= {"added": list(self.added), "removed": list(self.removed), "caption": self.caption}
        error = {"type": self.error.type, "message": self.error.message} if self.error else None
        return {**row, "note": self.note, "error": error}


@dataclass(frozen=True, slots=True)
class Keywords:
    """The user's keywords of a photo, without those that anytag wrote.

    Attributes:
        path: the path as given.
        keywords: hierarchical keywords such as ("animal", "dog").
        rejected: words of anytag that the user removed from a sidecar or photo.
        caption: the user's caption; "" if there is none.
        error: why they cannot be read.
    """

    path: str
    keywords: tuple[Keyword, ...] = ()
    rejected: tuple[str, ...] = ()
    caption: str = ""
    error: Failure | None = None


def read_keywords(
    photos: Iterable[str | os.PathLike[str]], *, exiftool: ExifTool | None = None
) -> Iterator[Keywords]:
    """Read the user's keywords of photos and their sidecars; yields one result per photo, errors included.

    Args:
        photos: paths.
        exiftool: by default a shared instance.

    Raises:
        MissingToolError: exiftool is not installed.
    """
    tool = exiftool or shared()
    for photo in photos:
        path = os.fspath(photo)
        try:
            found = read.contents(_photo(path), tool).values()
        except (MetadataError, OSError) as error:
            yield Keywords(path, error=failure(error))
            continue
        _, rejected = words.wanted(found, ())
        texts = (one.caption if one.caption != one.our_caption else "" for one in found)
        caption = next(filter(None, (*texts, *(one.other_caption for one in found))), "")
        yield Keywords(path, words.read(found), rejected, caption)


def write_keywords(
    photo: str | os.PathLike[str],
    keywords: Iterable[Keyword | str] | None,
    *,
    embed: bool = False,
    caption: str | None = None,
    overwrite_caption: bool = False,
    rejected: Iterable[str] = (),
    accepted: Iterable[str] = (),
    sidecar_name: SidecarName = "full",
    touch: bool = False,
    dry_run: bool = False,
    exiftool: ExifTool | None = None,
) -> Change:
    """Write keywords in addition to the user's, replacing those that anytag wrote before.

    Every keyword field then has the union of the user's words, from the photo and its sidecars, and ours,
    since programs read a single field of a single file. Words that the user removed are not written again.

    Args:
        photo: path.
        keywords: words, or hierarchical keywords such as ("animal", "dog"), best first; None leaves the
            existing ones unchanged.
        embed: write into the photo itself and its existing sidecars; otherwise into a sidecar.
        caption: for dc:description, unless the user has a caption.
        overwrite_caption: also replace a caption of the user.
        rejected: further words that must not be written.
        accepted: words that are written although the user removed them from a file.
        sidecar_name: name of a new sidecar.
        touch: update the modification time of a photo that is written to.
        dry_run: only return the change.
        exiftool: by default a shared instance.

    Raises:
        MissingToolError: exiftool is not installed.
        MetadataError: the photo or a sidecar cannot be read, or its format does not support metadata.
        OutputError: a file cannot be written; each file is either unchanged or complete.
    """
    path, tool = _photo(os.fspath(photo)), exiftool or shared()
    ours = [words.clean((one,) if isinstance(one, str) else one) for one in keywords or ()]
    beside = candidates(path)
    found = read.contents(path, tool, beside)
    union, refused = words.wanted(found.values(), [one for one in ours if one], rejected, accepted)
    targets = {one: content for one, content in found.items() if embed or one != path}
    is_new = not targets
    if is_new and (ours or caption):
        targets[new_sidecar(path, sidecar_name)] = Content(is_created=True)
    elif not ours and not caption:
        targets = {one: content for one, content in targets.items() if content.has_record}
    changes = {}
    for target, content in targets.items():
        fields = FIELDS if target == path and content.has_iptc else _BESIDE
        after = content if keywords is None else words.merged(content, union, refused, fields)
        if caption is not None:
            text = " ".join(words.clean([caption]))
            after = words.captioned(after, found.values(), text, overwrite=overwrite_caption)
        if not is_new or any(after.lists.values()) or after.caption:  # else the user has a caption elsewhere
            changes[target] = (Content() if is_new else content, after)
    note = _note(path, beside, found, targets, is_stem=sidecar_name == "stem")
    return _apply(path, changes, tool, touch=touch, dry_run=dry_run, note=note)


def undo(
    photo: str | os.PathLike[str],
    *,
    captions_only: bool = False,
    lenient: bool = False,
    touch: bool = False,
    dry_run: bool = False,
    exiftool: ExifTool | None = None,
) -> Change:
    """Remove exactly what anytag wrote for a photo, from all its files.

    Sidecars that anytag created are deleted if nothing else is in them.

    Args:
        photo: path.
        captions_only: keep keywords.
        lenient: use only the sidecars if the photo is missing or cannot be read.
        touch, dry_run, exiftool: as for `write_keywords`.

    Raises:
        MissingToolError, MetadataError, OutputError: as for `write_keywords`.
    """
    path, tool = Path(photo) if lenient else _photo(os.fspath(photo)), exiftool or shared()
    found = read.contents(path, tool, lenient=lenient)
    take_out = words.uncaptioned if captions_only else words.undone
    changes = {one: (old, take_out(old) if old.has_record else old) for one, old in found.items()}
    return _apply(path, changes, tool, touch=touch, dry_run=dry_run, note=None)


def tried(path: str, work: Callable[[], Change]) -> Change:
    """Run `work`, and return an exception as the error of a change."""
    try:
        return work()
    except (MetadataError, OutputError, OSError) as error:
        return Change(path, error=failure(error))


def failure(error: Exception) -> Failure:
    """Convert an exception to a `Failure`."""
    return Failure(type(error).__name__, str(error))


def _photo(path: str) -> Path:
    photo = Path(path)
    if not photo.is_file():
        raise MetadataError(f"{path}: is not a file: expected the path of a photo")
    return photo


def _note(
    photo: Path, beside: Candidates, found: Iterable[Path], targets: Iterable[Path], *, is_stem: bool
) -> str | None:
    """Explain a sidecar's name that the user may not expect, or None."""
    others = beside.sharing
    if beside.stem is None and is_stem and photo.with_name(f"{photo.name}.xmp") in targets:
        others = sharing(photo)
    elif beside.stem is None or beside.stem in found:
        return None
    whose, written = ", ".join(others) or "another photo", ", ".join(one.name for one in targets)
    return f"{photo.stem}.xmp may belong to {whose}: {written} is written"


def _apply(
    photo: Path,
    changes: dict[Path, tuple[Content, Content]],
    exiftool: ExifTool,
    *,
    touch: bool,
    dry_run: bool,
    note: str | None,
) -> Change:
    files, added, removed, caption = [], dict[str, None](), dict[str, None](), None
    for target, (before, after) in changes.items():
        assignments = assigned(list(_assignments(before, after)))
        if not assignments:
            continue
        if before.unreadable:
            raise MetadataError(
                f"{target}: {before.unreadable} has letters that are not in UTF-8 and would be lost: correct "
                "them with the program that wrote them"
            )
        made = _made(target, before, after, assignments, exiftool)
        if not dry_run:
            _write(target, before, made, keep_time=target == photo and not touch)
        files.append(os.fspath(target))
        old, new = words.words(before), words.words(after)
        added.update(dict.fromkeys(word for word in new if word not in old))
        removed.update(dict.fromkeys(word for word in old if word not in new))
        caption = after.caption if after.caption != before.caption else caption
    left = {word for _, after in changes.values() for word in words.words(after)}  # in another file, perhaps
    gone = tuple(word for word in removed if word not in left)
    return Change(os.fspath(photo), tuple(files), tuple(added), gone, caption, note if files else None)


def _assignments(before: Content, after: Content) -> Iterator[tuple[str, str]]:
    """Tags and values of all changed lists, in full."""
    pairs = [(tag, before.lists.get(name, ()), after.lists.get(name, ())) for name, tag in read.TAGS.items()]
    for tag, old, new in (
        (f"{read.CAPTION}-x-default", before.caption, after.caption),
        (record.TAG, record.text(before), record.text(after)),
    ):
        pairs.append((tag, (old,) * bool(old), (new,) * bool(new)))
    for tag, was, now in pairs:
        if was != now:
            yield from ((tag, value) for value in now or ("",))


def _made(
    target: Path, before: Content, after: Content, assignments: list[str], exiftool: ExifTool
) -> bytes | None:
    """The new bytes of a file; None for a sidecar to remove."""
    if target.exists() and not os.access(target, os.W_OK):
        raise OutputError(f"{target} is write-protected: make it writable, or leave this photo out")
    if before.is_created and not after.is_created and _is_empty(target, after, exiftool):
        return None
    if before.lists.get("Keywords", ()) != after.lists.get("Keywords", ()):
        assignments = [*_iptc(before, after), *assignments]
    if _is_new(target):
        answer = _answer(exiftool, "-o", "-.xmp", *assignments)
    else:
        with named(target) as name:
            answer = _answer(exiftool, "-o", "-", *assignments, name, file=target)
    if answer.messages:  # after a mere warning it may have written nothing
        _check_made(answer, target, after, exiftool)
    return answer.output


def _is_new(target: Path) -> bool:
    return not target.exists() or not target.stat().st_size


def _write(target: Path, before: Content, made: bytes | None, *, keep_time: bool) -> None:
    _remove_stale(target.resolve().parent)
    if made is None:
        with writing(target):
            _check_unchanged(target, before)
            target.unlink()
        return
    facts = None if _is_new(target) else target.stat()
    with atomic_write(target) as draft:
        draft.write_bytes(made)
        _check_unchanged(target, before)
        if facts and keep_time:
            os.utime(draft, ns=(facts.st_atime_ns, facts.st_mtime_ns))
        if facts and hasattr(os, "chown"):
            with suppress(OSError):  # of another user: whoever runs this becomes the owner
                os.chown(draft, facts.st_uid, facts.st_gid)


def _answer(exiftool: ExifTool, *arguments: str, file: Path | None = None) -> Answer:
    """The content that exiftool makes.

    Raises:
        MetadataError: it refuses, or would lose a letter, or all of a block that it cannot read.
    """
    answer = exiftool.run(*arguments)
    lossy = next((plain(line) for line in answer.messages if any(one in line for one in _LOSSES)), None)
    if answer.error or lossy or not answer.output:
        raise _refused(file, answer.error or lossy or "it gave nothing")
    if file and file.suffix.lower() == ".xmp" and not _is_utf8(answer.output):
        raise _refused(file, "it has letters that are not in UTF-8")
    return answer


def _refused(file: Path | None, why: str) -> MetadataError:
    where = f"{file}: " if file else ""
    return MetadataError(f"{where}exiftool cannot write it: {why}")


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _check_made(answer: Answer, target: Path, after: Content, exiftool: ExifTool) -> None:
    """Compare what exiftool made with what it was told.

    Raises:
        MetadataError: it left the XMP as it was; gives its first warning.
    """
    with tempfile.TemporaryDirectory(prefix="anytag-") as folder:
        draft = Path(folder, target.name)
        draft.write_bytes(answer.output)
        stands = read.values(draft, exiftool, "-X", f"-{record.TAG}").get(record.TAG, ("",))
    if stands != (record.text(after),):
        raise _refused(target, plain(answer.messages[0]))


def _check_unchanged(target: Path, before: Content) -> None:
    if version(target) != before.version:
        raise MetadataError(f"{target} was changed by another program meanwhile: give the command again")


def _iptc(before: Content, after: Content) -> Iterator[str]:
    """Further arguments for IPTC: a charset that has all letters, what undo removes, Photoshop's digest."""
    if before.our_envelope_version and not after.our_envelope_version:
        yield "-IPTC:EnvelopeRecordVersion="
    if before.has_digest:
        yield "-Photoshop:IPTCDigest=new"
    if before.iptc_charset == "unmarked":
        yield from ("-charset", "iptc=utf8", "-IPTC:CodedCharacterSet=UTF8")
    elif not before.iptc_charset:
        try:
            "".join(after.lists.get("Keywords", ())).encode("cp1252")
        except UnicodeError:  # rewrite the whole block, or its other texts would be misread
            yield from ("-tagsfromfile", "@", "-IPTC:All", "--IPTC:Keywords", "-IPTC:CodedCharacterSet=UTF8")


def _is_empty(sidecar: Path, after: Content, exiftool: ExifTool) -> bool:
    """Whether a sidecar would have no content after anytag's is removed."""
    if any(after.lists.values()) or after.caption:
        return False
    known = {*read.TAGS.values(), read.CAPTION, record.TAG, "XMP-x:XMPToolkit"}
    found = read.values(sidecar, exiftool, "-X", "-a", "-XMP:All")
    return found.keys() <= known


def _remove_stale(folder: Path) -> None:
    """Delete drafts of killed processes from a folder, before it is first written to."""
    if folder in _looked_through():
        return
    _looked_through().add(folder)
    for draft in folder.glob(".*.new"):
        name = _DRAFT.fullmatch(draft.name)
        with suppress(OSError):
            if name and _is_ours(name[1]) and time.time() - draft.stat().st_mtime > _STALE:
                draft.unlink()


def _is_ours(name: str) -> bool:
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122  # the name of a draft's target
    return suffix == ".xmp" or suffix in IMAGE_SUFFIXES or len(name) == DRAFT_NAME_LENGTH


@cache
def _looked_through() -> set[Path]:
    return set()
