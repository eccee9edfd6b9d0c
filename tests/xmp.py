"""Metadata for tests: exiftool as the judge, models of other programs' readers, and XMP as RDF says it."""

from __future__ import annotations

import atexit
import json
import os
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from anytag.metadata import ExifTool

NEEDS_EXIFTOOL = pytest.mark.skipif(
    not shutil.which("exiftool") and not os.environ.get("ANYTAG_TEST_TOOLS"),
    reason="exiftool is not installed: apt install libimage-exiftool-perl",
)
"""Skipped on a machine without exiftool, but never where `.ci/run` says that it is there."""

SUBJECT, TAGS_LIST, TREE = "XMP-dc:Subject", "XMP-digiKam:TagsList", "XMP-lr:HierarchicalSubject"
IPTC = "IPTC:Keywords"
FIELDS = (SUBJECT, TAGS_LIST, TREE)

RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
OURS = {
    "{http://purl.org/dc/elements/1.1/}subject",
    "{http://www.digikam.org/ns/1.0/}TagsList",
    "{http://ns.adobe.com/lightroom/1.0/}hierarchicalSubject",
}


@cache
def _judge() -> ExifTool:
    tool = ExifTool()
    atexit.register(tool.close)
    return tool


def exiftool(*arguments: str | Path) -> str:
    """Another exiftool than the product's; only how it is spoken to is shared, since a start takes long."""
    answer = _judge().run(*map(str, arguments))
    assert answer.error is None, (arguments, answer.messages)
    return answer.output.decode()


def tag(path: Path, *assignments: str) -> Path:
    """Another program writes: exiftool, into the file itself. Words of `assignments` are its arguments."""
    exiftool("-overwrite_original", *assignments, path)
    return path


def lists(path: Path) -> dict[str, list[str]]:
    """All lists of words in a file, by exiftool's group and name, letter by letter."""
    root = ElementTree.fromstring(exiftool("-X", "-a", path))
    found: dict[str, list[str]] = {}
    for element in (one for description in root for one in description):
        uri, _, name = element.tag.partition("}")
        items = list(element.iter(f"{RDF}li")) or [element]
        found[f"{uri.rsplit('/', 3)[-3]}:{name}"] = [item.text or "" for item in items]
    return found


def one_list(path: Path, name: str) -> list[str]:
    return lists(path).get(name, [])


def photo(path: Path, *, seed: int = 0, **options: Any) -> Path:
    """A small photo, by the suffix of its name."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    picture = Image.fromarray(coarse).resize((64, 48))
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".heic", ".heif"):
        import pillow_heif

        pillow_heif.from_pillow(picture).save(path, quality=90, **options)
    else:
        picture.save(path, **options)
    return path


def immich(path: Path, sidecars: Sequence[Path]) -> set[str]:
    """Tags that Immich takes: one field, the first that is filled; a sidecar's field hides the photo's.

    After its `metadata.service.ts` as of 2026: TagsList, else HierarchicalSubject with | as /, else Keywords.
    """
    found: dict[str, list[str]] = {}
    for file in (path, *sidecars):
        found |= {name: words for name, words in lists(file).items() if words}
    if found.get(TAGS_LIST):
        return set(found[TAGS_LIST])
    if found.get(TREE):
        swap = str.maketrans("|/", "/|")
        return {word.translate(swap) for word in found[TREE]}
    return set(found.get(IPTC, ()))


def photoprism(path: Path, sidecars: Sequence[Path]) -> set[str]:
    """Keywords that PhotoPrism takes: a field that a sidecar fills has that sidecar as its only source."""
    for file in sidecars:
        if words := lists(file).get(SUBJECT):
            return set(words)
    found = lists(path)
    return {*found.get(SUBJECT, ()), *found.get(IPTC, ())}


def rdf(path: Path) -> dict[str, Any]:
    """All properties of an XMP file, as RDF means them: attributes and elements alike, without our fields."""
    found: dict[str, Any] = {}
    for description in ElementTree.fromstring(path.read_bytes()).iter(f"{RDF}RDF"):
        for one in description:
            found |= _properties(one)
    return {
        name: value
        for name, value in found.items()
        if name not in OURS and not name.startswith("{urn:anytag:")
    }


def _properties(node: ElementTree.Element) -> dict[str, Any]:
    skipped = (f"{RDF}about", f"{RDF}parseType")
    found: dict[str, Any] = {name: text for name, text in node.attrib.items() if name not in skipped}
    return found | {child.tag: _value(child) for child in node}


def _value(node: ElementTree.Element) -> Any:
    language = node.get("{http://www.w3.org/XML/1998/namespace}lang")
    inner = [child for child in node if child.tag == f"{RDF}Description"]
    if inner:
        return _properties(inner[0])
    if len(node) == 1 and node[0].tag in (f"{RDF}Bag", f"{RDF}Seq", f"{RDF}Alt"):
        return [node[0].tag.removeprefix(RDF), *map(_value, node[0])]
    if len(node) or node.get(f"{RDF}parseType") == "Resource":
        return _properties(node)
    others = {
        name: text
        for name, text in node.attrib.items()
        if name != "{http://www.w3.org/XML/1998/namespace}lang"
    }
    text = others or (node.text or "").strip()
    return (language, text) if language else text


def as_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, default=str)
