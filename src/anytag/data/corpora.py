"""Annotations as others publish them: COCO captions and instances, the RAM papers' files, folders by class.

Large JSON files are read as a stream, once for each list that they hold.
"""

from __future__ import annotations

import io
import json
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

from anytag.data.io import is_folder, listing, open_read, open_write
from anytag.data.rows import SPLITS, OnError, Origin, Row, tell
from anytag.errors import AnytagError, MissingExtraError
from anytag.images import SUFFIXES


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
    captions: dict[Any, list[str]] = {}
    for annotation in items(path, "annotations.item"):
        if _has(annotation, {"image_id": int | str, "caption": str}, "annotation", path, on_error):
            captions.setdefault(annotation["image_id"], []).append(" ".join(annotation["caption"].split()))
    for image in _images(path, captions, on_error):
        yield Row(image["file_name"], source, split, captions=tuple(captions.pop(image["id"], ())))


def read_coco_instances(
    path: str, *, source: str, split: str, on_error: OnError | None = None
) -> Iterator[Row]:
    """Rows of COCO's instances_*.json: the categories of a photo's objects; all others are absent."""
    kinds: dict[str, Any] = {"id": int | str, "name": str}
    categories = items(path, "categories.item")
    names = {one["id"]: one["name"] for one in categories if _has(one, kinds, "category", path, on_error)}
    present_ids: dict[Any, set[Any]] = {}
    for thing in items(path, "annotations.item"):
        if _has(thing, {"image_id": int | str, "category_id": int | str}, "annotation", path, on_error):
            if thing["category_id"] not in names:
                tell(f"{path}: no category has the id {thing['category_id']!r} of an annotation", on_error)
                continue
            present_ids.setdefault(thing["image_id"], set()).add(thing["category_id"])
    for image in _images(path, present_ids, on_error):
        there = present_ids.pop(image["id"], set())
        tags, absent = (
            tuple(name for key, name in names.items() if (key in there) == present)
            for present in (True, False)
        )
        yield Row(image["file_name"], source, split, tags=tags, absent=absent)


def _images(path: str, entry: Mapping[Any, Any], on_error: OnError | None) -> Iterator[Any]:
    """The images of a COCO file, each once; tells of what is said of images that are not there.

    Whoever takes an image takes what is said of it out of `entry`.

    Raises:
        AnytagError: there are none.
    """
    ids: set[Any] = set()
    for image in items(path, "images.item"):
        if not _has(image, {"id": int | str, "file_name": str}, "image", path, on_error):
            continue
        if image["id"] in ids:
            tell(f"{path}: two images have the id {image['id']!r}; the first counts", on_error)
            continue
        ids.add(image["id"])
        yield image
    if not ids:
        raise AnytagError(
            f'{path} holds no images; expected the lists "images" and "annotations", as COCO has'
        )
    for number in entry:
        tell(f"{path}: no image has the id {number!r} that an annotation names", on_error)


def _has(one: Any, kinds: Mapping[str, Any], what: str, path: str, on_error: OnError | None) -> bool:
    """Whether an item has these fields, of these kinds; tells of one that has not."""
    if isinstance(one, dict) and all(isinstance(one.get(name), kind) for name, kind in kinds.items()):
        return True
    tell(f"{path}: the {what} {str(one)[:200]} lacks {' or '.join(kinds)}", on_error)
    return False


def write_coco_captions(path: str, rows: Iterable[Row]) -> None:
    """Writes photos and captions as COCO has them; tags are not in it."""
    with open_write(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8")
        text.write('{"images": [')
        lines: list[str] = []
        for number, row in enumerate(rows):
            text.write(",\n" if number else "\n")
            json.dump({"id": number, "file_name": row.image}, text, ensure_ascii=False)
            for caption in row.captions:
                one = {"id": len(lines), "image_id": number, "caption": caption}
                lines.append(json.dumps(one, ensure_ascii=False))
        text.write('],\n"annotations": [\n' + ",\n".join(lines) + "]}\n")
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
    origins_by_tag: list[tuple[str, Origin]] = [
        (tag_list[key], "text" if key in parsed else "model") for key in keys
    ]
    names = tuple(tuple(tag_list[key] for key in keys) for keys in each)
    return replace(row, captions=tuple(captions), parsed=names).with_origins(origins_by_tag)


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
            text = [name for name, origin in row.origins_by_tag if origin == "text"]
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
    photos = [name for name in listing(path) if posixpath.splitext(name)[1].lower() in SUFFIXES]
    classes = sorted({_class_of(name)[1] for name in photos} - {""})
    for name in photos:
        part, label = _class_of(name)
        tags = (label,) if label else ()
        absent = tuple(other for other in classes if other != label) if label else ()
        yield Row(name, source, part or split, tags=tags, absent=absent)


def _class_of(name: str) -> tuple[str, str]:
    """Split and class of a photo; each "" where the folders do not say."""
    first, *rest = name.split("/")[:-1] or [""]
    part = SPLITS.get(first.lower(), "")  # a folder that is a split rather than a class
    label = (rest[0] if rest else "") if part else first
    return part, label.replace("_", " ")
