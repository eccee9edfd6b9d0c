"""Released checkpoints in small: the tensors of the manifests, a sixteenth as wide, with random weights."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anytag.torch.checkpoints.read import detect_config
from anytag.torch.checkpoints.verify import plan

MANIFESTS = Path(__file__).parent / "manifest"
FILES = {
    "tag2text": "tag2text_swin_14m",
    "ram": "ram_swin_large_14m",
    "ram-plus": "ram_plus_swin_large_14m",
}
TAGS, DESCRIPTIONS, WORDS = 11, 3, 40
_POSITIONS = 64  # the text of tags alone is 40 long
_COUNTS = {4585: TAGS, 3429: TAGS, 233835: TAGS * DESCRIPTIONS, 30524: WORDS}
_NARROWER = 16
_DEEP = re.compile(r"visual_encoder\.layers\.2\.blocks\.([2-9]|1\d)\.|\.layer\.([2-9]|1\d)\.")
_KEPT = (529, 144)  # tables and masks of a window of 12
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def manifest(family: str) -> list[dict[str, Any]]:
    """Name, shape and more of every tensor of the released file."""
    read = json.loads((MANIFESTS / f"{FILES[family]}.json").read_text(encoding="utf-8"))
    tensors: list[dict[str, Any]] = read["tensors"]
    return tensors


def make_tensors(family: str, *, full: bool = False) -> dict[str, Tensor]:
    """By published names; what is tied in the released file is one tensor here too.

    Args:
        full: every layer of the released file; otherwise two at most of each kind.
    """
    random = torch.Generator().manual_seed(7)
    rows = [row for row in manifest(family) if full or not _DEEP.search(row["name"])]
    made: dict[str, Tensor] = {}
    for row in rows:
        if not row.get("derived"):
            made[row["name"]] = torch.randn(_small(row), generator=random) * 0.05
    for row in rows:
        if "same_storage_as" in row:
            made[row["name"]] = made[row["same_storage_as"]]
    count = len(made.get("label_embed", made.get("label_embed.weight", ())))
    made |= plan(family, detect_config(made, family), rows=count).derived
    return {row["name"]: made[row["name"]] for row in rows}


def write_checkpoint(path: Path, tensors: dict[str, Tensor], **more: object) -> Path:
    torch.save({"model": tensors, **more}, path)
    return path


def write_lists(folder: Path, *, names: list[str] | None = None) -> Path:
    """All lists that the three families ask for, as short as the small checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    names = names or [f"tag {number}" for number in range(TAGS - 2)] + ["train", "train"]
    unique = [f"{name} {place}" if name in names[:place] else name for place, name in enumerate(names)]
    words = [*_SPECIAL, "a", "picture", "of", "|", *(f"word{n}" for n in range(WORDS))][: WORDS - 2]
    texts = {
        "ram_tag_list.txt": unique,
        "ram_tag_list_chinese.txt": [f"标签{number} " for number in range(len(names))],
        "ram_tag_list_threshold.txt": [str(0.5 + number / 100) for number in range(len(names))],
        "tag2text_ori_tag_list.txt": names,
        "vocab.txt": words,
    }
    for name, lines in texts.items():
        (folder / name).write_text("\n".join(lines), encoding="utf-8")
    return folder


def _small(row: dict[str, Any]) -> list[int]:
    shape = row["shape"]
    small = [_COUNTS.get(side, side if side < 128 or side in _KEPT else side // _NARROWER) for side in shape]
    return [_POSITIONS, *small[1:]] if row["name"].endswith("position_embeddings.weight") else small
