"""The terms of a student whose pooled vector alone is to tell all tags too: `mini`.

Where no stage is trained, only means of features are known: then these terms see the first pass alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from anytag.torch.training.batch import Batch
from anytag.torch.training.losses import (
    alignment_loss,
    asymmetric_loss,
    contrast_loss,
    distillation_loss,
    same_texts,
    subject_loss,
)
from anytag.torch.training.student import Seen, Student, Term


def passes(seen: Seen, batch: Batch) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits of both passes over tags, each with its columns: the first of all K, the decoder's of M."""
    assert seen.coarse is not None  # there is a first pass
    every = torch.arange(seen.coarse.shape[1], device=seen.coarse.device)
    yield seen.coarse, every
    if seen.logits is not None:
        yield seen.logits, every if batch.columns is None else batch.columns


class CoarseTerm(Term):
    """ "coarse": the tags' loss of the first pass."""

    def forward(self, student: Student, seen: Seen, batch: Batch) -> dict[str, Tensor]:
        objective, (coarse, _) = student.objective, next(passes(seen, batch))
        costs = asymmetric_loss(
            coarse, batch.need("tags"), gamma_neg=objective.gamma_neg, clip=objective.clip
        )
        return {"coarse": student.reduced(costs if batch.weight is None else costs * batch.weight)}


class QueryTerm(Term):
    """ "alignment" and "contrast": every photo is asked with every caption of this process.

    Equal captions are no negatives of each other.
    """

    def forward(self, student: Student, seen: Seen, batch: Batch) -> dict[str, Tensor]:
        texts = batch.need("texts")
        told = texts.any(1)
        if not told.any():
            return {name: seen.pooled.sum() * 0 for name in ("alignment", "contrast")}
        texts = texts[told]
        rows, same = student.queries.projection(texts)[:, None], same_texts(texts, texts)  # B×1×D
        logits = [student.network.folded.coarse(seen.pooled[told], rows).float()]
        if seen.tokens is not None:
            logits.append(student.network.decoder(seen.tokens[told], seen.pooled[told], rows[None]))
        gamma = student.objective.alignment_gamma_neg
        contrasts = torch.stack([contrast_loss(one, same) for one in logits])
        return {"alignment": alignment_loss(logits[-1], same, gamma_neg=gamma), "contrast": contrasts.mean()}


class SubjectTerm(Term):
    """ "subject": of the photos whose main subject is known, a mean over all.

    Args:
        rivals: bool K×K, which tags a photo's main subject (first index) is not when it is this one.
    """

    rivals: Tensor

    def __init__(self, rivals: Tensor) -> None:
        super().__init__()
        self.register_buffer("rivals", rivals, persistent=False)

    def forward(self, student: Student, seen: Seen, batch: Batch) -> dict[str, Tensor]:
        losses = [self._loss(logits, batch, columns) for logits, columns in passes(seen, batch)]
        return {"subject": torch.stack(losses).mean()}

    def _loss(self, logits: Tensor, batch: Batch, columns: Tensor) -> Tensor:
        subject, tags = batch.need("subject"), batch.need("tags")
        known = subject >= 0
        if not known.any():
            return logits.sum() * 0
        subject, present = subject[known], tags[known][:, columns] > 0.99
        rivals = self.rivals[subject][:, columns] & ~present
        loss = subject_loss(logits[known], present, subject[:, None] == columns, rivals)
        return loss.sum() / len(logits)


class ClassTerm(Term):
    """ "distillation": a classifier's classes among themselves, all in the first pass, some in the decoder.

    Args:
        tags: int64, the tag of each class.
        taught: int64, which of the classes the classifier teaches.
    """

    tags: Tensor
    taught: Tensor

    def __init__(self, tags: Tensor, taught: Tensor) -> None:
        super().__init__()
        self.register_buffer("tags", tags, persistent=False)
        self.register_buffer("taught", taught, persistent=False)

    def forward(self, student: Student, seen: Seen, batch: Batch) -> dict[str, Tensor]:
        teacher, tags = batch.need("teacher")[:, self.taught], self.tags[self.taught]
        coarse, _ = next(passes(seen, batch))
        losses = []
        for logits, columns in passes(seen, batch):
            position = torch.full((coarse.shape[1],), -1, device=tags.device)
            position[columns] = torch.arange(len(columns), device=tags.device)
            there = (position[tags] >= 0).nonzero().squeeze(1)
            losses.append(
                distillation_loss(
                    logits[:, position[tags[there]]], teacher[:, there],
                    temperature=student.objective.temperature,
                )
            )  # fmt: skip
        return {"distillation": torch.stack(losses).mean()}


def class_term(student: Student) -> ClassTerm:
    """The student's."""
    return next(term for term in student.terms if isinstance(term, ClassTerm))
