"""The parts of anytag, and its baselines, as functions that process many photos on one thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from baselines import BATCH, WIDTH

from anytag.images import Resample, load, prepare
from anytag.models.folder import ModelFolder
from anytag.queries.build import Questions
from anytag.queries.score import Question
from anytag.runtime.onnx import IMAGE, OnnxRuntime

Array = npt.NDArray[Any]


def session(graph: Path) -> Callable[[Array], Array]:
    """Open a graph of one input in a session of one thread: a function from its input to its first output."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    opened = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    name, output = opened.get_inputs()[0].name, opened.get_outputs()[0].name
    return lambda array: np.asarray(opened.run([output], {name: array})[0])


def decode(paths: Sequence[Path], size: int, resample: Resample = "bilinear") -> Iterator[Array]:
    """Decode photos with anytag's decoder, in full batches: uint8 8×3×S×S each."""
    for start in range(0, len(paths), BATCH):
        batch = paths[start : start + BATCH]
        yield np.stack([prepare(load(path, min_side=size), size=size, resample=resample) for path in batch])


class Parts:
    """The parts of one model. Each method processes all of `paths`, a multiple of 8."""

    def __init__(self, model: ModelFolder, paths: Sequence[Path]) -> None:
        self.paths = paths
        self.spec = model.card.image
        self.bare = session(model.file(IMAGE))
        self.runtime = OnnxRuntime(model, device="cpu")
        questions = Questions(model)
        self.tags = len(questions.vocabulary)
        self.shortlisted = questions.prepare(None, also=None, top_k=None, threshold=None)
        # any threshold decodes every tag; at 1 no result is kept, so that writing them does not count
        self.everything = questions.prepare(None, also=None, top_k=None, threshold=1.0)
        self.pixels = list(self._decoded())
        self.encoded = [self.runtime.encode(batch) for batch in self.pixels]

    def _decoded(self) -> Iterator[Array]:
        return decode(self.paths, self.spec.size, self.spec.resample)

    def decode(self) -> None:
        """Decode files to squares, and nothing else."""
        for _ in self._decoded():
            pass

    def floor(self) -> None:
        """Decode files to squares, and run only the backbone."""
        for batch in self._decoded():
            self.bare(batch)

    def backbone(self) -> None:
        """Run only the backbone."""
        for batch in self.pixels:
            self.bare(batch)

    def first_pass(self) -> None:
        """Run the tag decoder as by default: all tags in the first pass, the likeliest decoded."""
        self._answer(self.shortlisted)

    def all_tags(self) -> None:
        """Run the tag decoder on every tag."""
        self._answer(self.everything)

    def _answer(self, question: Question) -> None:
        for tokens, pooled in self.encoded:
            question.answer(self.runtime, tokens, pooled)


def baseline(graph: Path, paths: Sequence[Path], *, size: int, tags: int) -> Callable[[], None]:
    """Return a baseline: files to squares, its image encoder, then a dot product with each tag's vector."""
    encoder = session(graph)
    texts = np.random.default_rng(0).normal(size=(WIDTH, tags)).astype(np.float32)

    def run() -> None:
        for batch in decode(paths, size):
            encoder(batch) @ texts

    return run
