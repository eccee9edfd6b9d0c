"""Annotations as others publish them: COCO captions and instances, the RAM papers' files, folders by class.

Large JSON files are read as a stream, once for each list that they hold.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

from anytag.errors import AnytagError, MissingExtraError

from .files import is_folder, listing, open_read, open_write
from .rows import OnError, Origin, Row, tell

PHOTOS = frozenset({"jpg", "jpeg", "png", "webp", "tif", "tiff", "bmp", "gif", "avif", "heic", "heif"})
SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "dev": "dev", "test": "test"}
"""Names of folders that are splits rather than classes."""


def items(path: str, prefix: str) -> Iterator[Any]:
    """The items below `prefix` of a JSON file, such as "images.item", as a stream.

    Raises:
        AnytagError: not JSON.
        MissingExtraError: the package that streams JSON is not installed.
    """
    try:
        ijson = import_module("ijson")
    except ImportError as error:
        raise MissingExtraError("reading large JSON files", "data") from error
    with open_read(path) as file:
        try:
            yield from ijson.items(file, prefix, use_float=True)
        except ijson.JSONError as error:
            raise AnytagError(f"{path}: not JSON that can be read ({error})") from error


def read_coco_captions(
    path: str, *, source: str, split: str, on_error: OnError | None = None
) -> Iterator[Row]:
    """Rows of COCO's captions_*.json: one a photo that has captions or not."""
    captions: dict[int, list[str]] = {}
    for said in items(path, "annotations.item"):
        captions.setdefault(said["image_id"], []).append(" ".join(said["caption"].split()))
    for image in items(path, "images.item"):
        if _is_named(image, path, on_error):
            yield Row(image["file_name"], source, split, captions=tuple(captions.get(image["id"], ())))


def read_coco_instances(
    path: str, *, source: str, split: str, on_error: OnError | None = None
) -> Iterator[Row]:
    """Rows of COCO's instances_*.json: the categories of a photo's objects; all others are absent."""
    names = {one["id"]: one["name"] for one in items(path, "categories.item")}
    seen: dict[int, set[int]] = {}
    for thing in items(path, "annotations.item"):
        seen.setdefault(thing["image_id"], set()).add(thing["category_id"])
    for image in items(path, "images.item"):
        if _is_named(image, path, on_error):
            there = seen.get(image["id"], set())
            tags, absent = (
                tuple(name for key, name in names.items() if (key in there) == wanted)
                for wanted in (True, False)
            )
            yield Row(image["file_name"], source, split, tags=tags, absent=absent)


def _is_named(image: Any, path: str, on_error: OnError | None) -> bool:
    if isinstance(image, dict) and {"id", "file_name"} <= set(image):
        return True
    tell(f"{path}: the image {image!r} lacks id or file_name", on_error)
    return False


def write_coco_captions(path: str, rows: Iterable[Row]) -> None:
    """Writes photos and captions as COCO has them; tags are not in it."""
    with open_write(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8")
        text.write('{"images": [')
        said: list[str] = []
        for number, row in enumerate(rows):
            text.write(",\n" if number else "\n")
            json.dump({"id": number, "file_name": row.image}, text, ensure_ascii=False)
            for caption in row.captions:
                one = {"id": len(said), "image_id": number, "caption": caption}
                said.append(json.dumps(one, ensure_ascii=False))
        text.write('],\n"annotations": [\n' + ",\n".join(said) + "]}\n")
        text.detach()


def read_published(
    path: str,
    *,
    source: str,
    split: str,
    tag_list: Sequence[str],
    on_error: OnError | None = None,
) -> Iterator[Row]:
    """Rows of the annotations that Tag2Text and RAM are trained with.

    Each item has image_path, caption, union_label_id and, for each caption, parse_label_id: one of the two
    at least. The first are the row's tags, the second what each caption names (`parsed`). A
    tag that a caption was parsed to is of the text, any other of the model that generated it.

    Args:
        tag_list: the names that the ids number from 0.
    """
    for number, item in enumerate(items(path, "item"), 1):
        try:
            yield _annotation(item, tag_list, Row(item["image_path"], source, split))
        except (KeyError, TypeError, ValueError) as error:
            tell(f"{path}, item {number}: not an annotation ({error!r})", on_error, error)


def _annotation(item: Mapping[str, Any], tag_list: Sequence[str], row: Row) -> Row:
    """An item's captions, their tags and the photo's, put into a row."""
    captions = item["caption"] if isinstance(item["caption"], list) else [item["caption"]]
    each = item.get("parse_label_id") or []
    if not each and item.get("union_label_id") is None:
        raise KeyError("union_label_id")
    if each and len(each) != len(captions):
        raise ValueError(f"{len(captions)} captions, but {len(each)} lists in parse_label_id")
    parsed = {key for keys in each for key in keys}
    union = item.get("union_label_id") or ([] if "union_label_id" in item else sorted(parsed))
    if wrong := [key for key in (*parsed, *union) if not 0 <= key < len(tag_list)]:
        raise ValueError(f"tag {wrong[0]} of a list of {len(tag_list)}")
    keys = sorted(dict.fromkeys(union), key=lambda key: (key not in parsed, key if key in parsed else 0))
    said: list[tuple[str, Origin]] = [(tag_list[key], "text" if key in parsed else "model") for key in keys]
    names = tuple(tuple(tag_list[key] for key in keys) for keys in each)
    return replace(row, captions=tuple(captions), parsed=names).saying(said)


def write_published(path: str, rows: Iterable[Row], *, tag_list: Sequence[str]) -> None:
    """Writes such annotations. A caption of a row without `parsed` gets those of the text's tags
    that are among its words, or all of them where none is.

    Raises:
        AnytagError: a tag is not in `tag_list`.
    """
    number = {name: key for key, name in reversed(list(enumerate(tag_list)))}
    with open_write(path) as file:
        file.write(b"[")
        for count, row in enumerate(rows):
            if unknown := [name for name in row.tags if name not in number]:
                raise AnytagError(f"{row.image}: {unknown[0]!r} is not in the tag list")
            text = [name for name, origin in row.said if origin == "text"]
            item = {
                "image_path": row.image,
                "caption": list(row.captions),
                "union_label_id": sorted(number[name] for name in row.tags),
                "parse_label_id": [[number[name] for name in names] for names in row.parsed]
                or [_parsed(caption, text, number) for caption in row.captions],
            }
            file.write(b",\n" if count else b"\n")
            file.write(json.dumps(item, ensure_ascii=False).encode())
        file.write(b"]\n")


def _parsed(caption: str, text: Sequence[str], number: dict[str, int]) -> list[int]:
    named = [name for name in text if name.lower() in caption.lower()]
    return sorted(number[name] for name in named or text)


def read_folders(path: str, *, source: str, split: str, on_error: OnError | None = None) -> Iterator[Row]:
    """Rows of folders that are classes: CLASS/photo.jpg or SPLIT/CLASS/photo.jpg; others are absent."""
    del on_error  # a file that is no photo is passed over, and nothing else can be wrong
    if not is_folder(path):
        raise AnytagError(f"{path} is not a folder")
    photos = [name for name in listing(path) if name.rpartition(".")[2].lower() in PHOTOS]
    classes = sorted({_class_of(name)[1] for name in photos} - {""})
    for name in photos:
        part, label = _class_of(name)
        tags = (label,) if label else ()
        absent = tuple(other for other in classes if other != label) if label else ()
        yield Row(name, source, part or split, tags=tags, absent=absent)


def _class_of(name: str) -> tuple[str, str]:
    """Split and class of a photo; each "" where the folders do not say."""
    first, *rest = name.split("/")[:-1] or [""]
    part = SPLITS.get(first.lower(), "")
    label = (rest[0] if rest else "") if part else first
    return part, label.replace("_", " ")
