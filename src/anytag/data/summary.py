"""Summarise image-text data in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anytag.data.io import photo_source
from anytag.data.rows import Row
from anytag.errors import AnytagError
from anytag.images import load


@dataclass
class Summary:
    """Statistics of rows, accumulated row by row.

    Attributes:
        rows: number of rows.
        sources, splits: number of rows of each.
        tags: number of rows with each tag.
        origins: number of tags by origin; those removed by cleaning count as "cleaned".
        captions, caption_words: total numbers.
        without: number of rows without tags and captions.
        absent: number of absent tags.
        sizes: width and height of the photos that were opened.
        unread: number of photos that could not be opened.
    """

    rows: int = 0
    sources: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    tags: Counter[str] = field(default_factory=Counter)
    origins: Counter[str] = field(default_factory=Counter)
    captions: int = 0
    caption_words: int = 0
    without: int = 0
    absent: int = 0
    sizes: list[tuple[int, int]] = field(default_factory=list)
    unread: int = 0

    def add(self, row: Row) -> None:
        """Count one row."""
        self.rows += 1
        self.sources[row.source] += 1
        self.splits[row.split] += 1
        self.tags.update(row.tags)
        self.origins.update(origin for _, origin in row.origins_by_tag)
        if row.cleaned:
            self.origins["cleaned"] += len(row.cleaned)
        self.captions += len(row.captions)
        self.caption_words += sum(len(caption.split()) for caption in row.captions)
        self.without += not (row.captions or row.tags)
        self.absent += len(row.absent)

    def open(self, row: Row, root: str) -> None:
        """Record the size of one photo."""
        try:
            photo = load(photo_source(root, row.image), min_side=1)
            self.sizes.append((photo.width, photo.height))
        except AnytagError:
            self.unread += 1

    def to_dict(self, *, top: int = 20) -> dict[str, Any]:
        """Convert to plain values, with the `top` most frequent tags."""
        return {
            "rows": self.rows,
            "sources": dict(self.sources.most_common()),
            "splits": dict(self.splits.most_common()),
            "captions": self.captions,
            "words_a_caption": round(self.caption_words / self.captions, 1) if self.captions else None,
            "tags": self.tags.total(),
            "distinct_tags": len(self.tags),
            "origins": dict(self.origins.most_common()),
            "absent": self.absent,
            "rows_that_say_nothing": self.without,
            "most_frequent": dict(self.tags.most_common(top)),
            "photos": self._photos(),
        }

    def _photos(self) -> dict[str, Any] | None:
        if not self.sizes and not self.unread:
            return None
        sides = np.array(self.sizes or [(0, 0)])
        low, middle, high = (np.quantile(sides, share, axis=0).round().astype(int) for share in (0, 0.5, 1))
        named = {"smallest": low, "median": middle, "largest": high}
        sizes = {name: "×".join(map(str, pair)) for name, pair in named.items()}
        return {"opened": len(self.sizes), "unreadable": self.unread, **sizes}


def summarise(rows: Iterable[Row], root: str, *, photos: int = 200) -> Summary:
    """Summarise all rows, and the sizes of the first `photos` photos."""
    summary = Summary()
    for row in rows:
        summary.add(row)
        if summary.rows <= photos:
            summary.open(row, root)
    return summary
