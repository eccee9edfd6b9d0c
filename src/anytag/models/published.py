"""Locations of the files published by the authors of Tag2Text, RAM and RAM++."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from anytag.models.hub import Remote
from anytag.models.registry import cache

_REPOSITORY = "xinyu1205/recognize-anything/7cb804a8609e9f4b1a50b7f31436d2df40bb9481"
_CODE = f"{_REPOSITORY}/ram/data"
_RAW = "https://raw.githubusercontent.com"
_SPACE = "spaces/xinyu1205/Recognize_Anything-Tag2Text/resolve/main"
_PLUS = "xinyu1205/recognize-anything-plus-model/resolve/main"

TAGS = "ram_tag_list.txt"
CHINESE = "ram_tag_list_chinese.txt"
THRESHOLDS = "ram_tag_list_threshold.txt"
TAG2TEXT_TAGS = "tag2text_ori_tag_list.txt"
WORDPIECES = "vocab.txt"


def _list(name: str, sha256: str) -> Remote:
    return Remote(f"{_CODE}/{name}", _RAW, sha256=sha256)


_RAM_LISTS = (
    _list(TAGS, "5d96d2f7225527480ad773aaac76b6e5c08a18adf6eae9ca7d2ab923d5e7bd8b"),
    _list(CHINESE, "c912657a0f30be7b2f5df6ccffa17e1d84561d0bea508528e38b6d0d711bcfbe"),
    _list(THRESHOLDS, "b6f81d0de1bc7f9c251af512c413eae976c77dbfbadf700d4e3d90510f4c6447"),
)
_TAG2TEXT_LISTS = (_list(TAG2TEXT_TAGS, "7d05c7cb88ed46a2aee1434776964f6bdbda0c0f4233c8633e109084382d3a45"),)
_WORDPIECES = Remote(f"google-bert/bert-base-uncased/resolve/main/{WORDPIECES}")


@dataclass(frozen=True, slots=True)
class Published:
    """The files of one family.

    Attributes:
        lists: tags, their Chinese names and thresholds; wordpieces if the model has a caption head.
        embedding: the frozen text vectors of the tags, for checkpoints that were saved without them.
    """

    checkpoint: Remote
    lists: tuple[Remote, ...]
    embedding: Remote | None = None


_CLIP = "openai/clip-vit-base-patch16"
_CLIP_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")
CLIP = tuple(
    Remote(f"{_CLIP}/resolve/main/{name}") for name in ("config.json", *_CLIP_TOKENIZER, "pytorch_model.bin")
)
"""The CLIP model whose text tower RAM and RAM++ were trained with."""

PUBLISHED = {
    "ram-plus": Published(
        Remote(f"{_PLUS}/ram_plus_swin_large_14m.pth"),
        _RAM_LISTS,
        Remote(f"{_PLUS}/ram_plus_tag_embedding_class_4585_des_51.pth"),
    ),
    "ram": Published(
        Remote(f"{_SPACE}/ram_swin_large_14m.pth"),
        (*_RAM_LISTS, _WORDPIECES),
        Remote("xinyu1205/recognize_anything_model/resolve/main/ram_tag_embedding_class_4585.pth"),
    ),
    "tag2text": Published(
        Remote(f"{_SPACE}/tag2text_swin_14m.pth"),
        (*_TAG2TEXT_LISTS, _WORDPIECES),
    ),
}


def downloads() -> Path:
    """Folder of downloads of `anytag pull`, where `anytag convert` finds tag lists."""
    return cache().with_name("downloads")


def clip() -> Path:
    """Folder where `anytag pull --text` puts the files of CLIP."""
    return downloads() / _CLIP.rpartition("/")[2]


def lists() -> Path:
    """Folder where `anytag pull lists` puts benchmark annotations, and `anytag eval` finds them."""
    return cache().with_name("lists")


def _annotations(path: str, sha256: str) -> Remote:
    return Remote(f"{_REPOSITORY}/datasets/{path}", _RAW, sha256=sha256)


BENCHMARKS = (
    _annotations(
        "hico/hico_600_annots.txt",
        "68a0f34293550194ca9beb1ba6b0bed0bee134d5c956f286ef09427a484f3707",
    ),
    _annotations(
        "hico/hico_600_taglist.txt",
        "9154ff557b7c3bd1d3589f5a0fdfa3774ebe8c6e1f205d93a5058f7426303938",
    ),
    _annotations(
        "imagenet_multi/imagenet_multi_1000_annots.txt",
        "5e67b16d3e207f3af3cd4d2f105442e28e9770a92669d1ee8c11367a85bdfcd4",
    ),
    _annotations(
        "imagenet_multi/imagenet_multi_1000_taglist.txt",
        "571ae1c583b4be7da87519494c52bf405a46af05d5815627c7a0dee997068b60",
    ),
    _annotations(
        "openimages_common_214/openimages_common_214_ram_annots.txt",
        "f54429fd57ee9798aee2c7511a28b080998672a91886510ea2e7b60a785ad6cc",
    ),
    _annotations(
        "openimages_common_214/openimages_common_214_ram_taglist.txt",
        "3b2ec80fc92178b1e672a087a1e8c034ba3008dcb48dcfa5b2a38641077fc6cb",
    ),
    _annotations(
        "openimages_common_214/openimages_common_214_tag2text_idannots.txt",
        "a15f9864b0a3c22228a7c47fd523eadf7ecc33308f1a0ab184460a76f743fb47",
    ),
    _annotations(
        "openimages_common_214/openimages_common_214_tag2text_tagidlist.txt",
        "7a5e3e2eb8f4d7ade79742057434c878af3f22de8a45f18b3d91813c61921000",
    ),
    _annotations(
        "openimages_rare_200/openimages_rare_200_llm_tag_descriptions.json",
        "b65f1cdf4506df0efe987a8178f06c076e38ea5be5432355a00d12ac0db296e7",
    ),
    _annotations(
        "openimages_rare_200/openimages_rare_200_ram_annots.txt",
        "6a6f87480aaf86083131c632573c6ea302ca1dced29fbe5274254364fc1305a2",
    ),
    _annotations(
        "openimages_rare_200/openimages_rare_200_ram_taglist.txt",
        "8a173d0132907fa88451de2370d2dc4efee6807b952dfe6eeb9e77eeea2315cf",
    ),
)
"""Tag lists, annotations and descriptions of the papers' benchmarks; users must obtain the photos."""
