"""CLIP's text tower as a text encoder, through transformers: what made the queries of RAM and RAM++.

Both were trained with the tower of CLIP ViT-B/16 (`openai/clip-vit-base-patch16` on the Hub), 512 wide.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from anytag.errors import MissingExtraError, ModelError, VocabularyError
from anytag.text_encoders import TextEncoder
from anytag.text_encoders.prompts import ensemble, plain_prompt, template_prompts, unit

Floats = NDArray[np.float32]

BATCH = 256


class ClipTextEncoder:
    """Texts -> unit vectors of CLIP's joint space. Texts longer than the tower reads (77 tokens) are cut.

    Args:
        tokenizer, tower: of one model, as transformers loads them; the tower ends in CLIP's projection.
        batch: texts embedded at once.
    """

    def __init__(self, tokenizer: Any, tower: Any, *, batch: int = BATCH) -> None:
        self._tokenizer, self._tower, self._batch = tokenizer, tower.eval(), batch

    @classmethod
    def load(cls, name: str | Path, *, device: str = "cpu", batch: int = BATCH) -> ClipTextEncoder:
        """The text tower of a CLIP model.

        Args:
            name: a folder in the form of transformers, or a name on the Hub. No code in it is run.
            device: torch's name of where to run it.
            batch: texts embedded at once.

        Raises:
            MissingExtraError: transformers is not installed.
            ModelError: nothing there is a CLIP model.
        """
        try:
            from transformers import CLIPTextModelWithProjection, CLIPTokenizer
        except ImportError as error:
            raise MissingExtraError("CLIP's text encoder", "clip") from error
        try:
            tokenizer = CLIPTokenizer.from_pretrained(str(name))
            tower: Any = CLIPTextModelWithProjection.from_pretrained(str(name))
        except (OSError, ValueError, RuntimeError) as error:
            raise ModelError(
                f"{name}: no CLIP text tower can be loaded ({error}); expected a folder that transformers "
                "wrote, or a hub name such as openai/clip-vit-base-patch16"
            ) from error
        return cls(tokenizer, tower.to(device), batch=batch)

    @property
    def dim(self) -> int:
        """Width of a text vector."""
        return int(self._tower.config.projection_dim)

    def encode(self, texts: Sequence[str]) -> Floats:
        """Vectors of texts: float32 n×dim, each row of length 1.

        Raises:
            VocabularyError: a text is empty.
        """
        if isinstance(texts, str):
            raise VocabularyError(f"got the single text {texts!r}, expected a list: encode([{texts!r}])")
        if empty := [text for text in texts if not text.strip()]:
            raise VocabularyError(f"got the empty text {empty[0]!r}, expected words such as 'red car'")
        rows = np.empty((len(texts), self.dim), np.float32)
        for start in range(0, len(texts), self._batch):
            part = list(texts[start : start + self._batch])
            rows[start : start + len(part)] = self._embed(part)
        return unit(rows)

    def _embed(self, texts: list[str]) -> Floats:
        longest = int(self._tower.config.max_position_embeddings)
        tokens = self._tokenizer(
            texts, padding=True, truncation=True, max_length=longest, return_tensors="pt"
        ).to(self._tower.device)
        with torch.inference_mode():
            vectors: Floats = self._tower(**tokens).text_embeds.float().cpu().numpy()
        return vectors


def template_queries(names: Sequence[str], encoder: TextEncoder) -> Floats:
    """RAM's query text of each tag: the mean of its 63 prompts; float32 n×dim, rows of length 1."""
    rows = [ensemble(encoder.encode(template_prompts(name))[None])[0] for name in names]
    return np.stack(rows) if rows else np.empty((0, encoder.dim), np.float32)


def description_queries(
    names: Sequence[str], descriptions: Sequence[Sequence[str]], encoder: TextEncoder
) -> Floats:
    """RAM++'s query texts of each tag: "a photo of a TAG." and its descriptions, each a vector of its own.

    Args:
        names: n tags.
        descriptions: of each tag, at least none; "a photo of a TAG." is put first where it is missing.
        encoder: gives unit vectors.

    Returns:
        float32 n×P×dim, P the longest list; shorter ones end in zero rows, which get no weight.
    """
    firsts = map(plain_prompt, names)
    texts = [
        list(said) if first in said else [first, *said]
        for first, said in zip(firsts, descriptions, strict=True)
    ]
    out = np.zeros((len(texts), max(map(len, texts), default=0), encoder.dim), np.float32)
    for row, said in zip(out, texts, strict=True):
        row[: len(said)] = encoder.encode(said)
    return out
