"""Words become vectors: the form every text encoder has, and the static table of the embedded model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from anytag.text_encoders.static import StaticTextEncoder

__all__ = ["StaticTextEncoder", "TextEncoder"]


class TextEncoder(Protocol):
    """What a tagger asks of a text encoder."""

    @property
    def dim(self) -> int:
        """Width of a text vector."""
        ...

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of texts: float32 n×dim, each row of length 1.

        Raises:
            VocabularyError: a text is empty, or holds nothing that the encoder knows.
        """
        ...
