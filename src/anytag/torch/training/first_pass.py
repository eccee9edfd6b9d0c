"""Loss terms of a student with a first pass, which predicts all tags from the pooled vector: `mini`.

If no stage is trained, only pooled features are cached: then these terms use the first pass only.
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
from anytag.torch.training.student import Outputs, Student, Term


def pass_logits(outputs: Outputs, batch: Batch) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits of both passes with their columns: the first pass for all K tags, the decoder for M."""
    assert outputs.coarse is not None  # the student has a first pass
    every = torch.arange(outputs.coarse.shape[1], device=outputs.coarse.device)
    yield outputs.coarse, every
    if outputs.logits is not None:
        yield outputs.logits, every if batch.columns is None else batch.columns


class CoarseTerm(Term):
    """The term "coarse": tag loss of the first pass."""

    def forward(self, student: Student, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        objective, (coarse, _) = student.objective, next(pass_logits(outputs, batch))
        costs = asymmetric_loss(
            coarse, batch.require("tags"), gamma_neg=objective.gamma_neg, clip=objective.clip
        )
        return {"coarse": student.reduce(costs if batch.weight is None else costs * batch.weight)}


class QueryTerm(Term):
    """The terms "alignment" and "contrast": captions as queries, for all pairs of this process.

    Equal captions are not negatives of each other.
    """

    def forward(self, student: Student, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        texts = batch.require("texts")
        has_caption = texts.any(1)
        if not has_caption.any():
            return {name: outputs.pooled.sum() * 0 for name in ("alignment", "contrast")}
        texts = texts[has_caption]
        rows, same = student.queries.projection(texts)[:, None], same_texts(texts, texts)  # B×1×D
        logits = [student.network.folded.coarse(outputs.pooled[has_caption], rows).float()]
        if outputs.tokens is not None:
            logits.append(
                student.network.decoder(outputs.tokens[has_caption], outputs.pooled[has_caption], rows[None])
            )
        gamma = student.objective.alignment_gamma_neg
        contrasts = torch.stack([contrast_loss(one, same) for one in logits])
        return {"alignment": alignment_loss(logits[-1], same, gamma_neg=gamma), "contrast": contrasts.mean()}


class SubjectTerm(Term):
    """The term "subject": loss of photos whose main subject is known, as a mean over all photos.

    Args:
        rivals: bool K×K, which tags (second index) exclude the main subject (first index).
    """

    rivals: Tensor

    def __init__(self, rivals: Tensor) -> None:
        super().__init__()
        self.register_buffer("rivals", rivals, persistent=False)

    def forward(self, student: Student, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        losses = [self._loss(logits, batch, columns) for logits, columns in pass_logits(outputs, batch)]
        return {"subject": torch.stack(losses).mean()}

    def _loss(self, logits: Tensor, batch: Batch, columns: Tensor) -> Tensor:
        subject, tags = batch.require("subject"), batch.require("tags")
        known = subject >= 0
        if not known.any():
            return logits.sum() * 0
        subject, present = subject[known], tags[known][:, columns] > 0.99
        rivals = self.rivals[subject][:, columns] & ~present
        loss = subject_loss(logits[known], present, subject[:, None] == columns, rivals)
        return loss.sum() / len(logits)


class ClassTerm(Term):
    """The term "distillation": softmax over the classes of a classifier, in both passes and the evidence.

    Args:
        tags: int64, the tag of each class.
        distilled: int64, the classes that are distilled.
    """

    tags: Tensor
    distilled: Tensor

    def __init__(self, tags: Tensor, distilled: Tensor) -> None:
        super().__init__()
        self.register_buffer("tags", tags, persistent=False)
        self.register_buffer("distilled", distilled, persistent=False)

    def forward(self, student: Student, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        teacher, tags = batch.require("teacher")[:, self.distilled], self.tags[self.distilled]
        coarse, _ = next(pass_logits(outputs, batch))
        losses = []
        for logits, columns in pass_logits(outputs, batch):
            position = torch.full((coarse.shape[1],), -1, device=tags.device)
            position[columns] = torch.arange(len(columns), device=tags.device)
            scored = (position[tags] >= 0).nonzero().squeeze(1)
            losses.append(
                distillation_loss(
                    logits[:, position[tags[scored]]], teacher[:, scored],
                    temperature=student.objective.temperature,
                )
            )  # fmt: skip
        evidence = student.network.encoder.evidence
        if evidence is not None:
            classified = evidence.classifier(outputs.features).float()
            every = batch.require("teacher")
            losses.append(distillation_loss(classified, every, temperature=student.objective.temperature))
        return {"distillation": torch.stack(losses).mean()}


def class_term(student: Student) -> ClassTerm:
    """The student's distillation term."""
    return next(term for term in student.terms if isinstance(term, ClassTerm))
