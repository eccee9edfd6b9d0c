"""Text encoders without torch: a model folder's static table, or the graph of a network."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from anytag._typing import Floats
from anytag.batching import usable_cores
from anytag.errors import ModelError
from anytag.models.folder import ModelFolder
from anytag.runtime.onnx import TEXT, OnnxRuntime
from anytag.text_encoders import StaticTextEncoder, TextEncoder
from anytag.text_encoders.queries import in_batches

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER = "tokenizer.json"
_BATCH = 64  # texts of 20 tokens: 20 MB in the widest layer of CLIP's text tower


def open_text_encoder(folder: ModelFolder) -> TextEncoder:
    """Open the text encoder of a model folder.

    Raises:
        ModelError: the folder has none, or it does not match the card.
    """
    place, spec = folder.text, folder.card.text
    if spec is None or spec.kind == "static":
        return StaticTextEncoder.from_folder(place)
    return OnnxTextEncoder(folder, spec.folder)


class OnnxTextEncoder:
    """A text encoder graph with its tokenizer.

    Files are read when first needed. It uses all cores, since custom tags are prepared before the photos.

    Args:
        folder: the model.
        place: the subfolder with the graph and the tokenizer.
    """

    def __init__(self, folder: ModelFolder, place: str) -> None:
        self._folder, self._place = folder, place
        self._runtime = OnnxRuntime(folder, threads=usable_cores())

    @cached_property
    def dim(self) -> int:
        """Dimension of a text vector."""
        return int(self._embed(["photo"]).shape[1])

    def encode(self, texts: Sequence[str]) -> Floats:
        """Embed texts: float32 n×dim, unit vectors; texts are truncated to the graph's length (77 tokens for
        CLIP).

        Raises:
            VocabularyError: a text is empty.
            ModelError: the folder's files cannot be read.
        """
        return in_batches(texts, self._embed, dim=self.dim, batch=_BATCH)

    def _embed(self, texts: list[str]) -> Floats:
        ids = np.array([one.ids for one in self._tokenizer.encode_batch_fast(texts)], np.int64)  # n×L, padded
        (vectors,) = self._runtime.run(f"{self._place}/{TEXT}", {"ids": ids})
        return vectors

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        from tokenizers import Tokenizer  # about 20 ms, so only when a text is asked

        path = self._folder.file(f"{self._place}/{TOKENIZER}")
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise ModelError(f"{path} is not a tokenizer ({error}); install the model again") from error
        if tokenizer.padding is None or tokenizer.truncation is None:
            raise ModelError(f"{path} lacks padding or truncation; add the text encoder to the model again")
        return tokenizer
