"""Alignment heads in torch, asked in arrays: what `anytag.reranking` needs of them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from anytag._typing import Array, Floats, Ints
from anytag.torch.nn.alignment_head import AlignmentHead
from anytag.torch.nn.caption_head import CaptionHead

_TEXTS = 256  # that are read at once
_PAIRS = 64  # whose text looks at its photo at once: 70 MB of keys and values a layer at the published size


class TorchMatcher:
    """Runs alignment heads where their weights are, without gradients, in float32.

    Args:
        captions: whose tag encoder tells the heads of the tags.
        head: the alignment heads.
    """

    def __init__(self, captions: CaptionHead, head: AlignmentHead) -> None:
        self.captions, self.head = captions.eval(), head.eval()

    @property
    def space(self) -> int:
        """E, of the space that photos and texts share."""
        return self.head.config.space

    def encode_images(
        self, tokens: Floats, pooled: Floats, tag_ids: Ints, tag_mask: Ints
    ) -> tuple[Floats, Floats]:
        """What is kept of N photos: see `anytag.runtime.base.Matcher`, for all three."""
        with torch.inference_mode():
            seen = self._tensor(tokens)
            tags = self.captions.encode_tags(self._tensor(tag_ids), self._tensor(tag_mask), seen)
            vectors = self.head.embed_photos(self._tensor(pooled), tags)
            return _array(self.head.cross_memory(seen, tags)), _array(vectors)

    def encode_texts(self, ids: Ints) -> Floats:
        """Unit vectors of texts."""
        with torch.inference_mode():
            parts = torch.split(self._tensor(ids), _TEXTS)
            return _array(torch.cat([self.head.embed_texts(some) for some in parts]))

    def score_pairs(self, memory: Floats, ids: Ints, pairs: Ints) -> Floats:
        """Logits that a text fits a photo."""
        with torch.inference_mode():
            memories, texts = self.head.project_kv(self._tensor(memory)), self._tensor(ids)
            logits = [
                self.head.match(texts[some[:, 1]], memories, some[:, 0])
                for some in torch.split(self._tensor(pairs), _PAIRS)
            ]
            return _array(torch.cat(logits))

    def _tensor(self, array: Array) -> Tensor:
        """A copy where the weights are; torch takes no read-only memory."""
        return torch.tensor(np.ascontiguousarray(array), device=self.head.fits.bias.device)


def _array(tensor: Tensor) -> Floats:
    array: Floats = tensor.float().cpu().numpy()
    return array
