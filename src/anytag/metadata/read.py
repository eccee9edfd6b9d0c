"""Read metadata of photos and sidecars with exiftool.

Its output is RDF/XML, since its JSON turns keywords such as 2019.10, 1e3 and false into numbers and booleans.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

from anytag._io import version
from anytag.errors import MetadataError
from anytag.metadata import record
from anytag.metadata.exiftool import ExifTool, named
from anytag.metadata.keywords import Content, Field
from anytag.metadata.sidecars import Candidates, candidates

TAGS: dict[Field, str] = {
    "Subject": "XMP-dc:Subject",
    "TagsList": "XMP-digiKam:TagsList",
    "HierarchicalSubject": "XMP-lr:HierarchicalSubject",
    "Keywords": "IPTC:Keywords",
}
CAPTION = "XMP-dc:Description"

_BELONGS = (
    "XMP-photoshop:SidecarForExtension",
    "XMP-crs:RawFileName",
    "XMP-xmpMM:PreservedFileName",
    "XMP-xmpMM:DerivedFromFilePath",
)
_OTHER_CAPTIONS = ("IPTC:Caption-Abstract", "IFD0:ImageDescription")
_FIELDS = [tag for tag in TAGS.values() if not tag.startswith("IPTC")] + ["IPTC:All", record.TAG]
_OTHERS = [CAPTION, "IFD0:ImageDescription", "Photoshop:IPTCDigest", "Error", *_BELONGS]
_ASKED = ("-X", "-a", "-e", *(f"-{tag}" for tag in (*_FIELDS, *_OTHERS)))
_GROUP = re.compile(r"\{.*/([^/]+)/[\d.]+/\}(.+)")  # of a name as ElementTree has it
_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"

Values = dict[str, tuple[str, ...]]
"""Values by tag, such as "XMP-dc:Subject"."""


def contents(
    photo: Path, exiftool: ExifTool, beside: Candidates | None = None, *, lenient: bool = False
) -> dict[Path, Content]:
    """Read the content of a photo and of its sidecars.

    Args:
        photo: path of the photo.
        exiftool: to read with.
        beside: the XMP files beside it; by default they are searched for.
        lenient: read only the sidecars if the photo is missing or cannot be read.

    Raises:
        MetadataError: a file cannot be read.
    """
    beside = beside or candidates(photo)
    found: dict[Path, Content] = {}
    try:
        found[photo] = _read(photo, exiftool)
    except MetadataError:
        if not lenient:
            raise
    for path in (beside.full, beside.stem):
        if path is not None:
            if not path.is_file():  # a pipe would be waited for
                raise MetadataError(f"{path}: is no file, but has the name of a sidecar: move it away")
            is_empty = not path.stat().st_size
            read = Content(is_created=True, version=version(path)) if is_empty else _read(path, exiftool)
            if path == beside.full or beside.is_stem_ours(photo, read.sidecar_of):
                found[path] = read
    return found


def _read(path: Path, exiftool: ExifTool) -> Content:
    seen = version(path)
    return replace(content(values(path, exiftool)), version=seen)


def values(path: Path, exiftool: ExifTool, *tags: str) -> Values:
    """Read tags of a file with exiftool.

    Args:
        path: a photo or sidecar.
        exiftool: to read with.
        tags: options that select tags; by default those that `content` needs.

    Raises:
        MetadataError: it cannot be read, or is damaged.
    """
    # keywords are neither after the image data of a JPEG nor in its maker notes
    fast = ["-fast2"] if path.suffix.lower() in (".jpg", ".jpeg") else []
    with named(path) as name:
        answer = exiftool.run(*fast, *(tags or _ASKED), name)
    try:
        root = ElementTree.fromstring(answer.output)
    except ElementTree.ParseError as error:
        raise MetadataError(f"{path}: exiftool reads nothing ({answer.error or error})") from error
    found = _described(root)
    if wrong := found.pop("ExifTool:Error", None):
        raise MetadataError(f"{path}: exiftool cannot read it: {wrong[0]}")
    return found


def content(found: Values) -> Content:
    """Convert exiftool's values to `Content`."""
    charset = found.get("IPTC:CodedCharacterSet", ("",))[0]
    if not charset and _is_unmarked_utf8(found):
        charset = "unmarked"
        found = {
            tag: tuple(map(_as_utf8, all_)) if tag.startswith("IPTC:") else all_
            for tag, all_ in found.items()
        }

    unreadable = next((tag for tag in (*TAGS.values(), CAPTION) if not _is_text(found.get(tag, ()))), "")
    found = {tag: tuple(map(_shown, all_)) for tag, all_ in found.items()}

    def first(tag: str) -> str:
        return found.get(tag, ("",))[0]

    plain = Content(
        lists={name: found.get(tag, ()) for name, tag in TAGS.items()},
        caption=first(CAPTION),
        other_caption=next(filter(None, map(first, _OTHER_CAPTIONS)), "")
        or next((all_[0] for tag, all_ in found.items() if tag.startswith(f"{CAPTION}-")), ""),
        has_iptc=any(tag.startswith("IPTC:") for tag in found),
        iptc_charset=charset,
        has_envelope_version="IPTC:EnvelopeRecordVersion" in found,
        has_digest="Photoshop:IPTCDigest" in found,
        sidecar_of=tuple(os.path.basename(first(tag)) for tag in _BELONGS if first(tag)),  # noqa: PTH119
        unreadable=unreadable,
    )
    return record.read(plain, first(record.TAG))


def _described(root: ElementTree.Element) -> Values:
    found: Values = {}
    for element in (one for description in root for one in description):
        name = _GROUP.fullmatch(element.tag)
        if name is None:
            continue
        items = list(element.iter(f"{_RDF}li")) or [element]
        group = "IPTC" if name[1].startswith("IPTC") else name[1]
        key = f"{group}:{name[2]}"
        found[key] = (*found.get(key, ()), *filter(None, map(_text, items)))
    return found


def _text(element: ElementTree.Element) -> str:
    text = element.text or ""
    if element.get(f"{_RDF}datatype", "").endswith("base64Binary"):
        return base64.b64decode(text).decode("utf-8", "surrogateescape")
    return text


def _is_text(entries: Iterable[str]) -> bool:
    """Were all letters in UTF-8?"""
    return not any("\udc80" <= character <= "\udcff" for entry in entries for character in entry)


def _shown(entry: str) -> str:
    return entry.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _is_unmarked_utf8(found: Values) -> bool:
    """Whether IPTC without a declared charset is UTF-8, which exiftool decodes as Latin-1: Ã¤ for ä."""
    texts = [
        text for tag, all_ in found.items() if tag.startswith("IPTC:") for text in all_ if not text.isascii()
    ]
    return bool(texts) and all(_as_utf8(text) != text for text in texts)


def _as_utf8(text: str) -> str:
    try:
        return b"".join(map(_latin_byte, text)).decode()
    except UnicodeError:
        return text


def _latin_byte(character: str) -> bytes:
    try:
        return character.encode("cp1252")
    except UnicodeError:
        return character.encode("latin-1")
