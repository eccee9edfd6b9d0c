"""Training samples of a caption head on a frozen encoder: cached tokens, captions, guiding tags."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch

from anytag._typing import Ints
from anytag.data.rows import Row
from anytag.parsing import Parser
from anytag.text_encoders.captions import clean_caption
from anytag.text_encoders.wordpiece import WordPieces
from anytag.torch.training.batch import Batch
from anytag.torch.training.feature_cache import FeatureCache
from anytag.torch.training.objectives import Guidance
from anytag.vocabulary import Vocabulary

BUCKET = 40  # number of batches among which captions are sorted by length


class CaptionSamples:
    """The captions of the training photos.

    Args:
        photos: rows with captions.
        cache: "tokens" float16 T×D of each view of the photos, and "row", the index of its photo.
        vocabulary: vocabulary of the guiding tags.
        pieces: wordpieces.
        tag_length: S.
        guidance: selection of the guiding tags.
    """

    def __init__(
        self,
        photos: Sequence[Row],
        cache: FeatureCache,
        vocabulary: Vocabulary,
        pieces: WordPieces,
        *,
        tag_length: int,
        guidance: Guidance,
    ) -> None:
        self.cache, self.pieces = cache, pieces
        self.tag_length, self.guidance = tag_length, guidance
        _, first, count = np.unique(cache.array("row"), return_index=True, return_counts=True)
        self.view_range = np.stack([first, count], 1)  # first view and number of views of each photo
        parser = Parser(vocabulary=vocabulary)
        captions = [
            (number, caption)
            for number, row in enumerate(photos)
            for caption in row.captions
            if row.split == "train"
        ]
        self.photo = np.array([number for number, _ in captions], np.int64)
        self.texts = [pieces.caption_text([clean_caption(caption)])[0] for _, caption in captions]
        self.tags = [tag_texts(parser, caption) for _, caption in captions]
        self.length = np.array([len(text) for text in self.texts])

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def key(self) -> str:
        """A hash of the captions' wordpieces."""
        return hashlib.sha256(b"".join(text.tobytes() for text in self.texts)).hexdigest()

    def order(self, draw: np.random.Generator, batch_size: int) -> Ints:
        """Each caption once, in steps of similar length: steps×batch_size."""
        steps = len(self) // batch_size
        order = draw.permutation(len(self))[: steps * batch_size]
        for start in range(0, len(order), BUCKET * batch_size):
            bucket = order[start : start + BUCKET * batch_size]
            order[start : start + len(bucket)] = bucket[np.argsort(self.length[bucket], kind="stable")]
        shuffled: Ints = draw.permutation(order.reshape(steps, batch_size))
        return shuffled

    def batch(self, numbers: Ints, *, draw: np.random.Generator) -> Batch:
        """A batch of captions, each with a view of its photo and a random subset of its tags."""
        first, count = self.view_range[self.photo[numbers]].T
        tokens = self.cache.take("tokens", first + draw.integers(0, count)).astype(np.float32)
        text = np.zeros((len(numbers), self.length[numbers].max()), np.int64)
        for row, number in zip(text, numbers, strict=True):
            row[: self.length[number]] = self.texts[number]
        guides = [self._guide(self.tags[number], draw) for number in numbers]
        ids, mask = map(torch.from_numpy, self.pieces.tag_text(guides, length=self.tag_length))
        return Batch(
            tokens=torch.from_numpy(tokens), tag_ids=ids, tag_mask=mask, caption_ids=torch.from_numpy(text)
        )

    def _guide(self, tags: Sequence[tuple[str, str]], draw: np.random.Generator) -> list[str]:
        """A random subset of a caption's tags in random order, by name or in the caption's words."""
        if draw.random() < self.guidance.unguided:
            return []
        kept = [number for number in draw.permutation(len(tags)) if draw.random() < self.guidance.kept]
        return [tags[number][draw.integers(2)] for number in kept]


def tag_texts(parser: Parser, caption: str) -> list[tuple[str, str]]:
    """The tags in a caption, each by name and in the caption's words."""
    return [(tag.name, caption[tag.start : tag.end].lower()) for tag in parser.parse(caption)]
