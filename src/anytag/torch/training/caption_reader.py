"""Captions of a batch as an objective reads them: wordpieces, numbers of pairs, text vectors."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from anytag.text_encoders import TextEncoder
from anytag.text_encoders.queries import known_vectors
from anytag.text_encoders.wordpiece import WordPieces
from anytag.torch.nn.configs import NetworkConfig
from anytag.torch.training.batch import Batch
from anytag.torch.training.objectives import Objective
from anytag.torch.training.report import Tally

TEXT = 40  # wordpieces of a caption at most, as published


@dataclass
class CaptionReader:
    """What a step reads of captions.

    Attributes:
        text: makes text vectors of captions, where the objective aligns.
        pieces: makes wordpieces, where it has captions.
        unknown: captions that the text encoder does not know.
    """

    objective: Objective
    config: NetworkConfig
    text: TextEncoder
    pieces: WordPieces | None = None
    unknown: Tally = field(default_factory=Tally)

    def read(self, batch: Batch, *, draw: np.random.Generator, trusted: float = 1.0) -> Batch:
        """The batch with what is read of its captions.

        Args:
            draw: decides which photos are matched without guiding tags.
            trusted: how far the momentum encoder is heard, of as far as ever.
        """
        matching = self.objective.matching
        if self.pieces is not None and self.objective.reads:
            batch = self._cut(batch, self.pieces, draw)
        if matching is not None:
            pairs = torch.tensor([batch.numbers, text_numbers(batch.captions)]).T
            trust = torch.full((len(batch.captions),), matching.trust * trusted)
            batch = replace(batch, pair_ids=pairs, trust=trust)
        if self.objective.aligns:
            batch = replace(batch, texts=self._vectors(batch.captions))
        return batch

    def _cut(self, batch: Batch, pieces: WordPieces, draw: np.random.Generator) -> Batch:
        """Wordpieces of tags and of captions."""
        heads, alignment = self.config.captions, self.config.alignment
        tags, room = (TEXT, TEXT) if heads is None else (heads.tag_length, heads.positions)
        room = min(TEXT, room, TEXT if alignment is None else alignment.positions)
        named = batch.named
        if (matching := self.objective.matching) is not None:
            guided = draw.random(len(named)) >= matching.unguided
            named = [names if guide else () for names, guide in zip(named, guided, strict=True)]
        ids, mask = map(torch.from_numpy, pieces.tag_text(named, length=tags))
        words = torch.from_numpy(pieces.caption_text(batch.captions, length=room))
        return replace(batch, tag_ids=ids, tag_mask=mask, caption_ids=words)

    def _vectors(self, captions: list[str]) -> Tensor:
        """`caption_vectors`; what has none is counted."""
        vectors = caption_vectors(captions, self.text)
        for caption, known in zip(captions, vectors.any(1).tolist(), strict=True):
            if caption and not known:
                self.unknown.add("captions are no queries, as the text encoder does not know them", caption)
        return vectors


def caption_vectors(captions: Sequence[str], text: TextEncoder) -> Tensor:
    """N×D unit vectors; zeros where a caption is empty or says nothing the encoder knows."""
    vectors = torch.zeros(len(captions), text.dim)
    numbers = [number for number, caption in enumerate(captions) if any(map(str.isalpha, caption))]
    if numbers:
        known = known_vectors([captions[number] for number in numbers], text)
        vectors[numbers] = torch.from_numpy(known)
    return vectors


def text_numbers(texts: Sequence[str]) -> list[int]:
    """A number for each text, the same in every run and process; equal texts, and no others, share it."""
    hashes = (hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return [int.from_bytes(one, "big") >> 1 for one in hashes]
