"""Read and write published annotation formats: COCO, the RAM papers' files, class folders.

Large JSON files are streamed, once per list that they contain.
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
from anytag.data.rows import OnError, Origin, Row, find_split, report_error
from anytag.errors import AnytagError, MissingExtraError
from anytag.images import SUFFIXES


def items(path: str, prefix: str) -> Iterator[Any]:
    """Stream the items below `prefix` of a JSON file, such as "images.item".

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
            raise AnytagError(f"{path}: not valid JSON ({error})") from error


def read_coco_captions(
    path: str, *, source: str, split: str, on_error: OnError | None = None
) -> Iterator[Row]:
    """Read COCO's captions_*.json: one row per photo, with or without captions."""
    captions: dict[Any, list[str]] = {}
    for annotation in items(path, "annotations.item"):
        if _has(annotation, {"image_id": int | str, "caption": str}, "annotation", path, on_error):
            captions.setdefault(annotation["image_id"], []).append(" ".join(annotation["caption"].split()))
    for image in _images(path, captions, on_error):
        yield Row(image["file_name"], source, split, captions=tuple(captions.pop(image["id"], ())))


def read_coco_instances(
    path: str, *, source: str, split: str, on_error: OnError | None = None
) -> Iterator[Row]:
    """Read COCO's instances_*.json: tags are the categories of a photo's objects; all others are absent."""
    kinds: dict[str, Any] = {"id": int | str, "name": str}
    categories = items(path, "categories.item")
    names = {one["id"]: one["name"] for one in categories if _has(one, kinds, "category", path, on_error)}
    present_ids: dict[Any, set[Any]] = {}
    for thing in items(path, "annotations.item"):
        if _has(thing, {"image_id": int | str, "category_id": int | str}, "annotation", path, on_error):
            if thing["category_id"] not in names:
                report_error(
                    f"{path}: no category has the id {thing['category_id']!r} of an annotation", on_error
                )
                continue
            present_ids.setdefault(thing["image_id"], set()).add(thing["category_id"])
    for image in _images(path, present_ids, on_error):
        present_categories = present_ids.pop(image["id"], set())
        tags, absent = (
            tuple(name for key, name in names.items() if (key in present_categories) == present)
            for present in (True, False)
        )
        yield Row(image["file_name"], source, split, tags=tags, absent=absent)


def _images(path: str, entry: Mapping[Any, Any], on_error: OnError | None) -> Iterator[Any]:
    """Yield the images of a COCO file, each once, and report annotations of images that do not exist.

    The caller removes the annotations of each image from `entry`.

    Raises:
        AnytagError: there are no images.
    """
    ids: set[Any] = set()
    for image in items(path, "images.item"):
        if not _has(image, {"id": int | str, "file_name": str}, "image", path, on_error):
            continue
        if image["id"] in ids:
            report_error(f"{path}: two images have the id {image['id']!r}; the first is used", on_error)
            continue
        ids.add(image["id"])
        yield image
    if not ids:
        raise AnytagError(
            f'{path} contains no images; expected the lists "images" and "annotations", as in COCO'
        )
    for number in entry:
        report_error(f"{path}: no image has the id {number!r} that an annotation names", on_error)


def _has(one: Any, kinds: Mapping[str, Any], what: str, path: str, on_error: OnError | None) -> bool:
    """Whether an item has these fields with these types; reports items that do not."""
    if isinstance(one, dict) and all(isinstance(one.get(name), kind) for name, kind in kinds.items()):
        return True
    report_error(f"{path}: the {what} {str(one)[:200]} lacks {' or '.join(kinds)}", on_error)
    return False


def write_coco_captions(path: str, rows: Iterable[Row]) -> None:
    """Write photos and captions in COCO's format, without tags."""
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
    """Read the training annotations of Tag2Text and RAM.

    Each item has image_path, caption, and union_label_id or, for each caption, parse_label_id. The former are
    the row's tags, the latter the tags of each caption (`parsed`). Tags parsed from a caption have the origin
    "text", all others "model".

    Args:
        tag_list: names, indexed by the ids from 0.
    """
    for number, item in enumerate(items(path, "item"), 1):
        try:
            yield _annotation(item, tag_list, Row(item["image_path"], source, split))
        except (KeyError, TypeError, ValueError) as error:
            report_error(f"{path}, item {number}: not an annotation ({error!r})", on_error, error)


def _annotation(item: Mapping[str, Any], tag_list: Sequence[str], row: Row) -> Row:
    """Add an item's captions and tags to a row."""
    captions = item["caption"] if isinstance(item["caption"], list) else [item["caption"]]
    if captions == [None]:
        captions = []
    if wrong := [caption for caption in captions if not isinstance(caption, str)]:
        raise TypeError(f"caption {wrong[0]!r}")
    each = item.get("parse_label_id") or []
    if not each and item.get("union_label_id") is None:
        raise KeyError("union_label_id")
    if each and len(each) != len(captions):
        raise ValueError(f"{len(captions)} captions, but {len(each)} lists in parse_label_id")
    parsed = {key for keys in each for key in keys}
    union = item.get("union_label_id") or ([] if "union_label_id" in item else sorted(parsed))
    if unknown := [key for key in (*parsed, *union) if not 0 <= key < len(tag_list)]:
        raise ValueError(f"tag {unknown[0]} of a list of {len(tag_list)}")
    keys = sorted(dict.fromkeys(union), key=lambda key: (key not in parsed, key if key in parsed else 0))
    origins_by_tag: list[tuple[str, Origin]] = [
        (tag_list[key], "text" if key in parsed else "model") for key in keys
    ]
    names = tuple(tuple(tag_list[key] for key in keys) for keys in each)
    return replace(row, captions=tuple(captions), parsed=names).with_origins(origins_by_tag)


def write_published(path: str, rows: Iterable[Row], *, tag_list: Sequence[str]) -> None:
    """Write the training annotations of Tag2Text and RAM.

    In a row without `parsed`, a caption gets the tags of origin "text" that occur in it, or all of them if
    none does.

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
    """Read class folders, CLASS/photo.jpg or SPLIT/CLASS/photo.jpg; all other classes are absent."""
    del on_error  # other files are skipped, and nothing else can be wrong
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
    """Split and class of a photo; "" if the folders do not specify them."""
    first, *rest = name.split("/")[:-1] or [""]
    part = find_split(first)  # a folder that is a split rather than a class
    label = (rest[0] if rest else "") if part else first
    return part, label.replace("_", " ")
