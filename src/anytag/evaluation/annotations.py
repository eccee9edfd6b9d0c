"""Read benchmark annotations in the authors' formats from a folder of lists."""

from __future__ import annotations

import json
import lzma
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anytag._typing import Bools
from anytag.data.corpora import read_coco_instances
from anytag.data.descriptions import from_published
from anytag.data.rows import Row
from anytag.errors import AnytagError

# Subfolders in which archives and repositories store annotations.
_WITHIN = (
    ".", "benchmarks", "annotations", "flickr8k",
    "hico", "imagenet_multi", "openimages_common_214", "openimages_rare_200",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TagList:
    """A benchmark in two files, plain or .xz.

    Attributes:
        tags: one tag per line; numbers are indices of a vocabulary's tags.
        annotations: one image per line with its tags: "id,tag,tag", or "id,2 14" with indices of the list.
        by_text: whether annotations contain tags rather than indices.
    """

    tags: str
    annotations: str
    by_text: bool = True


PULLED = "get it with `anytag pull lists`"
COCO = "get annotations_trainval2017.zip from https://cocodataset.org/#download"
FLICKR8K = "get dataset_flickr8k.json of caption_datasets.zip from https://cs.stanford.edu/people/karpathy/deepimagesent/"


def find(name: str, *folders: Path, source: str = PULLED) -> Path:
    """Find an annotation file, plain or .xz, in one of the folders.

    Args:
        source: where to get it, for the error message.

    Raises:
        AnytagError: it is in none of them.
    """
    for folder in folders:
        for part in _WITHIN:
            for suffix in ("", ".xz"):
                if (path := folder / part / (name + suffix)).is_file():
                    return path
    raise AnytagError(
        f"{name} is not in {' or '.join(map(str, folders))}; {source}, and give its folder as --lists"
    )


def text_of(path: Path) -> str:
    """Read the UTF-8 text of a plain or compressed file."""
    if path.suffix == ".xz":
        with lzma.open(path, "rt", encoding="utf-8") as file:
            return file.read()
    return path.read_text(encoding="utf-8")


def read_list(source: TagList, folder: Path) -> tuple[list[str], list[str], Bools]:
    """Read tags K, image ids N, and labels N×K.

    A text that occurs twice in the list is annotated in both columns, as in the published code.

    Raises:
        AnytagError: a file is missing, or an image has a tag that is not in the list.
    """
    tags = text_of(find(source.tags, folder)).splitlines()
    lines = [line for line in text_of(find(source.annotations, folder)).splitlines() if line]
    columns: dict[str, list[int]] = {}
    for number, tag in enumerate(tags):
        columns.setdefault(tag if source.by_text else str(number), []).append(number)
    ids = [line.partition(",")[0] for line in lines]
    present = np.zeros((len(lines), len(tags)), dtype=bool)
    for number, line in enumerate(lines):
        rest = line.partition(",")[2]
        for tag in filter(None, rest.split(",") if source.by_text else rest.split()):
            if tag not in columns:
                raise AnytagError(
                    f"{source.annotations}: {ids[number]} has {tag!r}, which is not in {source.tags}"
                )
            present[number, columns[tag]] = True
    return tags, ids, present


def read_descriptions(name: str, folder: Path) -> dict[str, tuple[str, ...]]:
    """Read descriptions of each tag in the published format."""
    descriptions = from_published(json.loads(text_of(find(name, folder))))
    return {tag: tuple(texts) for tag, texts in descriptions.items()}


def coco_rows(lists: Path, images: Path) -> list[Row]:
    """Read rows from COCO's instances_val2017.json."""
    path = find("instances_val2017.json", *_beside(lists, images), source=COCO)
    return list(read_coco_instances(str(path), source="coco", split="val"))


def flickr8k_rows(lists: Path, images: Path) -> list[Row]:
    """Read Flickr8k's test rows from Karpathy's dataset_flickr8k.json or a captions.jsonl."""
    folders = _beside(lists, images)
    try:
        file = find("captions.jsonl", *folders)
    except AnytagError:
        file = find("dataset_flickr8k.json", *folders, source=FLICKR8K)
    try:
        lines = _flickr8k_lines(text_of(file), by_line=file.name.startswith("captions.jsonl"))
    except (ValueError, KeyError, TypeError) as error:
        raise AnytagError(
            f"{file} is not in the format of Flickr8k's captions ({error!r}); get it again"
        ) from error
    return [
        Row(image, "flickr8k", split, captions=tuple(texts))
        for image, split, texts in lines
        if split == "test"
    ]


def _flickr8k_lines(text: str, *, by_line: bool) -> list[tuple[str, str, list[str]]]:
    """Photo, split and captions of each photo."""
    if by_line:
        lines = [json.loads(line) for line in text.splitlines() if line]
        return [(f"{one['id']}.jpg", one["split"], one["captions"]) for one in lines]
    images = json.loads(text)["images"]
    return [(one["filename"], one["split"], [s["raw"] for s in one["sentences"]]) for one in images]


def _beside(lists: Path, images: Path) -> Sequence[Path]:
    """Folders for annotations that are distributed with the photos: the lists, or beside the photos."""
    return lists, images, images.parent
