"""Record the embedded model's output for the example photos in tests/record/examples.json.

    python scripts/record_examples.py

A test compares with it, so that no code change alters a tag, a score or a caption unnoticed. Record it again
when the model itself changes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from anytag import Captioner, Tagger

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "tests" / "record" / "examples.json"
CUSTOM = ("red saucer: a small round plate in red", "wooden table", "space suit")
TOP_K = 200


def record() -> dict[str, Any]:
    """Photo -> default tags, highest-scoring tags, custom tags (id -> score each), and a caption."""
    tagger, captioner = Tagger.load(), Captioner.load()
    photos = sorted((ROOT / "examples" / "photos").glob("*.jpg"))

    def scores(photo: Path, **options: Any) -> dict[str, float]:
        return {tag["id"]: tag["score"] for tag in tagger.tag(photo, **options).to_dict()["tags"]}

    return {
        photo.name: {
            "default": scores(photo),
            "strongest": scores(photo, threshold=0, top_k=TOP_K),
            "custom": scores(photo, tags=CUSTOM),
            "caption": captioner.caption(photo).text,
        }
        for photo in photos
    }


if __name__ == "__main__":
    RECORD.parent.mkdir(exist_ok=True)
    RECORD.write_text(json.dumps(record(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{len(record())} photos -> {RECORD.relative_to(ROOT)}")
