"""Words without torch: a model folder's text encoder, a static table or a network's graph."""

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
_BATCH = 64  # texts of 20 tokens: 20 MB of the widest layer of CLIP's


def open_text_encoder(folder: ModelFolder) -> TextEncoder:
    """What makes vectors of the user's words.

    Raises:
        ModelError: the folder has none, or it is not what the card says.
    """
    place, spec = folder.text, folder.card.text
    if spec is None or spec.kind == "static":
        return StaticTextEncoder.from_folder(place)
    return OnnxTextEncoder(folder, spec.folder)


class OnnxTextEncoder:
    """A graph that makes vectors of tokens, and the tokenizer that cuts texts as the graph was trained.

    Files are read when first needed. Custom tags are prepared once, before the photos, on all cores.

    Args:
        folder: the model.
        place: its subfolder with the two files.
    """

    def __init__(self, folder: ModelFolder, place: str) -> None:
        self._folder, self._place = folder, place
        self._runtime = OnnxRuntime(folder, threads=usable_cores())

    @cached_property
    def dim(self) -> int:
        """Width of a text vector."""
        return int(self._embed(["photo"]).shape[1])

    def encode(self, texts: Sequence[str]) -> Floats:
        """Vectors of texts: float32 n×dim, each row of length 1; what a text has beyond the graph's length
        (CLIP's is 77 tokens) is cut.

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
            raise ModelError(f"{path} neither fills up nor cuts texts; give the model its text encoder again")
        return tokenizer
