"""Convert the captions of a batch to the inputs of an objective: wordpieces, pair ids, text vectors."""

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

TEXT = 40  # maximum number of wordpieces of a caption, as published


@dataclass
class CaptionReader:
    """Adds the inputs made from captions to a batch.

    Attributes:
        text: text encoder of captions, for the alignment term.
        pieces: wordpieces, for the caption and matching terms.
        unknown: count of captions that the text encoder cannot encode.
    """

    objective: Objective
    config: NetworkConfig
    text: TextEncoder
    pieces: WordPieces | None = None
    unknown: Tally = field(default_factory=Tally)

    def read(self, batch: Batch, *, draw: np.random.Generator, trusted: float = 1.0) -> Batch:
        """The batch with the inputs made from its captions.

        Args:
            draw: random generator that selects the photos that are matched without guiding tags.
            trusted: factor of the momentum encoder's weight, in [0, 1], for its ramp-up.
        """
        matching = self.objective.matching
        if self.pieces is not None and self.objective.reads:
            batch = self._wordpieces(batch, self.pieces, draw)
        if matching is not None:
            pairs = torch.tensor([batch.numbers, text_numbers(batch.captions)]).T
            trust = torch.full((len(batch.captions),), matching.trust * trusted)
            batch = replace(batch, pair_ids=pairs, trust=trust)
        if self.objective.aligns:
            batch = replace(batch, texts=self._vectors(batch.captions))
        return batch

    def _wordpieces(self, batch: Batch, pieces: WordPieces, draw: np.random.Generator) -> Batch:
        """Add the wordpieces of tags and captions."""
        heads, alignment = self.config.captions, self.config.alignment
        tag_length, length = (TEXT, TEXT) if heads is None else (heads.tag_length, heads.positions)
        length = min(TEXT, length, TEXT if alignment is None else alignment.positions)
        tags = batch.caption_tags
        if (matching := self.objective.matching) is not None:
            guided = draw.random(len(tags)) >= matching.unguided
            tags = [names if guide else () for names, guide in zip(tags, guided, strict=True)]
        ids, mask = map(torch.from_numpy, pieces.tag_text(tags, length=tag_length))
        words = torch.from_numpy(pieces.caption_text(batch.captions, length=length))
        return replace(batch, tag_ids=ids, tag_mask=mask, caption_ids=words)

    def _vectors(self, captions: list[str]) -> Tensor:
        """`caption_vectors`; captions without a vector are counted."""
        vectors = caption_vectors(captions, self.text)
        for caption, known in zip(captions, vectors.any(1).tolist(), strict=True):
            if caption and not known:
                self.unknown.add("captions are not used as queries: the text encoder knows no word", caption)
        return vectors


def caption_vectors(captions: Sequence[str], text: TextEncoder) -> Tensor:
    """Unit vectors N×D of captions; zeros if a caption is empty or the encoder knows none of its words."""
    vectors = torch.zeros(len(captions), text.dim)
    numbers = [number for number, caption in enumerate(captions) if any(map(str.isalpha, caption))]
    if numbers:
        known = known_vectors([captions[number] for number in numbers], text)
        vectors[numbers] = torch.from_numpy(known)
    return vectors


def text_numbers(texts: Sequence[str]) -> list[int]:
    """A 63-bit id for each text, the same in every run and process; equal texts have equal ids."""
    hashes = (hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return [int.from_bytes(one, "big") >> 1 for one in hashes]
