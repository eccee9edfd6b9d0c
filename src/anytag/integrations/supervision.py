"""Convert tags to supervision's `Classifications` and, with `where=True`, `Detections`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import supervision

from anytag.results import TagResult, TagScore


def classifications(found: TagResult, classes: Sequence[str] | None = None) -> supervision.Classifications:
    """Convert the tags of a photo to classifications.

    Args:
        found: the result for one photo.
        classes: class names in the order of their ids; tags with other names are left out. By default the
            names of the tags in their order.
    """
    numbered = _numbered(found.tags, found, classes)
    return supervision.Classifications(
        class_id=np.array([number for number, _ in numbered], int),
        confidence=np.array([tag.score for _, tag in numbered], np.float32),
    )


def detections(found: TagResult, classes: Sequence[str] | None = None) -> supervision.Detections:
    """Convert the tags that have a box, from `Tagger.tag(..., where=True)`, to detections.

    Args:
        found, classes: as for `classifications`.
    """
    numbered = _numbered([tag for tag in found.tags if tag.box is not None], found, classes)
    return supervision.Detections(
        xyxy=np.array([tag.box for _, tag in numbered], np.float32).reshape(-1, 4),
        class_id=np.array([number for number, _ in numbered], int),
        confidence=np.array([tag.score for _, tag in numbered], np.float32),
        data={"class_name": np.array([tag.name for _, tag in numbered], str)},
    )


def _numbered(
    tags: Sequence[TagScore], found: TagResult, classes: Sequence[str] | None
) -> list[tuple[int, TagScore]]:
    """Tags with their class ids."""
    names = dict.fromkeys(found.names if classes is None else classes)
    numbers = {name: number for number, name in enumerate(names)}
    return [(numbers[tag.name], tag) for tag in tags if tag.name in numbers]
