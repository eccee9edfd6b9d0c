"""The terms of the loss that photos and captions give.

They are means over photos of sums over tags, so that a figure reads as "per photo" and does not depend on the
batch or on how many processes share it. The published sums over a batch (`Objective.sums`) differ from them
by a factor, which AdamW does not see; where it weighs terms against each other, `weights.distillation` makes
up for it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from anytag.errors import ModelError
from anytag.torch.training.alignment import alignment_losses, read_pairs
from anytag.torch.training.batch import Batch
from anytag.torch.training.chunked_loss import chunked_sum
from anytag.torch.training.distributed import gather, mean_over_ranks, process_index
from anytag.torch.training.losses import asymmetric_loss, caption_labels, caption_loss, same_texts
from anytag.torch.training.objectives import Objective
from anytag.torch.training.student import Seen, Student, Term


def terms_of(objective: Objective) -> list[Term]:
    """What an objective asks of a network that sees photos, or of a caption head on a frozen encoder."""
    found: list[tuple[bool, type[Term]]] = [
        (objective.tags, TagTerm),
        (objective.captions, CaptionTerm),
        (objective.matching is not None, PairTerm),
        (objective.distils, DistillationTerm),
        (objective.aligns, AlignmentTerm),
    ]
    return [term() for there, term in found if there]


class TagTerm(Term):
    """ "tag": asymmetric loss of all known tags, a sum for each photo; or an estimate of it from some.

    The estimate takes all tags that a photo of the batch has, and draws among the others, each of which
    stands for several: its mean over draws is the loss of all.
    """

    def forward(self, student: Student, seen: Seen, batch: Batch) -> dict[str, Tensor]:
        tags, objective = batch.need("tags"), student.objective
        if seen.tokens is None:
            return {}  # of means alone, the first pass learns
        if seen.logits is not None:  # of columns that were drawn already
            columns = torch.arange(tags.shape[1]) if batch.columns is None else batch.columns
            costs = asymmetric_loss(
                seen.logits, tags[:, columns], gamma_neg=objective.gamma_neg, clip=objective.clip
            )
            weight = 1.0 if batch.weight is None else batch.weight[:, columns]
            return {"tag": student.reduced(costs * weight) * (tags.shape[1] / len(columns))}
        return {"tag": self._chunked(student, (seen.tokens, seen.pooled), tags, batch.weight)}

    def _chunked(
        self, student: Student, shared: tuple[Tensor, Tensor], tags: Tensor, known: Tensor | None
    ) -> Tensor:
        """Forward and backward a chunk of tags at a time."""
        objective, rows = student.objective, student.queries()
        weight = torch.ones(1, tags.shape[1], device=tags.device)  # 1×K, or N×K
        if student.sampled:
            columns, weight = _sample(tags, student.sampled)
            rows, tags = rows[:, columns], tags[:, columns]
            known = None if known is None else known[:, columns]
        weight = weight if known is None else weight * known
        targets, weights = torch.split(tags, student.chunk, 1), torch.split(weight, student.chunk, 1)

        def loss(number: int, piece: Tensor, tokens: Tensor, pooled: Tensor) -> Tensor:
            logits = student.ask(tokens, pooled, piece)
            costs = asymmetric_loss(
                logits, targets[number], gamma_neg=objective.gamma_neg, clip=objective.clip
            )
            return student.reduced(costs * weights[number])

        pieces = torch.split(rows, student.chunk, 1)
        learned = list(student.network.decoder.parameters())
        return chunked_sum(loss, pieces, shared, learned=learned, scale=student.scale())


def _sample(tags: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Columns of the tags N×K that any photo has and of `count` others at most, and what each stands for."""
    drawn = torch.randperm(tags.shape[1])[:count].to(tags.device)  # the same in all processes
    present = (tags > 0).any(0)
    weight = torch.ones(1, tags.shape[1], device=tags.device)
    weight[:] = (~present).sum() / (~present[drawn]).sum().clamp_min(1)
    weight[:, present] = 1
    columns = torch.cat([present.nonzero().squeeze(1), drawn[~present[drawn]]])
    return columns, weight[:, columns]


class CaptionTerm(Term):
    """ "caption": a mean over the labelled wordpieces of all processes, as if they were one."""

    def forward(self, student: Student, seen: Seen, batch: Batch) -> dict[str, Tensor]:
        head, ids = student.network.captions, batch.caption_ids
        if head is None or ids is None or seen.tags is None:
            raise ModelError("this objective needs a caption head and wordpieces; give wordpieces=vocab.txt")
        logits, _ = head.decode(ids, head.project_kv(seen.tags), mask=ids != 0)
        labels = caption_labels(ids, unlearned=student.prompt_length)
        mine = (labels[:, 1:] >= 0).sum()
        share = mine / mean_over_ranks(mine.float()).clamp_min(1)
        return {"caption": caption_loss(logits, labels, smoothing=student.objective.smoothing) * share}


class PairTerm(Term):
    """ "contrast" and "match" of the photos with their captions."""

    def forward(self, student: Student, seen: Seen, batch: Batch) -> dict[str, Tensor]:
        head, matching, momentum = student.network.alignment, student.objective.matching, student.momentum
        if momentum is None:
            return {}
        assert matching is not None and seen.tokens is not None
        read = read_pairs(head, seen.tokens, seen.pooled, seen.tags, batch.need("caption_ids"))
        trust = matching.trust if batch.trust is None else batch.trust
        return alignment_losses(head, read, momentum, batch, alpha=trust)


class DistillationTerm(Term):
    """ "distillation": the pooled vector is drawn to the teacher's."""

    def forward(self, student: Student, seen: Seen, batch: Batch) -> dict[str, Tensor]:
        return {} if batch.teacher is None else {"distillation": F.l1_loss(seen.pooled, batch.teacher)}


class AlignmentTerm(Term):
    """ "alignment": each photo is asked with the captions of all processes."""

    def forward(self, student: Student, seen: Seen, batch: Batch) -> dict[str, Tensor]:
        texts, objective = batch.texts, student.objective
        if texts is None or seen.tokens is None:
            return {}
        everyone = gather(texts)
        if objective.same_captions_match:
            same = same_texts(texts, everyone)  # n×B
        else:
            own = torch.eye(len(everyone), dtype=torch.bool, device=texts.device)
            same = own[process_index() * len(texts) :][: len(texts)]
        logits = student.ask(seen.tokens, seen.pooled, student.queries.ask(everyone))
        costs = asymmetric_loss(logits, same.float(), gamma_neg=objective.alignment_gamma_neg)
        return {"alignment": student.reduced(costs * (texts.any(1)[:, None] & everyone.any(1)))}
