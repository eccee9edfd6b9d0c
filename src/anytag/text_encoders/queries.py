"""Query texts of a tag and their vectors: its words, RAM's templates, or RAM++'s descriptions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import numpy as np

from anytag._typing import Floats
from anytag.batching import batches
from anytag.errors import VocabularyError, brief
from anytag.text_encoders.prompts import ensemble, plain_prompt, template_prompts, unit

Prompts = Literal["words", "templates", "descriptions"]
"""The prompts that a model was trained with: a tag's name and each description as they are; the mean of 63
templates (RAM's code, for open sets); or its descriptions alone, or "a photo of a TAG." where there are none
(RAM++, section 3.2)."""


class TextEncoder(Protocol):
    """The interface of text encoders."""

    @property
    def dim(self) -> int:
        """Dimension of a text vector."""
        ...

    def encode(self, texts: Sequence[str]) -> Floats:
        """Embed texts: float32 n×dim, unit vectors.

        Raises:
            VocabularyError: a text is empty, or contains nothing that the encoder knows.
        """
        ...


def known_vectors(texts: Sequence[str], encoder: TextEncoder) -> Floats:
    """Embed texts as `encode` does, but with zeros for texts that contain nothing the encoder knows."""
    try:
        return encoder.encode(texts)
    except VocabularyError:
        if len(texts) < 2:
            return np.zeros((len(texts), encoder.dim), np.float32)
    half = len(texts) // 2
    return np.concatenate([known_vectors(texts[:half], encoder), known_vectors(texts[half:], encoder)])


def tag_rows(name: str, descriptions: Sequence[str], encoder: TextEncoder, *, prompts: Prompts) -> Floats:
    """Query rows of one tag: float32 P×dim, unit vectors.

    With "templates" P is 1: descriptions, which RAM does not use, enter the mean with the weight of the name.
    """
    if prompts == "words":
        return encoder.encode([name, *descriptions])
    if prompts == "descriptions":
        return encoder.encode(described(name, descriptions))
    row = ensemble(encoder.encode(template_prompts(name))[None])  # 1×dim
    if not descriptions:
        return row
    return ensemble(np.concatenate([row, encoder.encode(descriptions)])[None])


def described(name: str, descriptions: Sequence[str]) -> list[str]:
    """RAM++'s texts of a tag: its descriptions as they are, or "a photo of a TAG." if it has none."""
    return list(descriptions) or [plain_prompt(name)]


def template_queries(names: Sequence[str], encoder: TextEncoder) -> Floats:
    """RAM's query of each tag: the mean of its 63 prompts; float32 n×dim, unit vectors."""
    rows = [tag_rows(name, (), encoder, prompts="templates") for name in names]
    return np.concatenate(rows) if rows else np.empty((0, encoder.dim), np.float32)


def description_queries(
    names: Sequence[str], descriptions: Sequence[Sequence[str]], encoder: TextEncoder
) -> Floats:
    """RAM++'s queries of each tag: one vector per description.

    Args:
        names: n tags.
        descriptions: of each tag; without any, "a photo of a TAG." is used.
        encoder: returns unit vectors.

    Returns:
        float32 n×P×dim, P the longest list; shorter ones are padded with zero rows, which get no weight.
    """
    return query_rows(names, descriptions, encoder, prompts="descriptions")


def query_rows(
    names: Sequence[str], descriptions: Sequence[Sequence[str]], encoder: TextEncoder, *, prompts: Prompts
) -> Floats:
    """Query rows of tags, for training and for custom tags: float32 n×P×dim.

    Args:
        names: n tags.
        descriptions: of each tag, possibly empty.
        prompts: kind of prompts.

    Returns:
        P is the longest list; shorter ones are padded with zero rows, which get no weight.
    """
    rows = [
        tag_rows(name, texts, encoder, prompts=prompts)
        for name, texts in zip(names, descriptions, strict=True)
    ]
    out = np.zeros((len(rows), max(map(len, rows), default=0), encoder.dim), np.float32)
    for place, row in zip(out, rows, strict=True):
        place[: len(row)] = row
    return out


def check_texts(texts: Sequence[str]) -> None:
    """Check texts for a text encoder.

    Raises:
        VocabularyError: not a list of texts, or one is empty or contains a lone surrogate.
    """
    if isinstance(texts, str):
        raise VocabularyError(f"got the text {brief(texts)}, expected a list: encode([{brief(texts)}])")
    for text in texts:
        if not isinstance(text, str):
            raise VocabularyError(f"got {brief(text)}, expected a text such as 'red car'")
        if not text.strip():
            raise VocabularyError(f"got the empty text {brief(text)}, expected words such as 'red car'")
        if any("\ud800" <= c <= "\udfff" for c in text):
            raise VocabularyError(
                f"the text {brief(text)} is not Unicode: under LC_ALL=POSIX set PYTHONUTF8=1, or type ASCII"
            )


def in_batches(texts: Sequence[str], embed: Callable[[list[str]], Floats], *, dim: int, batch: int) -> Floats:
    """Apply `embed` to batches of texts: float32 n×dim, unit vectors.

    Raises:
        VocabularyError: not a list of texts, or one is empty.
    """
    check_texts(texts)
    parts = [np.asarray(embed(part), np.float32) for part in batches(texts, batch)]
    return unit(np.concatenate([np.empty((0, dim), np.float32), *parts]))
