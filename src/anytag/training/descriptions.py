"""Descriptions of tags: reading them, and their text vectors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from anytag.errors import VocabularyError
from anytag.text_encoders import TextEncoder
from anytag.vocabulary import Vocabulary


def read_descriptions(path: Path, vocabulary: Vocabulary) -> list[list[str]]:
    """For every tag of the vocabulary its name and then its descriptions.

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
    return [[tag.name, *rows[tag.id]] for tag in vocabulary]


def text_vectors(texts: Sequence[Sequence[str]], encoder: TextEncoder) -> npt.NDArray[np.float32]:
    """K lists of texts -> K×P×text_width unit vectors, P the longest list; shorter ones end in zero rows."""
    flat = encoder.encode([text for group in texts for text in group])
    out = np.zeros((len(texts), max(map(len, texts)), flat.shape[1]), dtype=np.float32)
    at = 0
    for number, group in enumerate(texts):
        out[number, : len(group)] = flat[at : at + len(group)]
        at += len(group)
    return out
