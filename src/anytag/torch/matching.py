"""Alignment heads in torch behind the array interface that `anytag.reranking` uses."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from anytag._typing import Array, Floats, Ints
from anytag.torch.nn.alignment_head import AlignmentHead
from anytag.torch.nn.caption_head import CaptionHead

_TEXT_BATCH = 256
_PAIR_BATCH = 64  # 70 MB of keys and values per layer at the published size


class TorchMatcher:
    """Run alignment heads on the device of their weights, without gradients, in float32.

    Args:
        captions: the caption head whose tag encoder encodes the guiding tags.
        head: the alignment heads.
    """

    def __init__(self, captions: CaptionHead, head: AlignmentHead) -> None:
        self.captions, self.head = captions.eval(), head.eval()

    @property
    def space(self) -> int:
        """E, the dimension of the joint space of photos and texts."""
        return self.head.config.space

    def encode_images(
        self, tokens: Floats, pooled: Floats, tag_ids: Ints, tag_mask: Ints
    ) -> tuple[Floats, Floats]:
        """Encode N photos; see `anytag.runtime.base.Matcher` for all three methods."""
        with torch.inference_mode():
            image = self._tensor(tokens)
            tags = self.captions.encode_tags(self._tensor(tag_ids), self._tensor(tag_mask), image)
            vectors = self.head.embed_photos(self._tensor(pooled), tags)
            return _array(self.head.cross_memory(image, tags)), _array(vectors)

    def encode_texts(self, ids: Ints) -> Floats:
        """Unit vectors of texts, N×E."""
        with torch.inference_mode():
            parts = torch.split(self._tensor(ids), _TEXT_BATCH)
            return _array(torch.cat([self.head.embed_texts(part) for part in parts]))

    def score_pairs(self, memory: Floats, ids: Ints, pairs: Ints) -> Floats:
        """Matching logits of pairs of photo and text."""
        with torch.inference_mode():
            memories, texts = self.head.project_kv(self._tensor(memory)), self._tensor(ids)
            logits = [
                self.head.match(texts[part[:, 1]], memories, part[:, 0])
                for part in torch.split(self._tensor(pairs), _PAIR_BATCH)
            ]
            return _array(torch.cat(logits))

    def _tensor(self, array: Array) -> Tensor:
        """A copy on the device of the weights: torch does not accept read-only memory."""
        return torch.tensor(np.ascontiguousarray(array), device=self.head.fits.bias.device)


def _array(tensor: Tensor) -> Floats:
    array: Floats = tensor.float().cpu().numpy()
    return array
