"""Caption heads in torch, with the interface of `anytag.runtime.caption_onnx.OnnxCaptions`."""

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
    """Run a caption head on the device of its weights, without gradients.

    Args:
        head: the caption head; it is set to evaluation mode.
    """

    def __init__(self, head: Head) -> None:
        self.head = head.eval()

    def decoder(self, tag_ids: Ints, tag_mask: Ints, tokens: Floats) -> TorchCaptionDecoder:
        """The decoder for N photos, as `anytag.generation` uses it.

        Args:
            tag_ids, tag_mask: int64 N×S, from `WordPieces.tag_text`.
            tokens: float32 N×T×D, the image tokens.
        """
        with torch.inference_mode():
            tensors = (_tensor(array, self.head) for array in (tag_ids, tag_mask, tokens))
            return TorchCaptionDecoder(self.head, self.head.project_kv(self.head.encode_tags(*tensors)))

    def supports_length(self, length: int) -> bool:
        """Whether the head has positions for `length` wordpieces, the prompt included."""
        return length - 1 <= self.head.config.positions  # the last wordpiece is never an input


@dataclass(frozen=True, eq=False)
class TorchCaptionDecoder:
    """An `anytag.generation.Decoder`, like that of `OnnxCaptions`; its state stays on the device."""

    head: Head
    memory: Tensor

    def start(self, prompts: Ints) -> tuple[Floats, State]:
        """Prompts N×L -> logits of the next wordpiece N×V, and the state."""
        ids = _tensor(prompts, self.head)
        return self._read(ids, (self.memory, self.head.empty_past(ids)))

    def step(self, ids: Ints, state: State) -> tuple[Floats, State]:
        """The last wordpiece of each text, N -> logits of the next one N×V, and the state."""
        return self._read(_tensor(ids[:, None], self.head), state)

    def reorder(self, state: State, index: Ints) -> State:
        """The state of the texts at `index`."""
        memory, past = state
        rows = _tensor(index, self.head)
        return memory[:, :, rows], past[:, :, rows]

    def _read(self, ids: Tensor, state: State) -> tuple[Floats, State]:
        memory, past = state
        with torch.inference_mode():
            logits, past = self.head.next_logits(ids, memory, past)
            return logits.float().cpu().numpy(), (memory, past)


def _tensor(array: Array, head: Head) -> Tensor:
    """A copy on the device of the weights: torch accepts neither negative strides nor read-only memory."""
    return torch.tensor(np.ascontiguousarray(array), device=head.bias.device)
