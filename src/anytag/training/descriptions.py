"""Descriptions of tags, read from a file."""

from __future__ import annotations

import json
from pathlib import Path

from anytag.errors import VocabularyError
from anytag.vocabulary import Vocabulary


def read_descriptions(path: Path, vocabulary: Vocabulary) -> list[list[str]]:
    """The descriptions of every tag of the vocabulary; `text_encoders.queries` says what precedes them.

    Raises:
        VocabularyError: a tag has no descriptions.
    """
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    rows = {row["id"]: row["descriptions"] for row in lines}
    missing = [tag.id for tag in vocabulary if tag.id not in rows]
    if missing:
        raise VocabularyError(
            f"{path}: no descriptions of {', '.join(missing[:5])} ({len(missing)} tags in all)"
        )
    return [list(rows[tag.id]) for tag in vocabulary]
