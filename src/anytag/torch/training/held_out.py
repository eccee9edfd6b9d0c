"""How good a student is on photos that it does not learn from."""

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
    """Of every tag in a dataset's held-out photos, N×K; every process has to ask, and gets all."""
    count, tags = (0, 0) if dataset.truth is None else dataset.truth.shape
    mine = _of_this_process(student, dataset, tags)
    if processes() == 1:
        return mine
    logits = np.stack(gather_object([mine]), 1)  # photo n was read by process n % world
    return logits.reshape(-1, logits.shape[-1])[:count]


@torch.no_grad()
def _of_this_process(student: Student, dataset: Dataset, tags: int) -> Floats:
    student.eval()
    device = next(student.parameters()).device
    batches = dataset.held_out(batch_size=BATCH)
    found = [student.logits(pixels.to(device)).cpu().numpy() for pixels in batches]
    return np.concatenate([np.zeros((0, tags), np.float32), *found])


def held_out_figures(logits: Floats, truth: npt.NDArray[np.bool_]) -> dict[str, float]:
    """mAP of N×K logits over the tags that any photo has; nothing where none has one."""
    return {"mAP": mean_average_precision(logits, truth)[0]} if truth.any() else {}
