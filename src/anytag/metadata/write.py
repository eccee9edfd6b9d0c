"""What anytag says of photos, written into sidecars or the photos themselves, and taken back.

exiftool never writes a file: it gives the new content, which takes the place of the old at once and whole.
"""

from __future__ import annotations

import os
import re
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
_LOSSES = ("could not be encoded", "format error")  # of a letter; of XMP that cannot be parsed, as a whole
_STALE = 1.0  # seconds: a draft that is older belongs to a run that was killed


@dataclass(frozen=True, slots=True)
class Change:
    """What was written for a photo, or would be.

    Attributes:
        path: the photo.
        files: that change: sidecars, or the photo itself; none where all is as it shall be.
        added: words that are new in one of them.
        removed: words that are gone.
        caption: that is new in one of them; "" for one that is gone, None where it stays.
        note: what the user should know of the choice of files.
        error: why nothing could be written, or not all.
    """

    path: str
    files: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    caption: str | None = None
    note: str | None = None
    error: Failure | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain: the row that --format jsonl writes."""
        row: dict[str, Any] = {"path": self.path, "files": list(self.files)}
        row |= {"added": list(self.added), "removed": list(self.removed), "caption": self.caption}
        error = {"type": self.error.type, "message": self.error.message} if self.error else None
        return {**row, "note": self.note, "error": error}


@dataclass(frozen=True, slots=True)
class Keywords:
    """The user's own keywords of a photo, without those that anytag wrote.

    Attributes:
        path: the photo as it was named.
        keywords: each with what is broader before it: ("animal", "dog").
        rejected: words of anytag that the user took out of a sidecar or photo.
        caption: the user's own, "" where there is none.
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
    """The user's own keywords in photos and their sidecars, a result a photo, also for one that fails.

    Args:
        photos: paths.
        exiftool: another than the one of this process.

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
    sidecar_name: SidecarName = "full",
    touch: bool = False,
    dry_run: bool = False,
    exiftool: ExifTool | None = None,
) -> Change:
    """Writes keywords beside those of the user, in place of those that anytag wrote before.

    Every keyword field then holds the union of the user's words, from the photo and its sidecars, and of
    ours, since programs read one field of one file. What the user took out since is not written again.

    Args:
        photo: a path.
        keywords: words, or paths of words such as ("animal", "dog"), the best first; None leaves those that
            are there as they are.
        embed: into the photo itself and the sidecars that it has; else into a sidecar, which is made.
        caption: a sentence for dc:description, where the user has none.
        overwrite_caption: also where he has one.
        rejected: words that may not be written besides those that he took out.
        sidecar_name: of a new sidecar.
        touch: a photo that is embedded gets a new time; else it keeps its own.
        dry_run: nothing is written, the change is told.
        exiftool: another than the one of this process.

    Raises:
        MissingToolError: exiftool is not installed.
        MetadataError: the photo or a sidecar cannot be read, or is of a format that cannot hold metadata.
        OutputError: a file cannot be written; each is as it was or as it shall be.
    """
    path, tool = _photo(os.fspath(photo)), exiftool or shared()
    ours = [words.clean((one,) if isinstance(one, str) else one) for one in keywords or ()]
    beside = candidates(path)
    found = read.contents(path, tool, beside)
    union, refused = words.wanted(found.values(), [one for one in ours if one], rejected)
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
    """Takes out exactly what anytag wrote for a photo, wherever it did: the user's words stay as they are.

    A sidecar that anytag made, and in which is nothing else, is removed.

    Args:
        photo: a path.
        captions_only: keywords stay.
        lenient: of a photo that is gone, or cannot be read any more, the sidecars are looked at alone.
        touch, dry_run, exiftool: as for `write_keywords`.

    Raises:
        MissingToolError, MetadataError, OutputError: as `write_keywords`.
    """
    path, tool = Path(photo) if lenient else _photo(os.fspath(photo)), exiftool or shared()
    found = read.contents(path, tool, lenient=lenient)
    take_out = words.uncaptioned if captions_only else words.undone
    changes = {one: (old, take_out(old)) for one, old in found.items() if old.has_record}
    return _apply(path, changes, tool, touch=touch, dry_run=dry_run, note=None)


def tried(path: str, work: Callable[[], Change]) -> Change:
    """A change, or in it why there is none: other photos go on."""
    try:
        return work()
    except (MetadataError, OutputError, OSError) as error:
        return Change(path, error=failure(error))


def failure(error: Exception) -> Failure:
    """An error as a row has it."""
    return Failure(type(error).__name__, str(error))


def _photo(path: str) -> Path:
    photo = Path(path)
    if not photo.is_file():
        raise MetadataError(f"{path}: is no file: expected the path of a photo")
    return photo


def _note(
    photo: Path, beside: Candidates, found: Iterable[Path], targets: Iterable[Path], *, is_stem: bool
) -> str | None:
    """Why a sidecar has not the name that the user may look for."""
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
        if not dry_run:
            _write(target, before, after, assignments, exiftool, keep_time=target == photo and not touch)
        files.append(os.fspath(target))
        old, new = words.words(before), words.words(after)
        added.update(dict.fromkeys(word for word in new if word not in old))
        removed.update(dict.fromkeys(word for word in old if word not in new))
        caption = after.caption if after.caption != before.caption else caption
    return Change(
        os.fspath(photo), tuple(files), tuple(added), tuple(removed), caption, note if files else None
    )


def _assignments(before: Content, after: Content) -> Iterator[tuple[str, str]]:
    """Tags and values: each list that changes, whole."""
    pairs = [(tag, before.lists.get(name, ()), after.lists.get(name, ())) for name, tag in read.TAGS.items()]
    for tag, old, new in (
        (f"{read.CAPTION}-x-default", before.caption, after.caption),
        (record.TAG, record.text(before), record.text(after)),
    ):
        pairs.append((tag, (old,) * bool(old), (new,) * bool(new)))
    for tag, was, now in pairs:
        if was != now:
            yield from ((tag, value) for value in now or ("",))


def _write(
    target: Path,
    before: Content,
    after: Content,
    assignments: list[str],
    exiftool: ExifTool,
    *,
    keep_time: bool,
) -> None:
    if target.exists() and not os.access(target, os.W_OK):
        raise OutputError(f"{target} is write-protected: make it writable, or leave this photo out")
    _remove_stale(target.resolve().parent)
    is_new = not target.exists() or not target.stat().st_size
    if before.is_created and not after.is_created and _is_empty(target, after, exiftool):
        with writing(target):
            _check_unchanged(target, before)
            target.unlink()
        return
    if before.lists.get("Keywords", ()) != after.lists.get("Keywords", ()):
        assignments = [*_iptc(before, after), *assignments]
    if is_new:
        answer = _answer(exiftool, "-o", "-.xmp", *assignments)
    else:
        with named(target) as name:
            answer = _answer(exiftool, "-o", "-", *assignments, name, file=target)
    facts = None if is_new else target.stat()
    with atomic_write(target) as draft:
        draft.write_bytes(answer.output)
        if answer.messages:  # after a mere warning it may have written nothing
            _check_written(draft, target, after, answer, exiftool)
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


def _check_written(draft: Path, target: Path, after: Content, answer: Answer, exiftool: ExifTool) -> None:
    """Holds what exiftool made against what it was told.

    Raises:
        MetadataError: it left the XMP as it was; gives its first warning.
    """
    stands = read.values(draft, exiftool, "-X", f"-{record.TAG}").get(record.TAG, ("",))
    if stands != (record.text(after),):
        raise _refused(target, plain(answer.messages[0]))


def _check_unchanged(target: Path, before: Content) -> None:
    if version(target) != before.version:
        raise MetadataError(f"{target} was changed by another program meanwhile: give the command again")


def _iptc(before: Content, after: Content) -> Iterator[str]:
    """What the IPTC block needs besides its keywords: a charset that has all letters, and Photoshop's sum."""
    if before.has_digest:
        yield "-Photoshop:IPTCDigest=new"
    if before.iptc_charset == "unmarked":
        yield from ("-charset", "iptc=utf8", "-IPTC:CodedCharacterSet=UTF8")
    elif not before.iptc_charset:
        try:
            "".join(after.lists.get("Keywords", ())).encode("cp1252")
        except UnicodeError:  # all of the block is written anew, else its old letters would be misread
            yield from ("-tagsfromfile", "@", "-IPTC:All", "--IPTC:Keywords", "-IPTC:CodedCharacterSet=UTF8")


def _is_empty(sidecar: Path, after: Content, exiftool: ExifTool) -> bool:
    """Is nothing left in a sidecar but what anytag takes out?"""
    if any(after.lists.values()) or after.caption:
        return False
    known = {*read.TAGS.values(), read.CAPTION, record.TAG, "XMP-x:XMPToolkit"}
    found = read.values(sidecar, exiftool, "-X", "-a", "-XMP:All")
    return found.keys() <= known


def _remove_stale(folder: Path) -> None:
    """Removes drafts that runs which were killed left in a folder, when it is first written to."""
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
