"""Captions by torch, asked as `anytag.runtime.caption_onnx.OnnxCaptions` is asked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from anytag._typing import Array, Floats, Ints
from anytag.torch.nn.caption_head import CaptionHead
from anytag.torch.nn.small_caption_head import GuidedHead

State = tuple[Tensor, Tensor]
Head = CaptionHead | GuidedHead


class TorchCaptions:
    """Runs a caption head where its weights are, without gradients.

    Args:
        head: set to evaluation mode.
    """

    def __init__(self, head: Head) -> None:
        self.head = head.eval()

    def decoder(self, tag_ids: Ints, tag_mask: Ints, tokens: Floats) -> TorchWriter:
        """What writes about N photos, for `anytag.generation`.

        Args:
            tag_ids, tag_mask: int64 N×S, from `WordPieces.tag_text`.
            tokens: float32 N×T×D, of the photos.
        """
        with torch.inference_mode():
            tensors = (_tensor(array, self.head) for array in (tag_ids, tag_mask, tokens))
            return TorchWriter(self.head, self.head.project_kv(self.head.encode_tags(*tensors)))

    def supports_length(self, length: int) -> bool:
        """Does the head have positions for captions of so many wordpieces, the prompt's included?"""
        return length - 1 <= self.head.config.positions  # the last one is never read


@dataclass(frozen=True, eq=False)
class TorchWriter:
    """An `anytag.generation.Decoder`; as `OnnxCaptionDecoder`, but its state stays where the weights are."""

    head: Head
    memory: Tensor

    def start(self, prompts: Ints) -> tuple[Floats, State]:
        """Prompts N×L -> scores of the next wordpiece N×V, and the state."""
        ids = _tensor(prompts, self.head)
        return self._read(ids, (self.memory, self.head.nothing(ids)))

    def step(self, ids: Ints, state: State) -> tuple[Floats, State]:
        """One wordpiece of each text, N -> scores of the next N×V, and the state."""
        return self._read(_tensor(ids[:, None], self.head), state)

    def reorder(self, state: State, index: Ints) -> State:
        """The state of the texts at `index`."""
        memory, past = state
        rows = _tensor(index, self.head)
        return memory[:, :, rows], past[:, :, rows]

    def _read(self, ids: Tensor, state: State) -> tuple[Floats, State]:
        memory, past = state
        with torch.inference_mode():
            logits, past = self.head.go_on(ids, memory, past)
            return logits.float().cpu().numpy(), (memory, past)


def _tensor(array: Array, head: Head) -> Tensor:
    """A copy where the weights are; torch takes no negative strides and no read-only memory."""
    return torch.tensor(np.ascontiguousarray(array), device=head.bias.device)
