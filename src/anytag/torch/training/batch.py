"""The batch of a training step, and the protocol of datasets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from anytag.errors import ModelError
from anytag.torch.training.report import Tally


@dataclass
class Batch:
    """A batch of N photos, or of N captions; fields that a recipe does not use are None or empty.

    Attributes:
        pixels: uint8 N×3×S×S, the same crop for student and teacher.
        features: cached features, the input of the first trained stage: N×C×h×w; or pooled features N×C
            where no stage is trained.
        tokens: N×T×D, image tokens of a frozen encoder.
        tags: N×K in [0, 1], targets of the tags.
        weight: N×K, weights of the targets, 0 for unknown ones; None: all are 1.
        columns: int64 M, columns of the tags that the decoder scores in this step; None: all K.
        subject: int64 N, column of the photo's main subject if nothing else is known of it; else -1.
        teacher: N×D, the teacher's vectors of the same crop, or N×1000, logits of a classifier.
        texts: N×W, unit vectors of one caption per photo, zeros for a photo without caption.
        tag_ids, tag_mask: int64 N×S, wordpieces of the tags' text; the mask is 0 at padding.
        caption_ids: int64 N×L, wordpieces of one caption per photo; 0 is padding.
        pair_ids: int64 N×2, ids of photo and text, which are not negative (texts: `text_numbers`); pairs with
            an id in common are not negatives of each other.
        trust: N, weight of the momentum encoder's soft targets (ALBEF's alpha); None: the objective's.
        captions: one cleaned caption per photo, "" for a photo without caption.
        caption_tags: names of the tags in each caption.
        numbers: indices of the photos in their dataset.
        unreadable: photos that could not be read and were replaced, with the reasons.
    """

    pixels: Tensor | None = None
    features: Tensor | None = None
    tokens: Tensor | None = None
    tags: Tensor | None = None
    weight: Tensor | None = None
    columns: Tensor | None = None
    subject: Tensor | None = None
    teacher: Tensor | None = None
    texts: Tensor | None = None
    tag_ids: Tensor | None = None
    tag_mask: Tensor | None = None
    caption_ids: Tensor | None = None
    pair_ids: Tensor | None = None
    trust: Tensor | None = None
    captions: list[str] = field(default_factory=list)
    caption_tags: list[tuple[str, ...]] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that are not None, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def require(self, name: str) -> Tensor:
        """A tensor that a loss term needs.

        Raises:
            ModelError: the batch does not have it.
        """
        tensor = self.tensors().get(name)
        if tensor is None:
            raise ModelError(
                f"this objective needs {name}, which the batches do not have: choose another recipe"
            )
        return tensor

    def take(self, part: slice) -> Batch:
        """The tensors of some of the photos."""
        if part == slice(0, None, 1):
            return self
        parts = {name: x if name == "columns" else x[part] for name, x in self.tensors().items()}
        return replace(Batch(), **parts)  # type: ignore[arg-type]  # only fields that are tensors

    def to(self, device: torch.device) -> Batch:
        """The batch with its tensors on a device."""
        moved = {name: x.to(device, non_blocking=True) for name, x in self.tensors().items()}
        return replace(self, **moved)  # type: ignore[arg-type]


class Dataset(Protocol):
    """The batches of one process: its share of each step, reproducible from the step number.

    Attributes:
        key: hash of rows and tags; a run can be resumed only with the same one.
        tallies: counts of skipped items so far.
    """

    @property
    def key(self) -> str: ...

    @property
    def tallies(self) -> tuple[Tally, ...]: ...

    def steps_per_epoch(self) -> int:
        """Number of full batches in the data.

        Raises:
            AnytagError: there are fewer photos than a batch needs.
        """

    def stream(self, first: int, last: int) -> Iterator[Batch]:
        """The batches of the run's steps from `first` to `last`, exclusive."""

    def held_out(self, *, batch_size: int) -> Iterator[Tensor]:
        """Batches uint8 N×3×S×S of this process's held-out photos; all processes have equally many."""

    @property
    def truth(self) -> npt.NDArray[np.bool_] | None:
        """Bool N×K, the tags of all held-out photos; None if there are none."""
