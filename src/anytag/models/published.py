"""What the authors of Tag2Text, RAM and RAM++ have published, and where: rows of one table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from anytag.models.hub import cache
from anytag.models.remote import Remote

_CODE = "xinyu1205/recognize-anything/7cb804a8609e9f4b1a50b7f31436d2df40bb9481/ram/data"
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
    """One family's files.

    Attributes:
        lists: tags, their Chinese names and thresholds; wordpieces where the model writes captions.
        embedding: the frozen text vectors of the tags, for checkpoints that were saved without.
    """

    checkpoint: Remote
    lists: tuple[Remote, ...]
    embedding: Remote | None = None


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
    """Where `anytag pull` puts what it downloads, and where `anytag convert` looks for lists."""
    return cache().with_name("downloads")
