"""Evaluate a student on held-out photos."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from accelerate.utils import gather_object

from anytag._typing import Floats
from anytag.evaluation.metrics import mean_average_precision
from anytag.torch.training.batch import Dataset
from anytag.torch.training.distributed import processes
from anytag.torch.training.student import Student

BATCH = 32


def held_out_logits(student: Student, dataset: Dataset) -> Floats:
    """Logits N×K of a dataset's held-out photos; a collective operation that returns all in every process."""
    count, tags = (0, 0) if dataset.truth is None else dataset.truth.shape
    local = _local_logits(student, dataset, tags)
    if processes() == 1:
        return local
    logits = np.stack(gather_object([local]), 1)  # photo n was scored by process n % world
    return logits.reshape(-1, logits.shape[-1])[:count]


@torch.no_grad()
def _local_logits(student: Student, dataset: Dataset, tags: int) -> Floats:
    student.eval()
    device = next(student.parameters()).device
    batches = dataset.held_out(batch_size=BATCH)
    logits = [student.logits(pixels.to(device)).cpu().numpy() for pixels in batches]
    return np.concatenate([np.zeros((0, tags), np.float32), *logits])


def held_out_figures(logits: Floats, truth: npt.NDArray[np.bool_]) -> dict[str, float]:
    """mAP of N×K logits over the tags that any photo has; {} if no photo has a tag."""
    return {"mAP": mean_average_precision(logits, truth)[0]} if truth.any() else {}
