"""The papers' benchmarks by name, with annotations from a folder of lists and photos from the user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from anytag.errors import AnytagError
from anytag.evaluation.annotations import TagList, coco_rows, flickr8k_rows, read_descriptions, read_list
from anytag.evaluation.tasks import Kind, Published, TagTask, TextTask, names_task, text_task, vocabulary_task
from anytag.queries.requests import CustomTag
from anytag.vocabulary import Vocabulary

TAG2TEXT = 3429
"""Number of tags of the released Tag2Text, which has its own annotations, by index because names repeat."""

_MAP = "mAP as published"
_RAM = "README of recognize-anything and arXiv 2306.03514 (RAM)"
_PLUS = "README of recognize-anything and arXiv 2310.15200 (RAM++)"
_KARPATHY = "Karpathy and Fei-Fei 2015, arXiv 1412.2306"
_ATTEND = "Xu et al. 2015, arXiv 1502.03044"


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A benchmark.

    Attributes:
        annotations: the files of a tag list, or another annotation format.
        kind: default task.
        images: what to download, and from where.
        suffix: to append to image ids.
        published: published figures, in percent.
        descriptions: file of descriptions for the open-set task.
        tag2text: files for a model with Tag2Text's vocabulary.
        halves: names of the figures for tags in the model's vocabulary and for others, where the paper
            distinguishes them.
    """

    annotations: TagList | Literal["coco", "flickr8k"]
    kind: Kind
    images: str
    suffix: str = ""
    published: tuple[Published, ...] = ()
    descriptions: str | None = None
    tag2text: TagList | None = None
    halves: tuple[str, str] | None = None


# Training data of the models with published figures, by prefix of their names.
_TRAINED_ON = {
    "Tag2Text": "14 million photos with captions and tags parsed from them, COCO's training photos included",
    "RAM": "14 million photos with captions and tags parsed from them, COCO's training photos included",
    "CLIP": "400 million pairs of photo and text of the web; zero-shot",
    "CNN + RNN": "Flickr8k's training photos and captions",
    "soft attention": "Flickr8k's training photos and captions",
}


def _figure(who: str, figure: str, value: float, source: str) -> Published:
    trained_on = next(text for start, text in _TRAINED_ON.items() if who.startswith(start))
    return Published(who, figure, value, source, trained_on)


def _published(source: str, who: str, **figures: float) -> tuple[Published, ...]:
    return tuple(_figure(who, name.replace("_", " "), value, source) for name, value in figures.items())


def _maps(source: str, values: dict[str, float]) -> tuple[Published, ...]:
    return tuple(_figure(who, _MAP, value, source) for who, value in values.items())


_OPENIMAGES = (
    "the test images of OpenImages v6 (https://storage.googleapis.com/openimages/web/download_v6.html), as "
    "test/0000c64e1253d68f.jpg, or without the folder test"
)

BENCHMARKS = {
    "openimages-common-214": Benchmark(
        TagList("openimages_common_214_ram_taglist.txt", "openimages_common_214_ram_annots.txt"),
        "tagging",
        _OPENIMAGES,
        ".jpg",
        _maps(_PLUS, {"Tag2Text 14M": 83.4, "RAM 14M": 86.5, "RAM++ 14M": 86.6, "CLIP": 73.6}),
        tag2text=TagList(
            "openimages_common_214_tag2text_tagidlist.txt", "openimages_common_214_tag2text_idannots.txt"
        ),
    ),
    "openimages-rare-200": Benchmark(
        TagList("openimages_rare_200_ram_taglist.txt", "openimages_rare_200_ram_annots.txt"),
        "open-set",
        _OPENIMAGES,
        ".jpg",
        _maps(_PLUS, {"RAM 14M": 68.8, "RAM++ 14M": 75.4, "CLIP": 66.2}),
        "openimages_rare_200_llm_tag_descriptions.json",
    ),
    "imagenet-multi": Benchmark(
        TagList("imagenet_multi_1000_taglist.txt", "imagenet_multi_1000_annots.txt", by_text=False),
        "tagging",
        "the 50,000 validation images of ILSVRC 2012 (https://image-net.org/download), as "
        "ILSVRC2012_val_00000001.JPEG",
        published=(
            *_published(_PLUS, "RAM 14M", mAP_of_common_tags=71.4, mAP_of_uncommon_tags=48.4),
            *_published(_PLUS, "RAM++ 14M", mAP_of_common_tags=72.4, mAP_of_uncommon_tags=55.0),
            *_published(_PLUS, "CLIP", mAP_of_common_tags=56.6, mAP_of_uncommon_tags=58.6),
        ),
        halves=("mAP of common tags", "mAP of uncommon tags"),
    ),
    "hico-600": Benchmark(
        TagList("hico_600_taglist.txt", "hico_600_annots.txt", by_text=False),
        "open-set",
        "the 9,658 test images of HICO (http://www-personal.umich.edu/~ywchao/hico/), as "
        "HICO_test2015_00000001.jpg",
        published=_maps(_PLUS, {"RAM 14M": 32.9, "RAM++ 14M": 37.7, "CLIP": 26.8}),
    ),
    "coco-80": Benchmark(
        "coco",
        "tagging",
        "the 5,000 images of COCO's val2017 (https://cocodataset.org/#download), as 000000000139.jpg, with "
        "instances_val2017.json of its annotations in --lists or beside the images",
        published=_maps(_RAM, {"Tag2Text 14M": 78.2, "RAM 14M": 80.6}),
    ),
    "flickr8k": Benchmark(
        "flickr8k",
        "caption",
        "the images of Flickr8k (Hodosh, Young and Hockenmaier 2013; the authors send them on request), as "
        "1000268201_693b08cb0e.jpg, with dataset_flickr8k.json of Karpathy's caption_datasets.zip "
        "(https://cs.stanford.edu/people/karpathy/deepimagesent/), or a captions.jsonl of id, split and "
        "captions, in --lists or beside the images",
        published=tuple(
            _figure(who, f"BLEU-{n}", value, source)
            for source, who, values in (
                (_KARPATHY, "CNN + RNN 2015", (57.9, 38.3, 24.5, 16.0)),
                (_ATTEND, "soft attention 2015", (67.0, 44.8, 29.9, 19.5)),
            )
            for n, value in enumerate(values, 1)
        ),
    ),
}


def known(name: str) -> Benchmark:
    """Return the benchmark with a name.

    Raises:
        AnytagError: there is none; the message lists the available ones.
    """
    if name not in BENCHMARKS:
        raise AnytagError(f"no benchmark {name!r}; available: {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def tag_benchmark(name: str, *, lists: Path, images: Path, vocabulary: Vocabulary, kind: Kind) -> TagTask:
    """Load a benchmark's photos, tags and labels.

    Args:
        lists: folder with the annotations.
        images: folder with the photos.
        vocabulary: of the model; Flickr8k's captions are parsed with it.
        kind: "open-set" uses descriptions, if the benchmark has them.

    Raises:
        AnytagError: the name, a file or the photos do not exist; the message says what to download.
    """
    one = known(name)
    check_images(images, one)
    if one.annotations == "coco":
        rows = coco_rows(lists, images)
        task, ids = names_task(name, rows, root=images), [row.image for row in rows]
    elif one.annotations == "flickr8k":
        rows = flickr8k_rows(lists, images)
        ids = [row.image for row in rows]
        task = vocabulary_task(name, rows, root=images, vocabulary=vocabulary)
    elif one.tag2text is not None and len(vocabulary) == TAG2TEXT:
        task, ids = _by_number(name, one.tag2text, lists, vocabulary)
    else:
        tags, ids, present = read_list(one.annotations, lists)
        descriptions = (
            read_descriptions(one.descriptions, lists) if one.descriptions and kind == "open-set" else {}
        )
        task = TagTask(name, (), tuple(CustomTag(tag, descriptions.get(tag, ())) for tag in tags), present)
    published = tuple(
        figure for figure in one.published if figure.figure.startswith("mAP") and kind == one.kind
    )
    if one.halves is not None:
        task = replace(task, halves=one.halves)
    return replace(task, photos=_photos(images, ids, one), published=published)


def _by_number(name: str, source: TagList, lists: Path, vocabulary: Vocabulary) -> tuple[TagTask, list[str]]:
    numbers, ids, present = read_list(source, lists)
    tags = [vocabulary[int(number)] for number in numbers]
    custom_tags = tuple(CustomTag(tag.name) for tag in tags)
    return TagTask(name, (), custom_tags, present, ids=tuple(tag.id for tag in tags)), ids


def text_benchmark(name: str, *, lists: Path, images: Path, kind: Kind) -> TextTask:
    """Load a benchmark's photos and captions; errors as for `tag_benchmark`."""
    one = known(name)
    if one.annotations != "flickr8k":
        raise AnytagError(
            f"{name} has no captions, which --task {kind} needs: try flickr8k, or another --task"
        )
    check_images(images, one)
    rows = flickr8k_rows(lists, images)
    task = text_task(name, rows, root=images)
    published = one.published if kind == "caption" else ()
    return replace(task, photos=_photos(images, [row.image for row in rows], one), published=published)


def check_images(images: Path, benchmark: Benchmark) -> None:
    """Raise an AnytagError that says what to download if the folder of photos does not exist."""
    if not images.is_dir():
        raise AnytagError(
            f"the folder {images} does not exist; get {benchmark.images}, and give their folder as --images"
        )


def _photos(images: Path, ids: Sequence[str], benchmark: Benchmark) -> tuple[Path, ...]:
    """Paths of images: by name, without the folders in the name, or in a subfolder of `images`.

    Missing images are kept, and count as unreadable later.

    Raises:
        AnytagError: all images are missing, or the annotations list none.
    """
    if not ids:
        raise AnytagError("the annotations of this benchmark list no photo: get them again")
    folders = [images, *(path for path in sorted(images.iterdir()) if path.is_dir())]
    paths = []
    found = 0
    for name in ids:
        file = name + benchmark.suffix
        places = [images / file, *(folder / Path(file).name for folder in folders)]
        place = next((path for path in places if path.is_file()), None)
        found += place is not None
        paths.append(place or places[0])
    if not found:
        raise AnytagError(
            f"{images} contains none of the {len(ids)} photos, for instance {ids[0]}{benchmark.suffix}; get "
            f"{benchmark.images}"
        )
    return tuple(paths)
