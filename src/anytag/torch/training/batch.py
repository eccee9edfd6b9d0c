"""One step, as every student reads it: what is seen of N photos, and what is known and said of them."""

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
    """N photos, or captions of them; what a recipe does not read is None or empty.

    Attributes:
        pixels: uint8 N×3×S×S, one crop for student and teacher.
        features: of cached features, what the first trained stage expects: N×C×h×w; or N×C, the mean of the
            last features, where no stage is trained.
        memory: N×F beside them, what the frozen branch gives of the photos.
        tokens: N×T×D of a frozen encoder.
        tags: N×K in [0, 1], that a tag is in the photo.
        weight: N×K, how much an entry counts; 0 where nobody says. All count alike when None.
        columns: int64 M, tags that the decoder looks at in this step, of all photos; all K when None.
        subject: int64 N, the tag of a photo's main subject where that is all that is known; else -1.
        teacher: N×D that it makes of the same crop, or N×1000 logits of a classifier.
        texts: N×W unit vectors of a caption each, zeros where a photo has none.
        tag_ids, tag_mask: int64 N×S, wordpieces of the tags' text; the mask is 0 at padding.
        caption_ids: int64 N×L, wordpieces of a caption each; 0 is padding.
        pair_ids: int64 N×2, number of photo and of text, not negative and from `text_numbers`; pairs that
            have either in common are no negatives of each other.
        trust: N, share of the contrast's targets that is the momentum encoder's; the objective's when None.
        captions: a caption each, cleaned; "" where there is none.
        named: the tags that the caption names, for each photo.
        numbers: of the photos in their dataset.
        unread: photos that could not be read and were replaced, each with the reason.
    """

    pixels: Tensor | None = None
    features: Tensor | None = None
    memory: Tensor | None = None
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
    named: list[tuple[str, ...]] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    unread: list[tuple[str, str]] = field(default_factory=list)

    def tensors(self) -> dict[str, Tensor]:
        """What is there, by name."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def need(self, name: str) -> Tensor:
        """A tensor that a term cannot do without.

        Raises:
            ModelError: it is not there.
        """
        found = self.tensors().get(name)
        if found is None:
            raise ModelError(
                f"this objective reads {name} of a batch, and there is none: take another recipe"
            )
        return found

    def take(self, part: slice) -> Batch:
        """Some of the photos, as tensors alone."""
        if part == slice(0, None, 1):
            return self
        parts = {name: x if name == "columns" else x[part] for name, x in self.tensors().items()}
        return replace(Batch(), **parts)  # type: ignore[arg-type]  # tensors, by the names of such fields

    def to(self, device: torch.device) -> Batch:
        """The same with its tensors on a device."""
        there = {name: x.to(device, non_blocking=True) for name, x in self.tensors().items()}
        return replace(self, **there)  # type: ignore[arg-type]


class Dataset(Protocol):
    """Batches of one process: its share of each step, the same whenever it is asked.

    Attributes:
        key: of the rows and tags that are learned from; a run goes on only where it is the same.
        tallies: what was passed over so far.
    """

    @property
    def key(self) -> str: ...

    @property
    def tallies(self) -> tuple[Tally, ...]: ...

    def steps_per_epoch(self) -> int:
        """Whole batches in the data.

        Raises:
            AnytagError: there is less than a batch takes.
        """

    def stream(self, first: int, last: int) -> Iterator[Batch]:
        """The steps of the whole run from `first` to `last`, exclusive."""

    def held_out(self, *, batch_size: int) -> Iterator[Tensor]:
        """uint8 N×3×S×S of this process's held-out photos; every process has as many."""

    @property
    def truth(self) -> npt.NDArray[np.bool_] | None:
        """Bool N×K of all held-out photos; None where there are none."""
