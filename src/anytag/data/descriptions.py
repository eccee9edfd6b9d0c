"""Descriptions of tags, in the format of `anytag describe` and in RAM++'s published format."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from anytag._io import read_text
from anytag.errors import VocabularyError
from anytag.vocabulary import Vocabulary

_EXPECTED = 'expected {"id": ..., "descriptions": ["...", ...]}, as anytag describe writes them'


def read_descriptions(path: Path, vocabulary: Vocabulary) -> list[list[str]]:
    """Read the descriptions of every tag of a vocabulary; for their use see `text_encoders.queries`.

    Raises:
        VocabularyError: a line is not a tag with descriptions, or a tag has none.
        AnytagError: the file cannot be read.
    """
    lines = read_text(path).split("\n")
    rows = dict(_entry(path, number, line) for number, line in enumerate(lines, 1) if line.strip())
    missing = [tag.id for tag in vocabulary if tag.id not in rows]
    if missing:
        raise VocabularyError(
            f"{path}: no descriptions for {', '.join(missing[:5])} ({len(missing)} tags in all)"
        )
    return [rows[tag.id] for tag in vocabulary]


def _entry(path: Path, number: int, line: str) -> tuple[str, list[str]]:
    """Parse the id and the descriptions of a line."""
    try:
        row = json.loads(line)
        id, texts = row["id"], row["descriptions"]
    except (ValueError, LookupError, TypeError) as error:
        raise VocabularyError(f"{path}, line {number}: {_EXPECTED}") from error
    if not (isinstance(id, str) and isinstance(texts, list) and all(isinstance(text, str) for text in texts)):
        raise VocabularyError(f"{path}, line {number}: {_EXPECTED}")
    return id, texts


def from_published(rows: Iterable[Mapping[str, Sequence[str]]]) -> dict[str, list[str]]:
    """Convert the published format, a list of {tag: [texts]}, to a mapping of tags to texts.

    Raises:
        VocabularyError: an entry has another format.
    """
    texts_by_tag: dict[str, list[str]] = {}
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise VocabularyError(f"entry {number}: got {row!r}, expected {{tag: [descriptions]}}")
        for tag, texts in row.items():
            if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
                raise VocabularyError(f"entry {number}: {tag!r} has {texts!r}, expected a list of texts")
            texts_by_tag[tag] = list(texts)
    return texts_by_tag
