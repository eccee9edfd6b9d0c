"""Captions without torch: the caption graphs of a model folder, run step by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from anytag.errors import ModelError
from anytag.runtime.onnx import CAPTION, MEMORY, OnnxRuntime

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
State = tuple[Floats, Floats]
"""What is looked at and what was read: keys and values, layers×2×N×heads×S×d and layers×2×N×heads×P×d."""


@dataclass(frozen=True)
class OnnxCaptions:
    """Runs caption_memory.onnx once for each photo and caption.onnx once for each wordpiece."""

    runtime: OnnxRuntime

    def about(self, tag_ids: Ids, tag_mask: Ids, tokens: Floats) -> OnnxWriter:
        """What writes about N photos, for `anytag.generation`.

        Args:
            tag_ids, tag_mask: int64 N×S, from `WordPieces.tag_text`.
            tokens: float32 N×T×D, of the photos.

        Raises:
            ModelError: the graph does not take these shapes, or is not there.
        """
        feeds: dict[str, npt.NDArray[Any]] = {"tag_ids": tag_ids, "tag_mask": tag_mask, "tokens": tokens}
        (memory,) = self.runtime.run(MEMORY, feeds)
        return OnnxWriter(self.runtime, memory)

    def takes(self, length: int) -> bool:
        """Does the graph have positions for captions of so many wordpieces, the prompt's included?"""
        layers, two, _, heads, _, depth = self.runtime.shapes(CAPTION)["memory"]

        def zeros(count: int) -> Floats:
            return np.zeros((int(layers), int(two), 1, int(heads), count, int(depth)), np.float32)

        # the last wordpiece is never read, and the one before it is what is read here
        feeds: dict[str, npt.NDArray[Any]] = {
            "ids": np.ones((1, 1), np.int64),
            "memory": zeros(1),
            "past": zeros(length - 2),
        }
        try:
            self.runtime.run(CAPTION, feeds, quiet=True)
        except ModelError:
            return False
        return True


@dataclass(frozen=True)
class OnnxWriter:
    """An `anytag.generation.Decoder` whose state is keys and values, so that nothing is read twice."""

    runtime: OnnxRuntime
    memory: Floats

    def start(self, prompts: Ids) -> tuple[Floats, State]:
        """Prompts N×L -> scores of the next wordpiece N×V, and the state."""
        layers, two, count, heads, _, depth = self.memory.shape
        nothing = np.zeros((layers, two, count, heads, 0, depth), np.float32)
        return self._read(prompts, (self.memory, nothing))

    def step(self, ids: Ids, state: State) -> tuple[Floats, State]:
        """One wordpiece of each text, N -> scores of the next N×V, and the state."""
        return self._read(ids[:, None], state)

    def reorder(self, state: State, index: Ids) -> State:
        """The state of the texts at `index`."""
        memory, past = state
        return memory[:, :, index], past[:, :, index]

    def _read(self, ids: Ids, state: State) -> tuple[Floats, State]:
        memory, past = state
        logits, grown = self.runtime.run(CAPTION, {"ids": ids, "memory": memory, "past": past})
        return logits, (memory, grown)
